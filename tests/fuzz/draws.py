"""Random choices of one call, and structures and graphs made of them, for the fuzz tests."""

from __future__ import annotations

from typing import Any

import brute_force
import torch
from torch import Tensor

from les_plugins import PairSoftness


class Draw:
    """Random choices of one call."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def one_of(self, *values: Any) -> Any:
        return values[self.integer(0, len(values) - 1)]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


def structure(draw: Draw, axes: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, cell, pbc of n atoms: skew cells of either handedness, atoms outside their cell or on one another."""
    edges = torch.diag(torch.tensor([draw.uniform(3.5, 7.5) for _ in range(3)], dtype=torch.float64))
    cell = edges + draw.uniform(0.0, 0.3) * edges.diagonal().mean() * draw.normal(3, 3).clamp(-1.0, 1.0)
    while float(torch.linalg.det(cell).abs()) < 30.0:
        cell = edges + 0.1 * draw.normal(3, 3)
    if draw.chance(0.3):
        cell = cell[torch.randperm(3, generator=draw.generator)]
    if draw.chance(0.3):
        cell = cell @ torch.linalg.qr(draw.normal(3, 3))[0]
    positions = torch.rand(n, 3, generator=draw.generator, dtype=torch.float64) @ cell
    pbc = torch.full((3,), axes == 3)
    if axes == 2:
        pbc = torch.ones(3, dtype=torch.bool)
        pbc[draw.integer(0, 2)] = False
    if axes > 0 and draw.chance(0.2):
        steps = torch.randint(-20, 21, (n, 3), generator=draw.generator).double() * pbc
        positions = positions + steps @ cell
    if n > 1 and draw.chance(0.05):
        positions[1] = positions[0]
    if axes == 0:
        cell = torch.full((3, 3), draw.one_of(0.0, 1.0, float("nan")), dtype=torch.float64)
    elif axes == 2 and draw.chance(0.5):
        cell[~pbc] = draw.one_of(0.0, 50.0) * draw.normal(1, 3)
    return positions, cell, pbc


class Graph:
    """Random pairs of neighbours of a batch, both directions of each, in no order.

    Several pairs between the same two atoms, atoms with their own images, pairs of zero softness, structures without
    pairs; softness over ten decades, a smooth function of the distance.
    """

    def __init__(self, draw: Draw, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> None:
        ends, shifts, strengths = [], [], []
        size = 10.0 ** draw.uniform(-5.0, 2.0)
        for place in range(len(cell)):
            atoms = (batch == place).nonzero()[:, 0].tolist()
            box = brute_force.whole_cell(cell[place], pbc[place])
            for _ in range(draw.one_of(0, 1, 3, 8, 20) if atoms else 0):
                i, j = draw.one_of(*atoms), draw.one_of(*atoms)
                apart = (positions[j] - positions[i]) @ torch.linalg.inv(box)
                shift = (torch.randint(-1, 2, (3,), generator=draw.generator).double() - apart.round()) * pbc[place]
                if i == j and not bool(shift.any()):
                    continue
                ends.append((i, j))
                shifts.append(shift @ box)
                strengths.append(draw.one_of(0.0, *[size * 10.0 ** draw.uniform(-3.0, 0.0)] * 7))
        ends, strengths = [*ends, *((j, i) for i, j in ends)], strengths * 2
        shifts = torch.stack([*shifts, *(-x for x in shifts)]) if shifts else torch.zeros(0, 3).double()
        order = torch.randperm(len(ends), generator=draw.generator)
        self.start, self.end = torch.tensor(ends, dtype=torch.long).reshape(-1, 2)[order].T
        self.shift, self.strength = shifts[order], torch.tensor(strengths, dtype=torch.float64)[order]

    def edges(self, positions: Tensor) -> brute_force.Edges:
        """In float64, with the graph to the positions."""
        vector = positions.double()[self.end] + self.shift - positions.double()[self.start]
        value = self.strength * torch.exp(-vector.square().sum(1) / 30.0)
        return brute_force.Edges(self.start, self.end, vector, value)

    def within(self, atoms: Tensor, positions: Tensor, given: PairSoftness) -> tuple[Tensor, brute_force.Edges]:
        """Which edges are of one structure, and these, its atoms counted from zero; values are those of a call."""
        mine = torch.isin(self.start, atoms).nonzero()[:, 0]
        place = torch.searchsorted(atoms, self.start[mine]), torch.searchsorted(atoms, self.end[mine])
        vector = positions[place[1]] + self.shift[mine] - positions[place[0]]
        value = self.strength[mine] * torch.exp(-vector.square().sum(1) / 30.0)
        rounded = [x.detach()[mine].double() - y.detach() for x, y in ((given.vector, vector), (given.value, value))]
        return mine, brute_force.Edges(*place, vector + rounded[0], value + rounded[1])
