"""Atoms in one place, which no model was trained on and many return NaN for. `frames.check_frame` calls this."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from les_plugins.errors import DataError

#: Å. Two protons so close repel with 144 eV, and no molecular or condensed structure comes near it (H2: 0.74 Å); atoms
#: that a converter wrote twice, or folded onto their own image, are far below.
SMALLEST_DISTANCE = 0.1


def check_distances(atoms: Atoms, where: str) -> None:
    """Raise DataError for two atoms in one place, periodic images too, naming them.

    Args:
        atoms: the structure, its cell already checked.
        where: file and frame, for messages.
    """
    if len(atoms) < 2:
        return
    pairs, distances = _closest(atoms)
    if not len(pairs):
        return
    nearest = int(np.argmin(distances))
    i, j = (int(number) for number in pairs[nearest])
    more = f"; {len(pairs)} such pairs in all" if len(pairs) > 1 else ""
    apart = f"{round(float(distances[nearest]), 6):.3g} Å apart"
    raise DataError(
        f"{where}: atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {apart}"
        f"{', counting periodic images' if atoms.pbc.any() else ''}; allowed: at least {SMALLEST_DISTANCE} Å{more}"
    )


def _closest(atoms: Atoms) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (M, 2) closer than `SMALLEST_DISTANCE`, and their distances, Å."""
    cell = atoms.cell.complete().array  # unit vectors along directions without a lattice vector
    periodic = np.asarray(atoms.pbc)
    if not periodic.all():  # whatever vector an open direction was given is not read
        cell = _with_normals(cell, periodic)
    scaled = np.linalg.solve(cell.T, atoms.positions.T).T
    scaled[:, periodic] %= 1.0
    scaled[:, periodic] %= 1.0  # −1e-17 % 1 is 1, which the tree refuses
    tree = cKDTree(scaled, boxsize=np.where(periodic, 1.0, 0.0))
    # a distance in fractional coordinates is at most the true one over the smallest stretch of the cell
    reach = SMALLEST_DISTANCE / float(np.linalg.svd(cell, compute_uv=False).min())
    pairs = tree.query_pairs(min(reach, 0.45), output_type="ndarray")
    difference = scaled[pairs[:, 1]] - scaled[pairs[:, 0]]
    difference[:, periodic] -= np.round(difference[:, periodic])
    distances: NDArray[np.float64] = np.linalg.norm(difference @ cell, axis=1)
    close = np.flatnonzero(distances < SMALLEST_DISTANCE)
    found: NDArray[np.int64] = pairs[close]
    lengths: NDArray[np.float64] = distances[close]
    return found, lengths


def _with_normals(cell: NDArray[np.float64], periodic: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell with vectors of 1 Å normal to the periodic ones along open directions."""
    _, _, directions = np.linalg.svd(cell[periodic]) if periodic.any() else (None, None, np.eye(3))
    found: NDArray[np.float64] = cell.copy()
    found[~periodic] = directions[int(periodic.sum()) :]
    return found
