"""torch-sim steps several systems at once: energies, forces and stresses are those of the calculator, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones
from charged_toys import ChargedToy, ion, toy_energy
from rigid_ions import RigidIons, rock_salt
from toy_calculator import Toy, molecule

from les_plugins.data.batch import BatchResult, evaluate_one_by_one
from les_plugins.data.labels import BORN
from les_plugins.errors import ConfigError, DataError, GeometryError, LesPluginsWarning
from les_plugins.hosting import registry as plugins
from les_plugins.model.long_range import LongRange
from les_plugins.testing import waters

ts = pytest.importorskip("torch_sim", reason="torch-sim is not installed (extra torch-sim)")
from torch_sim.models.interface import validate_model_outputs  # noqa: E402 (skipped above where it is missing)
from torch_sim.units import MetalUnits  # noqa: E402

from les_plugins.engines.torch_sim import CalculatorModel, atoms_of, momenta_of, state_from_atoms  # noqa: E402

HOSTS = {"mace": "mace", "nequip": "nequip", "sevennet": "sevenn", "matgl": "matgl"}
INSTALLED = [name for name, module in HOSTS.items() if find_spec(module)]


def nve(model: CalculatorModel, dt: torch.Tensor, kT: torch.Tensor) -> tuple[Any, Any]:
    """What begins a run, of a state and a seed, and what steps it; torch-sim 0.3 makes both, 0.6 has functions."""
    if hasattr(ts, "nve"):
        begin, step = ts.nve(model, dt=dt, kT=kT)
        return begin, step

    def start(state: Any, seed: int | None = None) -> Any:
        state.rng = seed
        return ts.nve_init(state, model, kT=kT)

    return start, lambda state: ts.nve_step(state, model, dt=dt)


def langevin(seed: int, state: Any) -> dict[str, Any]:
    """Arguments of `integrate` for Langevin dynamics with a seed of the momenta."""
    if hasattr(ts, "nvt_langevin"):
        return {"integrator": ts.nvt_langevin, "seed": seed, "system": state}
    state.rng = seed
    return {"integrator": ts.Integrator.nvt_langevin, "system": state}


def opened(atoms: Atoms) -> Atoms:
    atoms.set_cell(None)
    atoms.pbc = False
    return atoms


def salts() -> list[Atoms]:
    """Three different crystals: cubic, triclinic, stretched."""
    frames = [rock_salt(cubic=True), rock_salt(), rock_salt(cubic=True)]
    frames[2].set_cell(np.diag([1.05, 0.97, 1.0]) @ frames[2].cell.array, scale_atoms=True)
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    return frames


def assert_same(found: dict[str, torch.Tensor], expected: BatchResult, rtol: float, atol: float) -> None:
    for name in found:
        np.testing.assert_allclose(found[name].numpy(), getattr(expected, name), rtol=rtol, atol=atol)


@pytest.mark.parametrize("shape", [list, lambda frames: [opened(atoms) for atoms in frames]], ids=["periodic", "open"])
def test_any_calculator_serves_one_system_after_the_other(shape: Any) -> None:
    frames = shape(salts())
    model = CalculatorModel(RigidIons())
    state = state_from_atoms(frames, model)
    found = model(state)
    assert set(found) == {"energy", "forces", *(["stress"] if frames[0].pbc.all() else [])}
    assert_same(found, evaluate_one_by_one(RigidIons(), frames), rtol=0, atol=0)  # the same operations
    assert {value.dtype for value in found.values()} == {torch.float64}
    as_dictionary = {
        name: getattr(state, name) for name in ("positions", "cell", "pbc", "atomic_numbers", "system_idx")
    }
    assert torch.equal(model(as_dictionary)["forces"], found["forces"])


def test_torch_sims_own_check_of_a_model_passes() -> None:
    calculator = LennardJones(sigma=2.0, epsilon=0.01, rc=5.0)  # knows the silicon and iron of that check
    validate_model_outputs(CalculatorModel(calculator), torch.device("cpu"), torch.float64)


def test_the_total_charge_of_a_system_is_that_of_its_state_or_the_calculators_own() -> None:
    calculator = ChargedToy()
    calculator.total_charge = 0.5
    model = CalculatorModel(calculator, compute_stress=False)
    state = state_from_atoms([ion(), ion()], model)
    names = ("positions", "row_vector_cell", "atomic_numbers", "system_idx", "pbc")
    newer = SimpleNamespace(**{name: getattr(state, name) for name in names}, charge=torch.tensor([-1.0, 0.0]))
    energies = [calculator.get_property("energy", atoms) for atoms in atoms_of(newer)]
    assert energies == pytest.approx([toy_energy(ion(), -1.0), toy_energy(ion(), 0.5)], rel=1e-12)
    assert model(state)["energy"].tolist() == pytest.approx([toy_energy(ion(), 0.5)] * 2, rel=1e-12)


def test_a_state_gives_back_the_structures_it_was_made_of() -> None:
    frames = salts()
    back = atoms_of(state_from_atoms(frames, CalculatorModel(RigidIons())))
    for given, found in zip(frames, back, strict=True):
        assert (given.numbers == found.numbers).all()
        assert (given.pbc == found.pbc).all()
        np.testing.assert_array_equal(given.positions, found.positions)
        np.testing.assert_array_equal(given.cell.array, found.cell.array)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every evaluation of a long-range part."""
    counted: list[int] = []
    forward = LongRange.forward

    def count(*arguments: Any, **named: Any) -> Any:
        counted.append(1)
        return forward(*arguments, **named)

    monkeypatch.setattr(LongRange, "forward", count)
    return counted


@pytest.fixture(params=INSTALLED or [None])
def contract(request: pytest.FixtureRequest) -> Any:
    """What makes tiny models of a host, and their calculators."""
    if request.param is None:
        pytest.skip("no host is installed whose models could be batched")
    return contract_of(request.param)


def contract_of(host: str) -> Any:
    contracts = plugins.host(host).contract()
    return (contracts[0] if isinstance(contracts, Sequence) else contracts)()


class TestHosts:
    """Attached models of the hosts that are installed beside torch-sim."""

    @pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
    def test_all_systems_of_a_state_in_one_evaluation_of_the_model(
        self, contract: Any, pbc: bool, calls: list[int]
    ) -> None:
        attached = contract.attached()
        frames = [waters(n, seed=n, pbc=pbc, edge=6.5 + 0.3 * n) for n in (2, 3, 1)]
        calculator = contract.calculator(attached)
        calculator.always = (BORN,)  # as molecular dynamics leaves it; not wanted here
        model = CalculatorModel(calculator)
        state = state_from_atoms(frames, model)
        calls.clear()
        found = model(state)
        assert len(calls) == 1
        assert ("stress" in found) is pbc
        expected = evaluate_one_by_one(contract.calculator(attached), frames)
        assert_same(found, expected, rtol=1e-11, atol=1e-10)  # sums in another order, over a few hundred terms
        assert np.ptp(expected.energy) > 0.1

    def test_a_field_acts_in_every_system_or_is_refused(self, contract: Any) -> None:
        calculator = contract.calculator(contract.attached())
        if not calculator.takes_external_field:
            pytest.skip("this host's adapter cannot apply fields yet")
        frames = [waters(n, seed=n, pbc=False) for n in (1, 2)]
        model = CalculatorModel(calculator)
        state = state_from_atoms(frames, model)
        without = model(state)["forces"]
        calculator.external_field = [0.0, 0.0, 0.1]
        with_field = model(state)["forces"]
        for number, atoms in enumerate(frames):
            mine = with_field[state.system_idx == number].numpy()
            np.testing.assert_array_equal(mine, calculator.get_property("forces", atoms))
            assert np.abs(mine - without[state.system_idx == number].numpy()).max() > 1e-3

    def test_dynamics_of_several_systems_are_those_of_each_alone(self, contract: Any) -> None:
        model = CalculatorModel(contract.calculator(contract.attached()))
        frames = [waters(n, seed=n) for n in (1, 2)]

        def positions(chosen: list[Atoms]) -> list[np.ndarray]:
            begin, step = nve(model, dt=torch.tensor(0.5e-3 * MetalUnits.time), kT=torch.tensor(0.0))
            state = begin(state_from_atoms(chosen, model))
            for _ in range(5):
                state = step(state)
            return [atoms.positions for atoms in atoms_of(state)]

        together, alone = positions(frames), [positions([atoms])[0] for atoms in frames]
        for first, second, start in zip(together, alone, frames, strict=True):
            np.testing.assert_allclose(first, second, rtol=0, atol=1e-10)  # Å; rounding of forces over five steps
            wrapped = start.get_positions(wrap=True)
            assert np.abs(first - wrapped).max() > 1e-5  # they moved


@pytest.mark.skipif("mace" not in INSTALLED, reason="MACE is not installed (extra mace)")
@pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
def test_torch_sims_own_wrapper_of_mace_gives_the_same_numbers(pbc: bool) -> None:
    from torch_sim.models.mace import MaceModel

    contract = contract_of("mace")
    attached = contract.attached()
    model = CalculatorModel(contract.calculator(attached))
    state = state_from_atoms([waters(n, seed=n, pbc=pbc) for n in (2, 3, 1)], model)
    theirs = MaceModel(attached, device=torch.device("cpu"), dtype=torch.float64, compute_stress=pbc)(state)
    for name, expected in model(state).items():
        # another list of neighbours, so sums in another order over a few hundred terms
        np.testing.assert_allclose(theirs[name].numpy(), expected.numpy(), rtol=1e-11, atol=1e-10)


def total_energies(timestep: float, time: float = 160.0) -> np.ndarray:
    """(steps, systems) eV of a run of three crystals from 300 K; timestep and time in fs."""
    model = CalculatorModel(RigidIons(), compute_stress=False)
    kT = torch.tensor(300.0 * MetalUnits.temperature, dtype=torch.float64)
    begin, step = nve(model, dt=torch.tensor(1e-3 * timestep * MetalUnits.time, dtype=torch.float64), kT=kT)
    state = begin(state_from_atoms(salts(), model), seed=5)
    found = []
    for _ in range(round(time / timestep)):
        state = step(state)
        kinetic = ts.calc_kinetic_energy(momenta=state.momenta, masses=state.masses, system_idx=state.system_idx)
        found.append((state.energy + kinetic).numpy())
    return np.array(found)


def test_the_energy_of_every_system_is_conserved_to_the_square_of_the_time_step() -> None:
    coarse, fine = (total_energies(step).std(0) for step in (8.0, 4.0))
    assert coarse.shape == (3,)
    assert (coarse < 2e-3).all()  # eV; 8 atoms at 300 K have 0.3 eV of kinetic energy
    np.testing.assert_allclose(coarse / fine, 4.0, rtol=0.15)  # what is left is of higher order


def test_langevin_through_torch_sims_runner_brings_every_system_to_its_temperature() -> None:
    torch.manual_seed(4)  # of the noise; the seed of the integrator is for the first momenta alone
    kinetic: list[np.ndarray] = []

    def watch(state: Any) -> None:
        energy = ts.calc_kinetic_energy(momenta=state.momenta, masses=state.masses, system_idx=state.system_idx)
        kinetic.append(energy.numpy())

    class Watched(CalculatorModel):
        def forward(self, state: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
            if hasattr(state, "momenta"):
                watch(state)
            return super().forward(state, **kwargs)

    model = Watched(RigidIons())
    gamma = torch.tensor(40.0 / MetalUnits.time, dtype=torch.float64)
    final = ts.integrate(
        **langevin(9, state_from_atoms([rock_salt(cubic=True), rock_salt(cubic=True)], model)),
        model=model,
        n_steps=200,
        temperature=300.0,
        timestep=0.004,  # ps
        gamma=gamma,
    )
    assert torch.isfinite(final.positions).all()
    if not hasattr(ts, "nvt_langevin"):  # 0.6 asks for forces within a step: whole steps, with its own functions
        kinetic.clear()
        kT = torch.tensor(300.0 * MetalUnits.temperature, dtype=torch.float64)
        dt = torch.tensor(0.004 * MetalUnits.time, dtype=torch.float64)
        model = CalculatorModel(RigidIons())
        state = ts.nvt_langevin_init(state_from_atoms([rock_salt(cubic=True)] * 2, model), model, kT=kT)
        for _ in range(200):
            state = ts.nvt_langevin_step(state, model, dt=dt, kT=kT, gamma=gamma)
            watch(state)
    temperature = 2.0 * np.mean(kinetic[50:], axis=0) / (3 * 8 * MetalUnits.temperature)
    # friction 40/ps over 0.6 ps: some ten independent samples of 24 degrees of freedom, 9 % of standard error
    assert ((temperature > 200.0) & (temperature < 400.0)).all()
    assert temperature[0] != temperature[1]


def test_velocities_of_structures_are_not_lost_in_silence() -> None:
    model, frames = CalculatorModel(RigidIons(), compute_stress=False), salts()
    for number, atoms in enumerate(frames):
        atoms.set_momenta(np.random.default_rng(number).normal(size=(len(atoms), 3)))
    kT = torch.tensor(0.025, dtype=torch.float64)
    begin, _ = nve(model, dt=torch.tensor(1e-3, dtype=torch.float64), kT=kT)
    with pytest.warns(LesPluginsWarning, match="structure 0 has velocities, which a state of torch-sim does not hold"):
        state = begin(state_from_atoms(frames, model), seed=5)
    state.momenta = momenta_of(frames, model)
    kinetic = ts.calc_kinetic_energy(momenta=state.momenta, masses=state.masses, system_idx=state.system_idx)
    np.testing.assert_allclose(kinetic.numpy(), [atoms.get_kinetic_energy() for atoms in frames], rtol=1e-12)


class TestRefused:
    def test_slabs_where_torch_sim_would_take_them_for_open_structures(self) -> None:
        slab = rock_salt(cubic=True)
        slab.pbc = (True, True, False)
        model = CalculatorModel(RigidIons())
        theirs = ts.io.atoms_to_state([slab], model.device, model.dtype).pbc
        if theirs is False:  # 0.3
            with pytest.raises(GeometryError, match="structure 0: pbc is T T F, which this torch-sim takes for"):
                state_from_atoms([slab], model)
        else:
            assert atoms_of(state_from_atoms([slab], model))[0].pbc.tolist() == [True, True, False]

    def test_a_wire(self) -> None:
        wire = rock_salt(cubic=True)
        wire.pbc = (True, False, False)
        with pytest.raises(GeometryError, match="structure 0: pbc is T F F; a wire"):
            state_from_atoms([wire], CalculatorModel(RigidIons()))

    def test_periodic_and_open_structures_in_one_state(self) -> None:
        with pytest.raises(GeometryError, match="structure 1: pbc is F F F, that of structure 0 T T T"):
            state_from_atoms([rock_salt(), opened(rock_salt())], CalculatorModel(RigidIons()))

    def test_constraints_strange_elements_and_nothing(self) -> None:
        from ase.constraints import FixAtoms

        fixed = molecule(0)
        fixed.set_constraint(FixAtoms([0]))
        with pytest.raises(DataError, match="structure 0: has constraints of ASE"):
            state_from_atoms([fixed], CalculatorModel(Toy()))
        with pytest.raises(DataError, match="structure 1: the model does not know Na, Cl"):
            state_from_atoms([molecule(0), opened(rock_salt())], CalculatorModel(Toy()))
        with pytest.raises(ConfigError, match="at least one structure"):
            state_from_atoms([], CalculatorModel(Toy()))

    def test_a_periodic_state_without_a_cell(self) -> None:
        model = CalculatorModel(RigidIons())
        state = state_from_atoms([opened(rock_salt())], model)
        state.pbc = True
        with pytest.raises((DataError, ValueError)):
            model(state)
