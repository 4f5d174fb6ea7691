"""Rigid ions with a Born charge tensor that is not symmetric: a transposed one gives other forces. For tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from rigid_ions import RigidIons, rock_salt

#: Z* (e) of Na; that of Cl is its negative. The first index is polarization.
BORN = np.array([[1.1, 0.3, -0.2], [-0.4, 0.9, 0.25], [0.15, -0.35, 1.3]])
#: What every atom's Z* has beyond that (e): a violation of the sum rule.
EXCESS = 0.01 * np.arange(9.0).reshape(3, 3)
#: e²·Å²/eV.
POLARIZABILITY = np.diag([1.0, 2.0, 3.0])


class SkewIons(RigidIons):
    """`RigidIons` with the Z* above, and the dipole that they are the derivatives of."""

    implemented_properties = [*RigidIons.implemented_properties, "dipole", "polarizability"]  # noqa: RUF012 (as ASE)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        assert atoms is not None
        super().calculate(atoms, properties, system_changes)
        born = signs(atoms)[:, None, None] * BORN + EXCESS
        self.results["dipole"] = np.einsum("nab,nb->a", born, atoms.positions)
        self.results["polarizability"] = POLARIZABILITY
        if "born_effective_charges" in properties:
            self.results["born_effective_charges"] = born


def signs(atoms: Atoms) -> Any:
    """(N,) 1 for Na, −1 for Cl."""
    return np.where(atoms.numbers == 11, 1.0, -1.0)


def crystal(seed: int = 0) -> Atoms:
    """Eight ions, displaced by some 0.05 Å from their places in a sheared and strained cell, Na and Cl in turn."""
    atoms = rock_salt(cubic=True)
    strain = np.array([[1.02, 0.03, -0.02], [0.0, 0.99, 0.05], [0.0, 0.0, 1.01]])
    atoms.set_cell(atoms.cell.array @ strain.T, scale_atoms=True)
    atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=(len(atoms), 3))
    return atoms
