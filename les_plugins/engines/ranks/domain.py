"""This rank's part of a LAMMPS box: own atoms and ghosts, edges with a graph to own positions and a strain."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from les_plugins.data.metrics import Floats
from les_plugins.electrostatics.parallel.halo import Halo
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.hosting.domains import DomainGraph

#: Å by which edges are sought farther than they are used, so that a list serves some steps.
SKIN = 0.5


@dataclass(frozen=True)
class Domain:
    """One step on this rank.

    Attributes:
        own: (own, 3) Å, a leaf: own positions.
        strain: (3, 3), a leaf, zero.
        positions: (own, 3) Å, strained.
        cell: (1, 3, 3) Å, strained.
        graph: for the host.
    """

    own: Tensor
    strain: Tensor
    positions: Tensor
    cell: Tensor
    graph: DomainGraph

    @property
    def batch(self) -> Tensor:
        """(own,) zeros: one structure."""
        return torch.zeros(len(self.own), dtype=torch.long, device=self.own.device)

    @property
    def pbc(self) -> Tensor:
        """(1, 3): domains are made of periodic boxes."""
        return torch.ones(1, 3, dtype=torch.bool, device=self.own.device)


class Domains:
    """Makes the domain of every step; who owns which ghost and the list of edges are kept while they serve.

    Args:
        ranks: all ranks of LAMMPS.
        cutoff: of the edges, Å.
        device: torch device of the model.
        clock: s, that exchanges of ghosts are counted by.
    """

    def __init__(
        self, ranks: Ranks, cutoff: float, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.clock = clock
        self._ranks, self._cutoff, self._device = ranks, cutoff, device
        self._ids: NDArray[np.int64] = np.full(1, -1, dtype=np.int64)
        self._halo: Halo | None = None
        self._own = -1
        self._places: Floats | None = None  # of all when edges were sought; None where they are of another halo
        self._edges = torch.zeros(2, 0, dtype=torch.long)

    def make(self, n_own: int, ids: NDArray[Any], numbers: NDArray[Any], positions: Floats, cell: Floats) -> Domain:
        """One step's; called by all ranks.

        Args:
            n_own: own atoms.
            ids, numbers, positions: of own atoms, then of ghosts: LAMMPS' ids, atomic numbers, (own + ghosts, 3) Å.
            cell: (3, 3) Å, rows are lattice vectors.
        """
        halo = self._current_halo(n_own, ids)
        places = torch.from_numpy(positions).to(self._device)
        own = places[:n_own].clone().requires_grad_()
        strain = torch.zeros(3, 3, dtype=torch.float64, device=self._device, requires_grad=True)
        deformation = torch.eye(3, dtype=torch.float64, device=self._device) + 0.5 * (strain + strain.T)
        everywhere = _at_places(own, places, halo) @ deformation
        edges = self._current_edges(n_own, positions)
        centre, neighbor = edges
        vector = everywhere.index_select(0, neighbor) - everywhere.index_select(0, centre)
        within = (vector.detach().square().sum(1) < self._cutoff**2).nonzero()[:, 0]
        graph = DomainGraph(
            centre.index_select(0, within),
            neighbor.index_select(0, within),
            vector.index_select(0, within),
            torch.from_numpy(numbers).long().to(self._device),
            halo,
        )
        lattice = torch.from_numpy(cell).to(self._device) @ deformation
        return Domain(own, strain, everywhere[:n_own], lattice[None], graph)

    @property
    def halo(self) -> Halo | None:
        """Of the last step."""
        return self._halo

    @property
    def seconds(self) -> float:
        """That exchanges of ghosts have taken, waiting for other ranks included."""
        return 0.0 if self._halo is None else self._halo.seconds

    def count_by(self, clock: Callable[[], float]) -> None:
        """Take another clock."""
        self.clock = clock
        if self._halo is not None:
            self._halo.clock = clock

    def _current_halo(self, n_own: int, ids: NDArray[Any]) -> Halo:
        """A new one when LAMMPS moved or sorted atoms on any rank."""
        changed = n_own != self._own or not np.array_equal(ids, self._ids)
        flag = torch.tensor(float(changed), dtype=torch.float64, device=self._device)
        if float(self._ranks.maximum(flag)) > 0.0 or self._halo is None:
            self._ids, self._own = np.array(ids, dtype=np.int64), n_own
            every = torch.from_numpy(self._ids).to(self._device)
            former, self._halo = self._halo, Halo(every[:n_own], every[n_own:], self._ranks, self.clock)
            if former is not None:
                self._halo.bytes, self._halo.calls, self._halo.seconds = former.bytes, former.calls, former.seconds
            self._places = None
        return self._halo

    def _current_edges(self, n_own: int, positions: Floats) -> Tensor:
        """(2, E) centre and neighbour of all pairs that may be within the cutoff."""
        if self._places is None or np.square(positions - self._places).sum(1).max(initial=0.0) >= (0.5 * SKIN) ** 2:
            self._places = positions.copy()
            self._edges = torch.from_numpy(_pairs(positions, n_own, self._cutoff + SKIN)).to(self._device)
        return self._edges


def _at_places(own: Tensor, places: Tensor, halo: Halo) -> Tensor:
    """(own + ghosts, 3): LAMMPS' positions of all, with ghosts as the images of their owners that they are."""
    moved: Tensor = _Images.apply(own, places[halo.own :], halo)  # type: ignore[no-untyped-call]
    return torch.cat([own, moved])


class _Images(torch.autograd.Function):
    """Ghosts where LAMMPS has put them: to their owners they are moved by the same."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, places: Tensor, halo: Halo) -> Tensor:
        ctx.halo = halo
        return places.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.halo.to_owners(grad), None, None


def _pairs(positions: Floats, n_own: int, cutoff: float) -> NDArray[np.int64]:
    """(2, E): every own atom with every atom within the cutoff but itself."""
    if not n_own:
        return np.zeros((2, 0), dtype=np.int64)
    found = cKDTree(positions[:n_own]).sparse_distance_matrix(cKDTree(positions), cutoff, output_type="ndarray")
    centre, neighbor = found["i"].astype(np.int64), found["j"].astype(np.int64)
    order = np.lexsort((neighbor, centre))  # sums over neighbours in one order, whatever the tree's
    apart = order[centre[order] != neighbor[order]]
    return np.stack([centre[apart], neighbor[apart]])
