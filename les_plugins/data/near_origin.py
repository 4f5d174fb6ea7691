"""Structures far from the origin, for hosts that hold coordinates in the precision of their model. Adapters call this.

A coordinate of 10⁵ Å has steps of 0.008 Å in float32: bonds of a molecule there differ from those that it was given.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

#: Å. Up to here float32 has steps of 4e-6 Å, and structures are left where they are.
NEAR = 50.0


def near_origin(atoms: Atoms, keep_open: bool = False) -> Atoms:
    """The structure, or a copy of it by the origin where one of its coordinates is beyond `NEAR`.

    Atoms are moved by lattice vectors along periodic directions, all together along the others: energy, forces, stress
    and the derivatives of the polarization stay.

    Args:
        atoms: the structure, its cell already checked; not changed.
        keep_open: leave open directions alone, as moments with a net charge depend on the place.
    """
    if np.abs(atoms.positions).max() <= NEAR:
        return atoms
    near: Atoms = atoms.copy()
    periodic = np.asarray(atoms.pbc)
    near.set_constraint()  # they would hold the atoms back
    if not periodic.all() and not keep_open:
        plane = atoms.cell.array[periodic]
        _, _, directions = np.linalg.svd(plane) if len(plane) else (None, None, np.eye(3))
        along = directions[len(plane) :]  # orthonormal, of the open directions
        near.positions -= near.positions.mean(0) @ along.T @ along
    if periodic.any():
        lattice = near.cell.array[periodic]
        images = np.floor(near.positions @ np.linalg.pinv(lattice))
        near.positions -= images @ lattice
    return near
