"""How much moment a potential or a field induces: blocks of single atoms, or pairs. `self_consistent.py` calls it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.response.pair_flow import PairFlow


class Capacity(NamedTuple):
    """K' of all atoms, symmetric and positive semidefinite.

    Attributes:
        blocks: (N, d, d) of the moments of each atom, the charge among them where it is induced on atoms; or None.
        value: (E,) κ of pairs, e²/eV, over which charge flows: their Laplacian acts on a first column of its own.
        flow: which pairs they are, or None.
    """

    blocks: Tensor | None
    value: Tensor | None = None
    flow: PairFlow | None = None

    def detach(self) -> Capacity:
        """Without graph."""
        blocks, value, flow = self
        return Capacity(None if blocks is None else blocks.detach(), None if value is None else value.detach(), flow)

    def times(self, v: Tensor) -> Tensor:
        """(N, d): K' v.

        Args:
            v: (N, d).
        """
        if self.flow is None:
            return _product(self.blocks, v)
        drops = self.flow.differences(v[:, 0])
        charge = -self.flow.gained(self.flow.transfers(drops, self.value))[:, None]
        return charge if self.blocks is None else torch.cat([charge, _product(self.blocks, v[:, 1:])], 1)

    def slopes(self, one: Tensor, other: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """∂(one·K' other) by the blocks (N, d, d) and by the values of the pairs (E,).

        Args:
            one, other: (N, d).
        """
        if self.flow is None:
            return one[:, :, None] * other[:, None, :], None
        on_value = 0.5 * self.flow.differences(one[:, 0]) * self.flow.differences(other[:, 0])
        if self.blocks is None:
            return None, on_value
        return one[:, 1:, None] * other[:, None, 1:], on_value

    def magnitude(self, v: Tensor) -> Tensor:
        """(N,): v·K' v as if nothing in it cancelled, neither between atoms of a pair nor between structures.

        Args:
            v: (N, d).
        """
        if self.flow is None or self.value is None:
            return (v * self.times(v)).sum(1)
        degree = 2.0 * self.value.new_zeros(len(v)).index_add(0, self.flow.pairs.centre, self.value)
        blocks = 0.0 if self.blocks is None else (v[:, 1:] * _product(self.blocks, v[:, 1:])).sum(1)
        return degree * v[:, 0].square() + blocks


def capacity_of_atoms(softness: Tensor | None, polarizability: Tensor | None) -> Tensor | None:
    """K (N, d, d) of charges, dipoles or both, symmetric; None of neither."""
    blocks = []
    if softness is not None:
        blocks.append(softness[:, None, None])
    if polarizability is not None:
        if polarizability.dim() == 1:
            identity = torch.eye(3, dtype=polarizability.dtype, device=polarizability.device)
            blocks.append(polarizability[:, None, None] * identity)
        else:
            blocks.append(0.5 * (polarizability + polarizability.transpose(1, 2)))
    if len(blocks) < 2:
        return blocks[0] if blocks else None
    charge, dipole = blocks
    return torch.cat([torch.nn.functional.pad(charge, (0, 3)), torch.nn.functional.pad(dipole, (1, 0))], 1)


def _product(blocks: Tensor | None, v: Tensor) -> Tensor:
    """(N, d)."""
    return torch.zeros_like(v) if blocks is None else torch.bmm(blocks, v[:, :, None])[:, :, 0]
