"""Slabs in MACE: the host makes up a third vector, the long-range part does not read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from mace_models import amplify, tiny_mace, waters

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.data.batch import BatchResult, evaluate_one_by_one
from les_plugins.dynamics import Field, Settings, Trajectory, run
from les_plugins.errors import ConfigError

STEP = 1e-4


@pytest.fixture(scope="module")
def calculator() -> LesMACECalculator:
    torch.manual_seed(0)
    return LesMACECalculator(
        amplify(les_plugins.attach(tiny_mace(), {"response": {"charge": True, "dipole": "anisotropic"}}))
    )


def slab() -> Atoms:
    atoms = waters()
    atoms.pbc = (True, True, False)
    return atoms


def normal_of(atoms: Atoms) -> np.ndarray:
    normal = np.cross(atoms.cell[0], atoms.cell[1])
    return normal / np.linalg.norm(normal)


@pytest.mark.parametrize("strength", [0.0, 0.2])
def test_forces_and_dipole_of_a_slab_belong_to_its_energy(calculator: LesMACECalculator, strength: float) -> None:
    atoms = slab()
    normal = normal_of(atoms)

    def energy(shift: float = 0.0, atom: int = 0, axis: int = 0, field: float = strength) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        calculator.external_field = field * normal
        return float(calculator.get_property("energy", moved))

    calculator.external_field = strength * normal
    forces, dipole = (calculator.get_property(name, atoms).copy() for name in ("forces", "dipole"))
    for atom, axis in ((0, 0), (1, 2), (5, 1)):
        numeric = -(energy(STEP, atom, axis) - energy(-STEP, atom, axis)) / (2.0 * STEP)
        # step² times the third derivative
        assert forces[atom, axis] == pytest.approx(numeric, abs=1e-6 * max(np.abs(forces).max(), 1.0))
    numeric = -(energy(field=strength + STEP) - energy(field=strength - STEP)) / (2.0 * STEP)
    assert dipole @ normal == pytest.approx(numeric, abs=1e-6)
    calculator.external_field = None


def test_the_third_vector_changes_nothing_and_there_is_no_stress(calculator: LesMACECalculator) -> None:
    expected = calculator.get_property("energy", slab())
    born = calculator.get_property("born_effective_charges", slab()).copy()
    for third in ([0.0, 0.0, 0.0], [0.0, 0.0, 40.0]):
        atoms = slab()
        cell = atoms.cell.array.copy()
        cell[2] = third
        atoms.set_cell(cell)
        # MACE's neighbours are found in another box: order of sums
        assert calculator.get_property("energy", atoms) == pytest.approx(expected, rel=1e-11)
        np.testing.assert_allclose(calculator.get_property("born_effective_charges", atoms), born, atol=1e-9)
        atoms.calc = calculator
        with pytest.raises(PropertyNotImplementedError):
            atoms.get_stress()


def test_a_batch_with_slabs_equals_its_structures_one_by_one(calculator: LesMACECalculator) -> None:
    frames = [slab(), waters(2, pbc=False), waters(3), slab()]
    together, single = calculator.evaluate_batch(frames), evaluate_one_by_one(calculator, frames)
    for name in BatchResult._fields:
        # sums in another order
        np.testing.assert_allclose(getattr(together, name), getattr(single, name), rtol=1e-11, atol=1e-10)


def test_every_structure_of_a_batch_may_have_its_own_field(calculator: LesMACECalculator) -> None:
    frames, fields = [slab(), waters(2, pbc=False), waters(3)], 0.1 * np.array([[1, 0, 0], [0, 0, 2], [0, 1, 1]])
    together = calculator.evaluate_batch(frames, fields)
    assert calculator.external_field is None
    starts = np.cumsum([0, *map(len, frames)])
    for number, atoms in enumerate(frames):
        calculator.external_field = fields[number]
        assert together.energy[number] == calculator.get_property("energy", atoms)
        mine = together.forces[starts[number] : starts[number + 1]]
        np.testing.assert_array_equal(mine, calculator.get_property("forces", atoms))
    calculator.external_field = None
    with pytest.raises(ConfigError, match=r"fields has shape \(3,\); allowed: \(3, 3\)"):
        calculator.evaluate_batch(frames, fields[0])


@pytest.mark.parametrize("direction", ["normal", "plane"])
def test_the_work_of_a_field_is_what_a_slab_gains(
    calculator: LesMACECalculator, direction: str, tmp_path: Path
) -> None:
    atoms = slab()
    along = normal_of(atoms) if direction == "normal" else atoms.cell[0] / np.linalg.norm(atoms.cell[0])
    pulse = Field(tuple(0.3 * along), center=0.6, width=0.5)
    settings = Settings.of(temperature=100.0, timestep=0.1, steps=12, every=2, field=pulse)
    run(calculator, atoms, tmp_path / "md.h5", settings)
    found = Trajectory.open(tmp_path / "md.h5")
    assert np.ptp(found["field_work"]) > 1e-4
    # the trapezoid rule and Verlet's step: both of second order in 0.1 fs
    assert np.ptp(found["conserved_energy"]) < 0.02 * np.ptp(found["kinetic_energy"])
