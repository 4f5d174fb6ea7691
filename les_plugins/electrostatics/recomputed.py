"""A function whose intermediate values are not kept but computed again, for derivatives of any order.

`torch.utils.checkpoint` does so for the first derivative; the graph of that one keeps everything. `open.py` calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


def recomputed(function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
    """function(*tensors), at the memory of its arguments and results.

    Args:
        function: of floating-point tensors, to a tuple of them; it must do the same whenever it is called.
        tensors: all that it is differentiated in.
    """
    out: tuple[Tensor, ...] = _Recomputed.apply(function, *tensors)  # type: ignore[no-untyped-call]
    return out


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        pull = _pullback(ctx.function, needed, tuple(grad is not None for grad in grads))
        given = [grad for grad in grads if grad is not None]
        slopes = iter(recomputed(pull, *ctx.saved_tensors, *given))
        return None, *(next(slopes) if need else None for need in needed)


def _pullback(function: Function, needed: tuple[bool, ...], used: tuple[bool, ...]) -> Function:
    """From arguments, and slopes in the results that are used, to slopes in the arguments that need one."""

    def pull(*values: Tensor) -> tuple[Tensor, ...]:
        differentiated = torch.is_grad_enabled()
        with torch.enable_grad():
            # names of their own, so that slopes are those of this function alone
            arguments = [
                _variable(value, differentiated) if need else value for value, need in zip(values, needed, strict=False)
            ]
            wanted = [value for value, need in zip(arguments, needed, strict=True) if need]
            results = [value for value, use in zip(function(*arguments), used, strict=True) if use]
            pairs = zip(results, values[len(needed) :], strict=True)
            dependent = [(value, grad) for value, grad in pairs if value.requires_grad]
            if not dependent:
                return tuple(torch.zeros_like(value) for value in wanted)
            outputs, slopes = zip(*dependent, strict=True)
            return torch.autograd.grad(outputs, wanted, slopes, create_graph=differentiated, materialize_grads=True)

    return pull


def _variable(value: Tensor, differentiated: bool) -> Tensor:
    return value.view_as(value) if differentiated and value.requires_grad else value.detach().requires_grad_()
