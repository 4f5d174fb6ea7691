"""Crystals whose atoms of one element differ in mass: the primitive cell that phonopy may fold them into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ase.data import chemical_symbols

from les_plugins.data.metrics import Floats
from les_plugins.errors import DataError

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

#: Relative difference of masses of one isotope.
_SAME = 1e-6


def has_isotopes(symbols: list[str], masses: Floats) -> bool:
    """Whether atoms of one element have different masses."""
    names, values = np.array(symbols), np.asarray(masses)
    return any(np.ptp(values[names == name]) > _SAME * values[names == name].max() for name in set(symbols))


def primitive_matrix(cell: PhonopyAtoms, symprec: float) -> Literal["auto"] | Floats:
    """What phonopy's primitive cell is found with: "auto", or a matrix where masses tell equal elements apart.

    phonopy tells atoms apart by element alone: its primitive cell of a crystal with isotopes has the mass of one of
    them for all.

    Args:
        cell: the unit cell, with masses above 0, as `check_frame` sees to.
        symprec: tolerance of the symmetry search, Å.

    Raises:
        DataError: more isotopes than there are symbols to stand in for them.
    """
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import guess_primitive_matrix

    masses = np.asarray(cell.masses)
    if not has_isotopes(cell.symbols, masses):
        return "auto"
    kinds = list(zip(cell.symbols, np.round(np.log(masses) / _SAME).astype(int).tolist(), strict=True))
    known = sorted(set(kinds))
    if len(known) >= len(chemical_symbols):
        raise DataError(f"{len(known)} different isotopes; allowed: {len(chemical_symbols) - 1}")
    stand_in: Any = PhonopyAtoms(
        symbols=[chemical_symbols[1 + known.index(kind)] for kind in kinds],
        cell=cell.cell,
        scaled_positions=cell.scaled_positions,
    )
    found: Floats = guess_primitive_matrix(stand_in, symprec=symprec)
    return found


def mesh_symmetry(phonon: Phonopy) -> bool:
    """Whether phonopy's symmetry, which is that of the elements, may be used for a mesh of wave vectors."""
    return not has_isotopes(list(phonon.primitive.symbols), np.asarray(phonon.primitive.masses))
