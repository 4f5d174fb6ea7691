"""Sums over the ranks of a process group, differentiable to any order. The reciprocal sum and the layer call them.

Two kinds of derivative, and no others. What every rank holds its own piece of, or its own copy of for use in its own
pieces (structure factor, potential, positions, moments), has the loss *summed over the ranks*: `reduce_sum`. What is
one number that every rank holds (the energy) has one loss, which every rank evaluates: `reduce_total`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Ranks:
    """A process group over whose ranks the atoms are spread, and a count of what this rank sends.

    A copy of the module that holds it shares it; it is left out when the module is pickled.

    Args:
        group: of `torch.distributed`; all its ranks take part in every sum.

    Attributes:
        size: number of ranks; rank: this one's place among them.
        calls: sums and exchanges so far.
        bytes: of the tensors summed so far, and of what was exchanged, this rank's part for others. A ring sends
            2 (size − 1) / size times as many as a sum over each rank's wire.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self.group = group
        self.size = torch.distributed.get_world_size(group)
        self.rank = torch.distributed.get_rank(group)
        self.calls = 0
        self.bytes = 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the ranks, on every rank; no derivative."""
        return self._reduce(value, torch.distributed.ReduceOp.SUM)

    def maximum(self, value: Tensor) -> Tensor:
        """Largest over the ranks, on every rank; no derivative."""
        return self._reduce(value, torch.distributed.ReduceOp.MAX)

    def exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        """Rows from all ranks, one rank after the other; no derivative.

        Args:
            rows: (Σ sent, …) for the ranks, one after the other.
            sent, received: number of rows for each rank, and from each.
        """
        out = rows.new_empty(sum(received), *rows.shape[1:])
        torch.distributed.all_to_all_single(out, rows.contiguous(), received, sent, group=self.group)
        self.calls += 1
        self.bytes += (len(rows) - sent[self.rank]) * math.prod(rows.shape[1:]) * rows.element_size()
        return out

    def _reduce(self, value: Tensor, operation: Any) -> Tensor:
        result = value.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(result, operation, group=self.group)
        self.calls += 1
        self.bytes += result.numel() * result.element_size()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _no_ranks, ()


class AtomsOfRanks(NamedTuple):
    """Where this rank's atoms stand among those of all ranks, one rank after the other.

    Attributes:
        ranks: the ranks.
        first: place of this rank's first atom.
        own: number of this rank's atoms.
        total: number of all atoms.
    """

    ranks: Ranks
    first: int
    own: int
    total: int

    @classmethod
    def of(cls, ranks: Ranks, n_atoms: int, device: torch.device) -> AtomsOfRanks:
        """After one exchange of the ranks' numbers of atoms."""
        rank = torch.distributed.get_rank(ranks.group)
        counts = torch.zeros(ranks.size, dtype=torch.int64, device=device)
        counts[rank] = n_atoms
        every = ranks.sum(counts).tolist()
        return cls(ranks, sum(every[:rank]), n_atoms, sum(every))

    def everywhere(self, values: Tensor) -> Tensor:
        """(atoms of all ranks, …) of this rank's (N, …), on every rank."""
        # not cat, whose gradient has no graph where this rank has no atom: it would leave the others waiting
        around = (0, 0) * (values.dim() - 1) + (self.first, self.total - self.first - self.own)
        return reduce_sum(torch.nn.functional.pad(values, around), self.ranks)

    def here(self, values: Tensor) -> Tensor:
        """(N, …) of this rank's atoms: the sum of what all ranks have, each in (atoms of all ranks, …), for them."""
        return reduce_sum(values, self.ranks)[self.first : self.first + self.own]


def reduce_sum(value: Tensor, ranks: Ranks | None) -> Tensor:
    """Σ over the ranks of their parts, for use in each rank's own terms of a loss that is summed over the ranks.

    The gradient of a part is the sum over the ranks of the gradients of the result: forward and backward are the same
    operation, which each rank must therefore reach in the same order, whatever number of atoms it has.

    Args:
        value: this rank's part; the same shape on every rank.
        ranks: the ranks, or None for one process: the value is returned as it is.
    """
    if ranks is None:
        return value
    out: Tensor = _Sum.apply(value, ranks)  # type: ignore[no-untyped-call]
    return out


def reduce_total(value: Tensor, ranks: Ranks | None) -> Tensor:
    """Σ over the ranks of their parts, as one quantity: each rank evaluates the same function of it, which counts once.

    The gradient of a part is that of the result, without communication; in the second derivative the gradient's parts
    are summed.

    Args:
        value: this rank's part; the same shape on every rank.
        ranks: the ranks, or None for one process: the value is returned as it is.
    """
    if ranks is None:
        return value
    out: Tensor = _Total.apply(value, ranks)  # type: ignore[no-untyped-call]
    return out


def _no_ranks() -> None:
    return None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.set_materialize_grads(False)  # nothing is sent where nothing depends on the sum
        ctx.ranks = ranks
        return ranks.sum(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        return None if grad is None else reduce_sum(grad, ctx.ranks), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Copy.apply(grad, ctx.ranks), None  # type: ignore[no-untyped-call]


class _Copy(torch.autograd.Function):
    """One quantity into each rank's own terms: the transpose of `_Total`."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return reduce_total(grad, ctx.ranks), None
