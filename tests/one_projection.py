"""Derivatives against differences by one random projection of the whole Jacobian, all inputs together.

As strict as every entry, once a wrong one is not orthogonal to the projection. The tolerance is a thousandth of
gradcheck's own, so that inputs with small derivatives are seen beside those with large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

#: Central differences: eps² times two more derivatives, and rounding over eps, some 1e-8.
SETTINGS: dict[str, Any] = {"fast_mode": True, "eps": 1e-5, "rtol": 1e-6, "atol": 1e-8}


def first_derivatives_hold(function: Callable[..., Any], values: Sequence[Tensor], **settings: Any) -> bool:
    """gradcheck; arguments as there."""
    return gradcheck(*_together(function, values), **{**SETTINGS, **settings})


def second_derivatives_hold(function: Callable[..., Any], values: Sequence[Tensor], **settings: Any) -> bool:
    """gradgradcheck; arguments as there."""
    return gradgradcheck(*_together(function, values), **{**SETTINGS, **settings})


def _together(function: Callable[..., Any], values: Sequence[Tensor]) -> tuple[Callable[[Tensor], Any], Tensor]:
    sizes = [value.numel() for value in values]

    def of_one(flat: Tensor) -> Any:
        pieces = zip(values, flat.split(sizes), strict=True)
        return function(*(piece.view_as(value) for value, piece in pieces))

    return of_one, torch.cat([value.detach().flatten() for value in values]).requires_grad_()
