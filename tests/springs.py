"""A crystal of charges and springs whose piezoelectric tensor has a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list

#: Lattice constant, Å, charge of the atom at (¼, ¼, ¼), e, and stiffness of the bonds, eV/Å².
LATTICE, CHARGE, SPRING = 5.4, 1.3, 4.0


class Springs(Calculator):
    """Fixed charges, and springs between unlike neighbours that are at rest at the bond length of zinc blende."""

    implemented_properties = ["energy", "forces", "dipole", "charges", "born_effective_charges"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, spring: float = SPRING) -> None:
        super().__init__()
        self.spring = spring

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        assert atoms is not None
        super().calculate(atoms, list(properties), list(system_changes))
        rest = LATTICE * np.sqrt(3.0) / 4.0
        first, second, lengths, vectors = neighbor_list("ijdD", atoms, 1.2 * rest)
        unlike = atoms.numbers[first] != atoms.numbers[second]
        stretch = np.where(unlike, lengths - rest, 0.0)
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, first, (self.spring * stretch / lengths)[:, None] * vectors)
        charges = np.where(atoms.numbers == 17, CHARGE, -CHARGE)
        self.results: dict[str, Any] = {
            "energy": 0.25 * self.spring * float(stretch @ stretch),
            "forces": forces,
            "charges": charges,
            "dipole": charges @ atoms.positions,
            "born_effective_charges": charges[:, None, None] * np.eye(3),
        }


def zinc_blende() -> Atoms:
    return bulk("NaCl", "zincblende", a=LATTICE)
