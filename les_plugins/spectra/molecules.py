"""Molecules of a slab: atoms that bonds hold together, their places and their dipoles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from les_plugins.data.metrics import Floats
from les_plugins.spectra.planar import Moments

#: Times the sum of two covalent radii: a bond.
BOND = 1.2


@dataclass(frozen=True)
class Molecules:
    """Which molecule each atom belongs to.

    Attributes:
        label: (N,) number of its molecule.
        first: (N,) an atom of that molecule that the others are taken next to.
        count: number of molecules.
    """

    label: NDArray[np.int64]
    first: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, atoms: Atoms) -> Molecules:
        """By bonds: distances below 1.2 times the sum of the covalent radii (`ase.data`)."""
        number = len(atoms)
        i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=BOND))
        bonds = coo_matrix((np.ones(len(i)), (i, j)), shape=(number, number))
        count, label = connected_components(bonds, directed=False)
        first = np.full(count, number, dtype=np.int64)
        np.minimum.at(first, label, np.arange(number))
        return cls(label.astype(np.int64), first[label], int(count))

    def sums(self, values: Floats) -> Floats:
        """(n, ...) sums over the atoms of each molecule of (N, ...)."""
        found: Floats = np.zeros((self.count, *values.shape[1:]))
        np.add.at(found, self.label, values)
        return found

    def moments(self, atoms: Atoms, moments: Moments) -> tuple[Floats, Floats, Floats]:
        """Centres of mass (n, 3) Å, net charges (n,) e and dipoles (n, 3) e·Å about them, without the net charge.

        Args:
            atoms: a frame; molecules may be cut by its periodic boundaries.
            moments: of its atoms.
        """
        whole = self.whole(atoms)
        masses = atoms.get_masses()
        places = self.sums(masses[:, None] * whole) / self.sums(masses)[:, None]
        charges = self.sums(moments.charge)
        own = moments.charge - (charges / self.sums(np.ones(len(masses))))[self.label]
        dipoles = self.sums(own[:, None] * (whole - places[self.label]) + moments.dipole)
        return places, charges, dipoles

    def whole(self, atoms: Atoms) -> Floats:
        """(N, 3) Å, each atom at the image next to the first one of its molecule."""
        cell = atoms.cell.complete().array
        apart = np.linalg.solve(cell.T, (atoms.positions - atoms.positions[self.first]).T).T
        found: Floats = atoms.positions - np.where(atoms.pbc, np.round(apart), 0.0) @ cell
        return found
