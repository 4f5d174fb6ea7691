"""Values of atoms that other ranks own: each rank's own atoms, then its ghosts, copies of its neighbours.

An engine that cuts the box into domains makes one (`engines.ranks`); hosts exchange the features of ghosts with it,
heads and the layer what belongs to neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor

from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.errors import GeometryError


class Halo:
    """Who owns which ghost of this rank, and which of its atoms are ghosts elsewhere.

    Every method is called by all ranks, one without atoms too, in the same order; so is the backward pass. It can be
    differentiated to any order, but for the exchange of features by ML-IAP's names, which is differentiated once by
    the hosts that call it.

    Args:
        own_ids: (own,) int64, of this rank's atoms; each id has one owner among all ranks.
        ghost_ids: (ghosts,) int64, of their periodic images and of other ranks' atoms; an id may occur many times.
        ranks: the ranks.
        clock: s, that `seconds` counts by.

    Attributes:
        ranks: the ranks.
        first: 0, place of the first own atom.
        own, ghosts, total: numbers of atoms; total is their sum.
        nlocal, ntotal: own and total, by the names of ML-IAP.
        bytes: given to `all_to_all` for other ranks by this rank so far.
        calls: exchanges so far.
        seconds: that they took, waiting for other ranks included.

    Raises:
        GeometryError: a ghost that nobody owns, or two owners of an id, on every rank.
    """

    first = 0

    def __init__(
        self, own_ids: Tensor, ghost_ids: Tensor, ranks: Ranks, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.ranks, self.own, self.ghosts = ranks, len(own_ids), len(ghost_ids)
        self.nlocal = self.own
        self.total = self.ntotal = self.own + self.ghosts
        self.bytes = self.calls = 0
        self.seconds = 0.0
        self.clock = clock
        self._rank = torch.distributed.get_rank(ranks.group)
        found = _owners(own_ids, ghost_ids, ranks)
        wrong = torch.stack([(found.rank < 0).any(), found.twice]).double()
        missing, twice = ranks.maximum(wrong).tolist()
        if twice > 0.0:
            raise GeometryError("two atoms have one id; allowed: one each")
        if missing > 0.0:
            raise GeometryError("ghost atoms without an owner: an atom was lost")
        self._order = torch.argsort(found.rank, stable=True)  # ghosts by their owner's rank
        place = found.place[self._order]
        self._received = torch.bincount(found.rank, minlength=ranks.size).tolist()
        self._index, self._sent = _exchange(place, self._received, ranks)

    def with_ghosts(self, values: Tensor) -> Tensor:
        """(own + ghosts, …) of the (own, …) of every rank: each ghost has what its owner has."""
        return torch.cat([values, self.to_ghosts(values)])

    def to_ghosts(self, values: Tensor) -> Tensor:
        """(ghosts, …) of the (own, …) of every rank."""
        out: Tensor = _ToGhosts.apply(values, self)  # type: ignore[no-untyped-call]
        return out

    def to_owners(self, values: Tensor) -> Tensor:
        """(own, …): for each own atom the sum over its ghosts on all ranks of their (ghosts, …)."""
        out: Tensor = _ToOwners.apply(values, self)  # type: ignore[no-untyped-call]
        return out

    def everywhere(self, values: Tensor) -> Tensor:
        """As `with_ghosts`; the name that `AtomsOfRanks` has for what neighbours see."""
        return self.with_ghosts(values)

    def here(self, values: Tensor) -> Tensor:
        """(own, …) of (own + ghosts, …): what was put on ghosts is added to their owners."""
        return values[: self.own] + self.to_owners(values[self.own :])

    def forward_exchange(self, values: Tensor, out: Tensor, length: int) -> None:
        """ML-IAP's: (own + ghosts, length) into `out`, ghosts as their owners; no derivative."""
        out[: self.own] = values[: self.own]
        out[self.own :] = self._send_to_ghosts(values[: self.own].detach())

    def reverse_exchange(self, values: Tensor, out: Tensor, length: int) -> None:
        """ML-IAP's: (own + ghosts, length) into `out`, what ghosts have added to their owners; no derivative."""
        out[: self.own] = values[: self.own] + self._send_to_owners(values[self.own :].detach())
        out[self.own :] = 0.0

    def _send_to_ghosts(self, own: Tensor) -> Tensor:
        got = self._all_to_all(own.index_select(0, self._index), self._received, self._sent)
        ghosts = torch.empty_like(got)
        ghosts[self._order] = got
        return ghosts

    def _send_to_owners(self, ghosts: Tensor) -> Tensor:
        got = self._all_to_all(ghosts.index_select(0, self._order), self._sent, self._received)
        return got.new_zeros(self.own, *got.shape[1:]).index_add_(0, self._index, got)

    def _all_to_all(self, values: Tensor, received: list[int], sent: list[int]) -> Tensor:
        if self.ranks.size == 1:
            return values
        row = values[:1].numel() * values.element_size()
        self.bytes += row * (len(values) - sent[self._rank])
        self.calls += 1
        began = self.clock()
        out = values.new_empty(sum(received), *values.shape[1:])
        torch.distributed.all_to_all_single(out, values.contiguous(), received, sent, group=self.ranks.group)
        self.seconds += self.clock() - began
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Halo:
        return self


class _Owners(NamedTuple):
    """Rank that owns each ghost, −1 for nobody, and its place among that rank's atoms; whether an id has two owners."""

    rank: Tensor
    place: Tensor
    twice: Tensor


def _owners(own_ids: Tensor, ghost_ids: Tensor, ranks: Ranks) -> _Owners:
    """By a directory that is spread over the ranks: rank id % size knows who owns an id."""
    size = ranks.size
    # to the directory: (id, place) of own atoms
    keeper = own_ids % size
    order = torch.argsort(keeper, stable=True)
    places = torch.arange(len(own_ids), device=own_ids.device)
    told, counts = _exchange(
        torch.stack([own_ids, places], 1)[order], torch.bincount(keeper, minlength=size).tolist(), ranks
    )
    teller = torch.repeat_interleave(
        torch.arange(size, device=own_ids.device), torch.tensor(counts, device=own_ids.device)
    )
    known, by_id = told[:, 0].sort()
    # ask the directory, each ghost's once
    wanted, of_ghost = torch.unique(ghost_ids, return_inverse=True)
    keeper = wanted % size
    order = torch.argsort(keeper, stable=True)
    asked_of = torch.bincount(keeper, minlength=size).tolist()
    asked, counts = _exchange(wanted[order], asked_of, ranks)
    place = torch.searchsorted(known, asked).clamp(max=max(len(known) - 1, 0))
    answer = torch.full((len(asked), 2), -1, dtype=torch.long, device=own_ids.device)
    if len(known) and len(asked):
        entry = by_id[place]
        right = known[place] == asked
        answer[right] = torch.stack([teller[entry], told[entry, 1]], 1)[right]
    back, _ = _exchange(answer, counts, ranks)
    found = torch.empty_like(back)
    found[order] = back
    rank, place = found[of_ghost].unbind(1)
    return _Owners(rank, place, (known[1:] == known[:-1]).any())


def _exchange(rows: Tensor, counts: list[int], ranks: Ranks) -> tuple[Tensor, list[int]]:
    """Rows, sorted by the rank they go to, exchanged; those that came, by the rank they are from, and how many each."""
    if ranks.size == 1:
        return rows, counts
    sent = torch.tensor(counts, device=rows.device)
    coming = torch.empty_like(sent)
    torch.distributed.all_to_all_single(coming, sent, group=ranks.group)
    received = coming.tolist()
    out = rows.new_empty(sum(received), *rows.shape[1:])
    torch.distributed.all_to_all_single(out, rows.contiguous(), received, counts, group=ranks.group)
    return out, received


class _ToGhosts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, halo: Halo) -> Tensor:
        ctx.halo = halo
        return halo._send_to_ghosts(own)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.halo.to_owners(grad), None


class _ToOwners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ghosts: Tensor, halo: Halo) -> Tensor:
        ctx.halo = halo
        return halo._send_to_owners(ghosts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.halo.to_ghosts(grad), None
