"""The stability test of the zoo finds what it is for: broken bonds, wrong temperatures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from les_plugins.dynamics.stability import stability


class Springs(Calculator):
    """Springs between the atoms of each molecule; negative ones push apart."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, stiffness: float) -> None:
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms: Atoms | None = None, properties: Any = (), changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, changes)
        energy, forces = 0.0, np.zeros_like(self.atoms.positions)
        for first in range(0, len(self.atoms), 3):
            for one, other, rest in ((0, 1, 1.0), (0, 2, 1.0), (1, 2, 1.58)):
                vector = self.atoms.positions[first + other] - self.atoms.positions[first + one]
                length = float(np.linalg.norm(vector))
                energy += 0.5 * self.stiffness * (length - rest) ** 2
                push = -self.stiffness * (length - rest) * vector / length
                forces[first + other] += push
                forces[first + one] -= push
        self.results = {"energy": energy, "forces": forces}


def waters(count: int = 8) -> Atoms:
    """Molecules 20 Å apart, which do not see each other."""
    molecule = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-0.25, 0.97, 0.0]])
    positions = np.concatenate([molecule + np.array([20.0 * number, 0.0, 0.0]) for number in range(count)])
    return Atoms("OHH" * count, positions)


def test_a_sound_model_passes(tmp_path):
    found = stability(Springs(40.0), waters(), 300.0, tmp_path, picoseconds=1.0)
    assert (found.broken_bonds, found.crushed_pairs) == (0, 0)
    assert list(found.bonds) == ["H-O"]
    low, high = found.bonds["H-O"]
    # the amplitude at kT/2 = 13 meV a degree of freedom in a spring of 40 eV/Å² is 0.025 Å; five of them
    assert 0.87 < low < 1.0 < high < 1.13
    assert found.to_dict()["picoseconds"] == 1.0


def test_molecules_that_fall_apart_fail(tmp_path):
    found = stability(Springs(-0.05), waters(), 300.0, tmp_path, picoseconds=0.1)
    assert found.broken_bonds > 0
    assert not found.passed


def test_a_wrong_temperature_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("les_plugins.dynamics.stability.TEMPERATURE", 0.0)
    found = stability(Springs(40.0), waters(), 300.0, tmp_path, picoseconds=0.2)
    assert found.broken_bonds == 0
    assert not found.passed
    assert found.mean_temperature == pytest.approx(300.0, rel=0.5)  # 24 atoms: some 12 %, and short
