"""MACE in a field and in molecular dynamics: one evaluation a step, forces that belong to the energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

from field_laws import check_long_waves
from mace_models import amplify, tiny_mace, waters
from transfer_laws import CHARGED, check_born_charges_of_transfers, check_current, check_work_of_a_field

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.dynamics import Field, Settings, Trajectory, run
from les_plugins.errors import HostError

FIELD = np.array([0.05, -0.1, 0.2])


@pytest.fixture(scope="module")
def calculator() -> LesMACECalculator:
    section = {"response": {"charge": True, "dipole": "anisotropic"}, "epsilon_infinity": 1.78}
    torch.manual_seed(0)  # the heads; how exact a difference is depends on the weights
    return LesMACECalculator(amplify(les_plugins.attach(tiny_mace(), section)))


@pytest.fixture(autouse=True)
def _no_field(calculator: LesMACECalculator) -> Any:
    yield
    calculator.external_field, calculator.always = None, ()


def test_a_molecule_in_a_field_has_forces_and_a_dipole_that_belong_to_its_energy(
    calculator: LesMACECalculator,
) -> None:
    atoms, step = waters(pbc=False), 1e-4

    def energy(shift: float = 0.0, atom: int = 0, axis: int = 0, field: np.ndarray = FIELD) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        calculator.external_field = field
        return float(calculator.get_property("energy", moved))

    calculator.external_field = FIELD
    forces = calculator.get_property("forces", atoms).copy()
    dipole = calculator.get_property("dipole", atoms).copy()
    assert np.abs(calculator.results["field_forces"]).max() > 0
    for atom, axis in ((0, 0), (1, 1), (2, 2)):
        numeric = -(energy(step, atom, axis) - energy(-step, atom, axis)) / (2.0 * step)
        # step² times the third derivative
        assert forces[atom, axis] == pytest.approx(numeric, abs=1e-6 * max(np.abs(forces).max(), 1.0))
    for axis in range(3):
        shift = step * np.eye(3)[axis]
        numeric = -(energy(field=FIELD + shift) - energy(field=FIELD - shift)) / (2.0 * step)
        assert dipole[axis] == pytest.approx(numeric, abs=1e-6)


def test_born_charges_need_no_evaluation_of_their_own(
    calculator: LesMACECalculator, monkeypatch: pytest.MonkeyPatch
) -> None:
    atoms, calls = waters(), []
    model = calculator.models[0]
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    calculator.always = ("born_effective_charges",)
    forces = calculator.get_property("forces", atoms).copy()
    born = calculator.get_property("born_effective_charges", atoms)
    handle.remove()
    assert len(calls) == 1
    fresh = LesMACECalculator(model)
    np.testing.assert_allclose(fresh.get_property("forces", atoms), forces, atol=1e-12)
    np.testing.assert_allclose(fresh.get_property("born_effective_charges", atoms), born, atol=1e-12)


def test_periodic_forces_in_a_field_are_those_without_plus_born_charges_times_field(
    calculator: LesMACECalculator,
) -> None:
    atoms, small = waters(), 1e-5
    without = calculator.get_property("forces", atoms).copy()
    born = calculator.get_property("born_effective_charges", atoms)
    calculator.external_field = small * FIELD
    within = calculator.get_property("forces", atoms)
    expected = np.einsum("a,nab->nb", FIELD, born)
    np.testing.assert_allclose((within - without) / small, expected, atol=2e-5 * np.abs(expected).max() + 1e-6)
    assert "stress" not in calculator.results
    assert "zero_field_energy" in calculator.results


def test_periodic_structures_have_a_polarization_and_an_electronic_dielectric_tensor(
    calculator: LesMACECalculator,
) -> None:
    atoms = waters()
    tensor = calculator.get_property("dielectric_tensor", atoms)
    assert np.trace(tensor) / 3.0 == pytest.approx(1.78)
    polarization = calculator.get_property("polarization", atoms)
    np.testing.assert_allclose(polarization * atoms.get_volume(), calculator.get_property("dipole", atoms))


def test_long_waves_turn_with_the_crystal(calculator: LesMACECalculator) -> None:
    check_long_waves(calculator, waters())


def test_a_short_range_model_has_no_field(tmp_path: Path) -> None:
    bare = LesMACECalculator(tiny_mace())
    with pytest.raises(HostError, match="no long-range part"):
        bare.external_field = FIELD
    settings = Settings.of(temperature=50.0, steps=2, every=1)
    with pytest.raises(HostError, match="use --no-current"):
        run(bare, waters(), tmp_path / "md.h5", settings)


@pytest.mark.parametrize("pbc", [False, True], ids=["open", "periodic"])
def test_the_work_of_a_field_is_what_the_energy_gains(calculator: LesMACECalculator, tmp_path: Path, pbc: bool) -> None:
    settings = Settings.of(temperature=100.0, timestep=0.1, steps=12, every=2, field=Field((0.0, 0.1, 0.3)))
    run(calculator, waters(pbc=pbc), tmp_path / "md.h5", settings)
    found = Trajectory.open(tmp_path / "md.h5")
    assert np.ptp(found["field_work"]) > 1e-4
    # the trapezoid rule and Verlet's step: both of second order in 0.1 fs
    assert np.ptp(found["conserved_energy"]) < 0.02 * np.ptp(found["kinetic_energy"])


def test_the_current_of_an_open_molecule_is_the_derivative_of_its_dipole(
    calculator: LesMACECalculator, tmp_path: Path
) -> None:
    settings = Settings.of(temperature=300.0, timestep=0.005, steps=10, every=1, sum_rule=False)
    run(calculator, waters(pbc=False), tmp_path / "md.h5", settings)
    found = Trajectory.open(tmp_path / "md.h5")
    # Born charges take the mean charge off, the dipole of a molecule does not
    means = np.array([calculator.get_property("charges", found.atoms(index)).mean() for index in range(found.frames)])
    dipole = found["dipole"] - means[:, None] * found["positions"].sum(1)
    slope = (dipole[2:] - dipole[:-2]) / (2.0 * found.interval)
    # the central difference: it falls with the square of the time step, as it should
    np.testing.assert_allclose(found["current"][1:-1], slope, atol=1e-4 * np.abs(slope).max())


@pytest.mark.parametrize("pbc", [True, [True, True, False], False], ids=["periodic", "slab", "open"])
def test_conserved_charges_have_a_polarization_without_phases(pbc: Any) -> None:
    calculator = LesMACECalculator(amplify(les_plugins.attach(tiny_mace(), CHARGED)))
    atoms = waters(2, seed=3)
    atoms.pbc = pbc
    check_born_charges_of_transfers(calculator, atoms, pbc is True)
    check_current(calculator, atoms)
    if pbc is True:
        check_work_of_a_field(calculator, atoms)


def test_a_run_records_the_current_of_transfers_and_says_so(tmp_path: Path) -> None:
    calculator = LesMACECalculator(amplify(les_plugins.attach(tiny_mace(), CHARGED)))
    atoms, path = waters(2, seed=3), tmp_path / "run.h5"
    run(calculator, atoms, path, Settings.of(temperature=300.0, steps=4, every=2, seed=1))
    with h5py.File(path) as file:
        assert file.attrs["polarization_source"] == "transfers"
    found = Trajectory.open(path)
    for frame in range(3):
        atoms.positions = found["positions"][frame]
        born = np.array(calculator.get_property("born_effective_charges", atoms))
        expected = np.einsum("nab,nb->a", born, found["velocities"][frame])
        np.testing.assert_allclose(found["current"][frame], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
