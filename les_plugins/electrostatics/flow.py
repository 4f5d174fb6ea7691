"""Charge on its way between neighbours: what heads and responses hand over where charge is conserved (theory 6, 8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.ghosts import Ghosts


class PairSoftness(NamedTuple):
    """Softness of every pair of neighbours, through which charge flows between them (theory 6).

    Edges come in both directions, each periodic image of a pair a pair of its own; `value` is the same in both.

    Attributes:
        centre: (E,) integer.
        neighbor: (E,) integer.
        vector: (E, 3) Å, from centre to neighbour, with the graph to the positions.
        value: (E,) e²/eV, ≥ 0.
        halo: where `neighbor` counts the atoms of a domain and then its ghosts: who owns these. None: there are none.
    """

    centre: Tensor
    neighbor: Tensor
    vector: Tensor
    value: Tensor
    halo: Ghosts | None = None

    def polarizability(self, n_atoms: int) -> Tensor:
        """(N, 3, 3) e²·Å²/eV, ½ Σ κ d dᵀ over the edges from each atom; their sum is that of the flow (theory 9.1)."""
        vector = self.vector.to(self.value.dtype)
        each = 0.5 * self.value[:, None, None] * vector[:, :, None] * vector[:, None, :]
        return each.new_zeros(n_atoms, 3, 3).index_add(0, self.centre.long(), each)


class Transfers(NamedTuple):
    """Charge that went from atoms to neighbours: it has a sum of zero and a dipole without an origin.

    Attributes:
        centre: (E,) integer, the atom that gives.
        neighbor: (E,) integer, the atom that gets.
        vector: (E, 3) Å, from centre to neighbour, with the graph to the positions.
        charge: (E,) e.
        halo: where `neighbor` counts the atoms of a domain and then its ghosts: who owns these. None: there are none.
    """

    centre: Tensor
    neighbor: Tensor
    vector: Tensor
    charge: Tensor
    halo: Ghosts | None = None

    def charges(self, n_atoms: int) -> Tensor:
        """(N,) e, what every atom got less what it gave; with a halo from edges of other ranks too, which all call."""
        if self.halo is not None:
            gained = self.charge.new_zeros(self.halo.total).index_add(0, self.neighbor, self.charge)
            return self.halo.here(gained.index_add(0, self.centre, -self.charge))
        gained = self.charge.new_zeros(n_atoms).index_add(0, self.neighbor, self.charge)
        return gained.index_add(0, self.centre, -self.charge)

    def moments(self, n_atoms: int) -> Tensor:
        """(N, 3) e·Å, Σ t d over the transfers of every atom that gives; their sum is a polarization."""
        each = self.charge[:, None] * self.vector.to(self.charge.dtype)
        return torch.zeros(n_atoms, 3, dtype=each.dtype, device=each.device).index_add(0, self.centre, each)

    def to(self, dtype: torch.dtype) -> Transfers:
        """The same with charges in another dtype."""
        return self._replace(charge=self.charge.to(dtype))

    def scaled(self, factor: Tensor) -> Transfers:
        """The same ways with every charge times one factor."""
        return self._replace(charge=factor * self.charge)


def polarizability_with_flow(polarizability: Tensor | None, pairs: PairSoftness | None, n_atoms: int) -> Tensor | None:
    """Polarizabilities of atoms that add up to that of a periodic structure, the flow over pairs among them.

    Args:
        polarizability: (N,) or (N, 3, 3) e²·Å²/eV of the induced dipoles, or None.
        pairs: over which charge flows, or None.
        n_atoms: N.

    Returns:
        (N, 3, 3) with pairs, in the wider dtype of both; `polarizability` without.

    Source: theory 9.1.
    """
    if pairs is None:
        return polarizability
    flow = pairs.polarizability(n_atoms)
    if polarizability is None:
        return flow
    if polarizability.dim() == 1:
        identity = torch.eye(3, dtype=polarizability.dtype, device=polarizability.device)
        polarizability = polarizability[:, None, None] * identity
    return polarizability + flow
