"""The zero of energy: exact where energies are sums over atoms, their sum alone where there is one composition."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from toy_calculator import CONSTANTS, Toy

from les_plugins.distillation.energies import isolated_atoms, zero_of_energy
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import HostError


def frame(formula, energy=None):
    atoms = Atoms(formula, np.arange(3.0 * len(Atoms(formula))).reshape(-1, 3), cell=[20.0] * 3, pbc=True)
    value = sum(CONSTANTS[z] for z in atoms.numbers) if energy is None else energy
    atoms.calc = SinglePointCalculator(atoms, energy=value)
    return atoms


def test_sums_over_atoms_are_found():
    found = zero_of_energy([frame("OH2"), frame("OH"), frame("O2H2")])
    assert found.energies == pytest.approx({"H": CONSTANTS[1], "O": CONSTANTS[8]}, abs=1e-9)
    assert found.spread == pytest.approx(0.0, abs=1e-9)
    assert "by least squares over the frames: H -1.0000, O -5.0000 eV" in str(found)


def test_of_one_composition_the_sum_is_right_and_the_spread_is_that_of_the_energies():
    found = zero_of_energy([frame("OH2", -7.3), frame("OH2", -6.7)])
    assert 2 * found.energies["H"] + found.energies["O"] == pytest.approx(-7.0)
    assert found.spread == pytest.approx(0.1)  # 0.3 eV of three atoms


def test_isolated_atoms_are_computed_by_the_teacher():
    teacher = Teacher("toy", Toy(spring=0.0), "toy 1", None, "none")
    found = zero_of_energy([frame("OH2")], isolated_atoms(teacher, [1, 8]))
    assert found.energies == {"H": CONSTANTS[1], "O": CONSTANTS[8]}


def test_a_teacher_that_cannot_compute_one_atom_is_told_with_the_option():
    class OfPairs(Toy):
        def calculate(self, *args, **kwargs):
            raise ZeroDivisionError("no neighbours")

    with pytest.raises(HostError, match="--zero-of-energy isolated: toy, an atom of O alone: ZeroDivisionError"):
        isolated_atoms(Teacher("toy", OfPairs(), "toy 1", None, "none"), [8])
