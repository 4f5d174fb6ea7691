"""Rows of atoms to the ranks that work on them, and results back: differentiable to any order. The mesh calls it.

Unlike a halo's, these ranks need not own neighbours, and an atom may go to several, or to none but its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from les_plugins.electrostatics.parallel.reduction import Ranks


class Routes:
    """Which atoms of this rank go to which ranks.

    Every method is called by all ranks in the same order, one without atoms too; so is the backward pass, which is the
    other method.

    Args:
        index: (rows,) of atoms, for one rank after the other.
        sent, received: number of rows for each rank, and from each.
        n_atoms: of this rank.
        ranks: the ranks.
    """

    def __init__(self, index: Tensor, sent: list[int], received: list[int], n_atoms: int, ranks: Ranks) -> None:
        self._index, self._sent, self._received = index, sent, received
        self._n_atoms, self._ranks = n_atoms, ranks

    @classmethod
    def of(cls, takers: Tensor, ranks: Ranks) -> Routes:
        """From (ranks, N), whether a rank takes an atom, by one exchange of numbers of rows."""
        sent = takers.sum(1)
        received = ranks.exchange(sent, [1] * ranks.size, [1] * ranks.size)
        numbers = torch.stack([sent, received]).tolist()
        return cls(takers.nonzero()[:, 1], numbers[0], numbers[1], takers.shape[1], ranks)

    def forth(self, *values: Tensor) -> tuple[Tensor, ...]:
        """(rows received, w) of this rank's (N, w), each; all in one exchange."""
        out: tuple[Tensor, ...] = _Forth.apply(self, *values)  # type: ignore[no-untyped-call]
        return out

    def back(self, *values: Tensor) -> tuple[Tensor, ...]:
        """(N, w) of (rows received, w), each: the sum of what the ranks that took an atom have for it."""
        out: tuple[Tensor, ...] = _Back.apply(self, *values)  # type: ignore[no-untyped-call]
        return out

    def _send(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = torch.cat(values, 1).index_select(0, self._index)
        return _split(self._ranks.exchange(rows, self._sent, self._received), values)

    def _return(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = self._ranks.exchange(torch.cat(values, 1), self._received, self._sent)
        whole = rows.new_zeros(self._n_atoms, rows.shape[1]).index_add_(0, self._index, rows)
        return _split(whole, values)


class _Forth(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, routes: Routes, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # nothing is sent for what nothing depends on
        ctx.routes = routes
        return _outputs(ctx, routes._send(values))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_where_given(ctx.routes.back, grads, ctx.needs_input_grad[1:])


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, routes: Routes, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.routes = routes
        return _outputs(ctx, routes._return(values))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_where_given(ctx.routes.forth, grads, ctx.needs_input_grad[1:])


def _split(rows: Tensor, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = rows.split([value.shape[1] for value in like], 1)
    return parts


def _outputs(ctx: Any, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Tensors of their own, without a gradient where the argument has none."""
    out = tuple(value.contiguous() for value in values)
    needed = ctx.needs_input_grad[1:]
    ctx.mark_non_differentiable(*(value for value, need in zip(out, needed, strict=True) if not need))
    return out


def _where_given(move: Any, grads: tuple[Tensor | None, ...], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Those gradients that there are, moved together."""
    there = [grad for grad, need in zip(grads, needed, strict=True) if need and grad is not None]
    moved = iter(move(*there) if there else ())
    return [next(moved) if need and grad is not None else None for grad, need in zip(grads, needed, strict=True)]
