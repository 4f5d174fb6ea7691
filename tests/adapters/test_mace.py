"""The MACE adapter: what a MACE with a long-range part must fulfil whatever its weights are."""

import inspect

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
from ase import Atoms
from mace.cli import run_train
from mace_models import amplify, batch_of, tiny_mace, waters
from scipy.spatial.transform import Rotation

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.errors import ConfigError, DataError, DeviceError, HostError
from les_plugins.observables import enforce_asr

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}
#: Rounding of a few thousand float64 operations.
ROUNDING = 1e-11


def long_range_model(config=FULL, **options) -> LongRangeMACE:
    return amplify(les_plugins.attach(tiny_mace(**options), config))


def energy(model, atoms: Atoms) -> float:
    return model(batch_of([atoms]), compute_force=False)["energy"].item()


@pytest.fixture(scope="module")
def model() -> LongRangeMACE:
    return long_range_model()


@pytest.mark.parametrize("pbc", [True, False])
def test_zeroed_moments_give_maces_energy_forces_and_stress_back(pbc):
    base = tiny_mace()
    model = amplify(les_plugins.attach(tiny_mace(), FULL))
    model.long_range.zero()
    atoms = waters(pbc=pbc)
    ours = model(batch_of([atoms]), compute_stress=pbc)
    maces = base(batch_of([atoms]), compute_stress=pbc)
    for key in ("energy", "forces", "node_energy") + (("stress", "virials") if pbc else ()):
        torch.testing.assert_close(ours[key], maces[key], rtol=0, atol=1e-14)  # same operations: last digit only


def test_zero_init_starts_exactly_at_maces_predictions_and_can_leave_them():
    model = les_plugins.attach(tiny_mace(), {**FULL, "zero_init": True})
    atoms = waters()
    assert energy(model, atoms) == tiny_mace()(batch_of([atoms]))["energy"].item()
    optimizer = torch.optim.Adam(model.les_readouts.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        model(batch_of([atoms]), training=True)["energy"].sum().backward()  # lower is better: the coupling must grow
        optimizer.step()
    assert model(batch_of([atoms]))["long_range_energy"].abs().item() > 1e-8


@pytest.mark.parametrize("pbc", [True, False])
def test_forces_are_minus_the_central_difference_of_the_energy(model, pbc):
    atoms = waters(pbc=pbc)
    forces = model(batch_of([atoms]))["forces"]
    step = 1e-3
    for atom, axis in ((0, 0), (1, 1), (5, 2)):
        values = []
        for shift in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions[atom, axis] += shift * step
            values.append(energy(model, moved))
        # five-point formula: error step⁴ E⁽⁵⁾/30 plus rounding 1e-15·E/step, both below 1e-6 of the largest force
        difference = -(values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        assert abs(difference - forces[atom, axis].item()) < 1e-6 * forces.abs().max().item()


def test_stress_is_the_strain_derivative_of_the_energy(model):
    atoms = waters()
    stress = model(batch_of([atoms]), compute_stress=True)["stress"][0].numpy()
    step = 1e-4
    for strain in (np.diag([1.0, 0, 0]), np.diag([0, 1.0, 0]), np.array([[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])):
        values = []
        for shift in (-2, -1, 1, 2):
            deformed = atoms.copy()
            deformed.set_cell(atoms.cell.array @ (np.eye(3) + shift * step * strain), scale_atoms=True)
            values.append(energy(model, deformed))
        difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step) / atoms.get_volume()
        assert abs(difference - (stress * strain).sum()) < 1e-6 * np.abs(stress).max()  # as for the forces


def test_long_range_energy_is_a_visible_part_in_these_tests(model):
    output = model(batch_of([waters()]))
    assert output["long_range_energy"].abs().item() > 1e-2
    for moment in (output["latent"].charge, output["latent"].dipole, output["latent"].permanent.quadrupole):
        assert moment.abs().max().item() > 1e-3


@pytest.mark.parametrize("pbc", [True, False])
@pytest.mark.parametrize("improper", [False, True])
def test_energy_is_invariant_and_vectors_and_tensors_follow_a_rotation(model, pbc, improper):
    atoms = waters(pbc=pbc)
    rotation = Rotation.from_euler("zyx", [0.3, -1.1, 2.0]).as_matrix() * (-1 if improper else 1)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions @ rotation.T
    before, after = model(batch_of([atoms])), model(batch_of([turned]))
    turn = torch.tensor(rotation)
    assert abs(before["energy"].item() - after["energy"].item()) < ROUNDING * abs(before["energy"].item())
    torch.testing.assert_close(after["forces"], before["forces"] @ turn.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(after["latent"].dipole, before["latent"].dipole @ turn.T, rtol=0, atol=1e-11)
    for name in ("quadrupole",):
        tensor = getattr(before["latent"].permanent, name)
        torch.testing.assert_close(getattr(after["latent"].permanent, name), turn @ tensor @ turn.T, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        after["latent"].polarizability, turn @ before["latent"].polarizability @ turn.T, rtol=0, atol=1e-11
    )


def test_permuted_atoms_have_permuted_forces(model):
    atoms = waters()
    order = np.random.default_rng(1).permutation(len(atoms))
    before, after = model(batch_of([atoms])), model(batch_of([atoms[order]]))
    torch.testing.assert_close(after["forces"], before["forces"][torch.tensor(order)], rtol=0, atol=1e-11)


def test_a_mixed_batch_equals_its_structures_one_by_one(model):
    frames = [waters(seed=1), waters(2, seed=2, pbc=False), waters(3, seed=3)]
    together = model(batch_of(frames))
    single = [model(batch_of([atoms])) for atoms in frames]
    for key in ("energy", "forces", "node_energy", "long_range_energy", "latent_charges"):
        torch.testing.assert_close(together[key], torch.cat([one[key] for one in single]), rtol=0, atol=1e-10)


def test_atomic_energies_sum_to_the_total(model):
    output = model(batch_of([waters()]))
    assert abs(output["node_energy"].sum().item() - output["energy"].item()) < 1e-12 * abs(output["energy"].item())


def test_a_doubled_supercell_has_twice_the_energy(model):
    atoms = waters()
    assert abs(energy(model, atoms * (2, 1, 1)) - 2 * energy(model, atoms)) < 1e-10 * abs(energy(model, atoms))


def test_acoustic_sum_rule_holds_exactly_for_open_structures_and_can_be_enforced_in_periodic_ones(model):
    calculator = LesMACECalculator(model)
    born = calculator.get_property("born_effective_charges", waters(pbc=False))
    assert np.abs(born.sum(0)).max() < 1e-9 * np.abs(born).max()  # translation invariance, to rounding
    # periodic: charge flow is measured at the smallest k, not at k = 0; the violation is a finite-cell effect
    small = calculator.get_property("born_effective_charges", waters())
    assert np.abs(small.mean(0)).max() < 0.05 * np.abs(small).max()
    enforced = enforce_asr(torch.tensor(small), torch.zeros(len(small), dtype=torch.long))
    assert enforced.sum(0).abs().max().item() < 1e-12


def test_born_charges_of_a_molecule_are_the_derivative_of_its_dipole(model):
    calculator = LesMACECalculator(model)
    atoms = waters(2, pbc=False)
    born = calculator.get_property("born_effective_charges", atoms)
    total = calculator.get_property("charges", atoms).sum()
    step = 1e-4
    for atom, axis in ((0, 0), (4, 2)):
        dipoles = []
        for shift in (-step, step):
            moved = atoms.copy()
            moved.positions[atom, axis] += shift
            moved_dipole = calculator.get_property("dipole", moved)
            # Z* is that of the mean-free charges (see docs/decisions.md)
            moved_charge = calculator.get_property("charges", moved).sum() / len(atoms)
            dipoles.append(moved_dipole - moved_charge * moved.positions.sum(0))
        difference = (dipoles[1] - dipoles[0]) / (2 * step)
        np.testing.assert_allclose(born[atom, :, axis], difference, atol=1e-6 * np.abs(born).max())  # step² d³P/dr³
    assert np.isfinite(total)


def test_every_parameter_reaches_the_loss_of_energies_and_forces():
    for config in (FULL, {"response": {"charge": True, "dipole": "isotropic"}}, {**FULL, "heads": "edge"}):
        model = long_range_model(config)
        output = model(batch_of([waters()]), training=True)
        (output["energy"].sum() + output["forces"].square().sum()).backward()
        unused = [name for name, value in model.named_parameters() if value.grad is None]
        bare = tiny_mace()
        result = bare(batch_of([waters()]), training=True)
        (result["energy"].sum() + result["forces"].square().sum()).backward()
        maces_own = {"base." + name for name, value in bare.named_parameters() if value.grad is None}
        assert set(unused) == maces_own


def test_a_one_layer_model_gets_edge_heads_and_refuses_equivariant_ones():
    model = long_range_model(FULL, layers=1)
    output = model(batch_of([waters()]))
    assert output["latent"].permanent.dipole.abs().max().item() > 0
    with pytest.raises(ConfigError, match="vector"):
        les_plugins.attach(tiny_mace(layers=1), {"heads": "equivariant"})


def test_two_e_features_are_read_in_e3nns_order():
    model = long_range_model(FULL, hidden="4x0e+4x1o+4x2e")
    atoms = waters(pbc=False)
    rotation = Rotation.from_euler("xyz", [0.2, 0.7, -0.5]).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    turn = torch.tensor(rotation)
    before, after = (model(batch_of([frame]))["latent"].permanent.quadrupole for frame in (atoms, turned))
    assert before.abs().max().item() > 1e-4
    torch.testing.assert_close(after, turn @ before @ turn.T, rtol=0, atol=1e-11)


def test_hessian_is_the_derivative_of_the_forces(model):
    atoms = waters(2)
    hessian = model(batch_of([atoms]), compute_hessian=True)["hessian"].view(len(atoms), 3, len(atoms), 3)
    step, forces = 1e-4, []
    for shift in (-step, step):
        moved = atoms.copy()
        moved.positions[1, 0] += shift
        forces.append(model(batch_of([moved]))["forces"])
    difference = -(forces[1] - forces[0]) / (2 * step)
    # central difference: step² times the fourth derivative of the energy
    torch.testing.assert_close(hessian[1, 0], difference, rtol=0, atol=1e-5 * hessian.abs().max().item())


def test_float32_model_agrees_with_float64_to_single_precision():
    single, double = long_range_model(dtype=torch.float32), long_range_model(dtype=torch.float32).double()
    low, high = single(batch_of([waters()], torch.float32)), double(batch_of([waters()]))
    # 1e-6 relative of features, forces of order one eV/Å
    torch.testing.assert_close(low["forces"].double(), high["forces"], rtol=0, atol=1e-4)
    assert low["forces"].dtype == torch.float32


def test_lammps_edge_forces_and_second_attachment_are_refused_in_words(model):
    with pytest.raises(HostError, match="ML-IAP"):
        model(batch_of([waters()]), lammps_mliap=True)
    with pytest.raises(HostError, match="edge forces"):
        model(batch_of([waters()]), compute_edge_forces=True)
    with pytest.raises(HostError, match="already"):
        LongRangeMACE(model, model.long_range.config)
    with pytest.raises(HostError, match="no adapter knows"):
        les_plugins.attach(torch.nn.Linear(2, 2), FULL)


def test_slab_is_refused_in_words(model):
    atoms = waters()
    atoms.pbc = (True, True, False)
    with pytest.raises(les_plugins.LesPluginsError, match="Slabs"):
        energy(model, atoms)


def test_canary_maces_run_still_configures_its_model_through_the_one_name_that_is_substituted():
    source = inspect.getsource(run_train.run)
    assert source.count("configure_model(") == 1
    assert list(inspect.signature(run_train.configure_model).parameters)[:2] == ["args", "train_loader"]
    assert inspect.getmodule(run_train.configure_model).__name__ == "mace.tools.model_script_utils"


def test_canary_maces_optimizer_trains_every_parameter_of_the_long_range_part(model):
    from mace.tools import build_default_arg_parser
    from mace.tools.scripts_utils import get_params_options

    options = get_params_options(build_default_arg_parser().parse_args(["--name", "test"]), model)
    trained = {id(parameter) for group in options["params"] for parameter in group["params"]}
    assert all(id(parameter) in trained for parameter in model.les_readouts.parameters())


class TestCalculator:
    def test_results_agree_with_the_model(self, model):
        atoms = waters()
        atoms.calc = LesMACECalculator(model)
        output = model(batch_of([atoms]), compute_stress=True)
        assert atoms.get_potential_energy() == pytest.approx(output["energy"].item(), rel=1e-14)
        np.testing.assert_allclose(atoms.get_forces(), output["forces"].numpy(), atol=1e-12)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), output["stress"][0].numpy(), atol=1e-12)
        assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
        results = atoms.calc.results
        assert results["energy"] == pytest.approx(results["short_range_energy"] + results["long_range_energy"])
        assert results["charges"].shape == (12,)
        assert results["dipole"].shape == (3,)
        assert results["polarizability"].shape == (3, 3)

    def test_physical_moments_carry_the_root_of_the_screening(self, model):
        atoms = waters()
        plain, screened = LesMACECalculator(model), LesMACECalculator(model, epsilon_infinity=4.0)
        for name, factor in (
            ("charges", 2.0),
            ("dipole", 2.0),
            ("born_effective_charges", 2.0),
            ("polarizability", 4.0),
        ):
            np.testing.assert_allclose(
                screened.get_property(name, atoms), factor * plain.get_property(name, atoms), rtol=1e-10
            )

    def test_open_structures_are_in_vacuum_whatever_epsilon_is(self, model):
        atoms = waters(pbc=False)
        a, b = LesMACECalculator(model), LesMACECalculator(model, epsilon_infinity=4.0)
        np.testing.assert_array_equal(a.get_property("dipole", atoms), b.get_property("dipole", atoms))

    def test_a_short_range_model_says_that_it_has_no_electrostatics(self):
        from ase.calculators.calculator import PropertyNotImplementedError

        calculator = LesMACECalculator(tiny_mace())
        atoms = waters()
        assert calculator.get_property("long_range_energy", atoms) == 0.0
        with pytest.raises(PropertyNotImplementedError, match="no long-range part"):
            calculator.get_property("born_effective_charges", atoms)

    def test_wrong_structures_and_devices_are_refused_in_words(self, model):
        calculator = LesMACECalculator(model)
        foreign = waters()
        foreign.numbers[0] = 6
        with pytest.raises(DataError, match="does not know C; it knows: H, O"):
            calculator.get_potential_energy(foreign)
        broken = waters()
        broken.positions[0, 0] = np.nan
        with pytest.raises(DataError, match="NaN"):
            calculator.get_potential_energy(broken)
        flat = waters()
        flat.cell[2] = flat.cell[1]
        with pytest.raises(DataError, match="singular"):
            calculator.get_potential_energy(flat)
        if not torch.cuda.is_available():
            with pytest.raises(DeviceError, match="cuda"):
                LesMACECalculator(model, device="cuda")

    def test_making_a_calculator_leaves_maces_property_list_alone(self, model):
        before = list(type(LesMACECalculator(model)).implemented_properties)
        LesMACECalculator(model)
        assert list(LesMACECalculator.implemented_properties) == before
        assert "charges" not in LesMACECalculator.implemented_properties
