"""Which atoms of a structure are this rank's, and the images of others that they see: domains without an engine."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from les_plugins.data.metrics import Floats


class Partition(NamedTuple):
    """Own atoms, then ghosts: periodic images of any atoms.

    Attributes:
        atom: (own + ghosts,) place of each in the structure.
        image: (own + ghosts, 3) whole lattice vectors to add to the position of that atom.
        own: number of own atoms.
    """

    atom: NDArray[np.int64]
    image: NDArray[np.int64]
    own: int

    def positions(self, positions: Floats, cell: Floats) -> Floats:
        """(own + ghosts, 3) Å of the structure's (N, 3) Å, cell (3, 3) Å."""
        found: Floats = positions[self.atom] + self.image @ cell
        return found


def partition(positions: Floats, cell: Floats, rank: int, size: int, reach: float) -> Partition:
    """Slabs with equal numbers of atoms across the direction in which the cell is longest.

    Args:
        positions: (N, 3) Å, anywhere.
        cell: (3, 3) Å, periodic along all rows.
        rank, size: of the ranks.
        reach: Å, how far own atoms see.
    """
    inverse = np.linalg.inv(cell)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    scaled = positions @ inverse
    wraps = -np.floor(scaled).astype(np.int64)
    inside = scaled + wraps
    order = np.argsort(inside[:, int(np.argmax(heights))], kind="stable")
    own = np.sort(np.array_split(order, size)[rank])
    if not len(own):
        return Partition(own, wraps[own], 0)
    margin = reach / heights
    low, high = inside[own].min(0) - margin, inside[own].max(0) + margin
    atoms, images = [own], [wraps[own]]
    mine = np.zeros(len(positions), dtype=bool)
    mine[own] = True
    tree = cKDTree(inside[own] @ cell)
    for shift in itertools.product(*(range(-int(np.ceil(m)), int(np.ceil(m)) + 1) for m in margin)):
        moved = inside + shift
        near = ((moved >= low) & (moved <= high)).all(1)
        if not any(shift):
            near &= ~mine
        chosen = np.flatnonzero(near)
        if len(chosen):
            distances, _ = tree.query(moved[chosen] @ cell, distance_upper_bound=reach)
            chosen = chosen[np.isfinite(distances)]
            atoms.append(chosen)
            images.append(wraps[chosen] + np.array(shift, dtype=np.int64))
    return Partition(np.concatenate(atoms), np.concatenate(images), len(own))
