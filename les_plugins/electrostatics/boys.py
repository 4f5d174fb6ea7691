"""Radial ladder of the Gaussian-smeared Coulomb kernel, finite and smooth at r = 0. `open.py` calls it.

erf(a r)/r = (2a/√π) F_0(a² r²) with the Boys function F_n; every further derivative is a Boys function of r², so the
ladder has no cancellation at small r and no singularity in any derivative.
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

#: Below this argument F_n comes from its series, above it from upward recursion (which loses no digit there).
SERIES_LIMIT = 5.0
_SERIES_TERMS = 42
#: Of them are taken together, one power of the argument further each.
STRIDE = 7


def smeared_coulomb_ladder(r_squared: Tensor, sigma: float, order: int) -> tuple[Tensor, ...]:
    """B_0 … B_order of B_0 = erf(r/(√2 σ))/r and B_{n+1} = −(1/r) dB_n/dr.

    Args:
        r_squared: any shape, Å², ≥ 0.
        sigma: smearing width, Å.
        order: highest n.

    Returns:
        order + 1 tensors of that shape, B_n in Å^−(2n+1); differentiable to any order in r².
    """
    scale = 1.0 / (2.0 * sigma**2)
    highest = order + int(r_squared.requires_grad)
    ladder: tuple[Tensor, ...] = _BoysLadder.apply(r_squared * scale, 0, highest)  # type: ignore[no-untyped-call]
    factor = math.sqrt(2.0 / math.pi) / sigma
    return tuple(factor * (2.0 * scale) ** n * boys for n, boys in enumerate(ladder[: order + 1]))


class _BoysLadder(torch.autograd.Function):
    """F_first … F_last of one argument; dF_n/dt = −F_{n+1}, so that the first derivative takes no function but these.

    The last one is there for that alone, and is left out where nothing is differentiated.
    """

    @staticmethod
    def forward(ctx: Any, argument: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        ladder = tuple(_boys(argument, last)[first:])
        ctx.save_for_backward(argument, *ladder)
        ctx.set_materialize_grads(False)
        ctx.last = last
        return ladder

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None]:
        argument, *ladder = ctx.saved_tensors
        if grads[-1] is not None:  # a second derivative, or a third
            above = (ctx.last + 1, ctx.last + 2) if torch.is_grad_enabled() else (ctx.last + 1,) * 2
            ladder.append(_BoysLadder.apply(argument, *above)[0])  # type: ignore[no-untyped-call]
        total = None
        for grad, higher in zip(grads, ladder[1:], strict=False):
            if grad is not None:
                total = -grad * higher if total is None else torch.addcmul(total, grad, higher, value=-1.0)
        return total, None, None


def _boys(argument: Tensor, last: int) -> list[Tensor]:
    """F_0 … F_last(t) = ∫_0^1 x^(2n) exp(−t x²) dx."""
    near = argument < SERIES_LIMIT
    if argument.device.type != "cpu":  # both branches everywhere: to sort the arguments is to wait for the device
        series = _boys_series(argument.clamp(max=SERIES_LIMIT), last)
        upward = _boys_upward(argument.clamp(min=SERIES_LIMIT), last)
        return [torch.where(near, one, other) for one, other in zip(series, upward, strict=True)]
    values = [torch.empty_like(argument) for _ in range(last + 1)]
    for mask, branch in ((near, _boys_series), (~near, _boys_upward)):
        index = mask.nonzero(as_tuple=True)
        if index[0].numel() == argument.numel():
            return branch(argument, last)
        if index[0].numel() > 0:
            for value, part in zip(values, branch(argument[index], last), strict=True):
                value[index] = part
    return values


def _boys_upward(argument: Tensor, last: int) -> list[Tensor]:
    root = argument.sqrt()
    decay = torch.exp(-argument)
    values = [0.5 * math.sqrt(math.pi) * torch.erf(root) / root]
    for n in range(last):
        values.append(((2 * n + 1) * values[n] - decay) / (2.0 * argument))
    return values


def _boys_series(argument: Tensor, last: int) -> list[Tensor]:
    decay = torch.exp(-argument)
    double = 2.0 * argument.flatten()
    # Σ (2t)^k / ((2n+1)(2n+3)…(2n+2k+1)): polynomials of degree STRIDE − 1, joined by Horner's rule in (2t)^STRIDE
    constant, others = _series_table(last, argument.device)
    powers = double.expand(STRIDE, -1).cumprod(0)
    parts = torch.addmm(constant, others, powers[:-1]).unbind()
    total = parts[-1]
    for part in parts[-2::-1]:
        total = torch.addcmul(part, total, powers[-1])
    values = [decay * total.view(argument.shape)]
    for n in range(last - 1, -1, -1):
        values.append((2.0 * argument * values[-1] + decay) / (2 * n + 1))
    return values[::-1]


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # it outlives the call that needed it first
def _series_table(last: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Coefficients of the series of F_last, (n / STRIDE, 1) of the powers 0, STRIDE … and (n / STRIDE, STRIDE − 1)."""
    factors = [1.0 / (2 * last + 2 * k + 1) for k in range(_SERIES_TERMS)]
    table = torch.tensor(list(accumulate(factors, operator.mul)), dtype=torch.float64).view(-1, STRIDE)
    return table[:, :1].to(device), table[:, 1:].to(device)
