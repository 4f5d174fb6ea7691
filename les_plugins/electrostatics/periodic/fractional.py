"""Moments and fields in the coordinates of the lattice, and an energy whose gradients are known beforehand.

`reciprocal.py` and `mesh.py` call it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.periodic.structure_factor import exponents


def fractional_moments(multipoles: Multipoles, inverse: Tensor) -> Tensor:
    """(…, n, M): coefficients of the fractional derivatives in q + u·∇ + ½ Q:∇∇.

    Args:
        multipoles: of the atoms, (…, n), (…, n, 3) and (…, n, 3, 3).
        inverse: (…, 3, 3) of the cells.
    """
    parts = [multipoles.charge.unsqueeze(-1)]
    if multipoles.dipole is not None:
        parts.append(rows_times(multipoles.dipole, inverse))
    elif multipoles.order > 0:
        parts.append(multipoles.charge.new_zeros(*multipoles.charge.shape, 3))
    if multipoles.quadrupole is not None:
        basis = inverse.unsqueeze(-3)
        tensor = (basis.mT @ multipoles.quadrupole @ basis).flatten(-2)
        parts.append(tensor @ _rank_two(tensor.dtype, tensor.device))
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


def rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """(…, n, 3) rows times (…, 3, 3); of batches by one operator, where `@` takes many."""
    return torch.bmm(rows, matrix) if rows.dim() == 3 else rows @ matrix


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # it outlives the call that needed it first
def _rank_two(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(9, 6): ½ Q_ab to the derivative ∂_a ∂_b, in the order of `exponents`."""
    places = {e: place for place, e in enumerate(exponent for exponent in exponents(2) if sum(exponent) == 2)}
    table = torch.zeros(3, 3, 6, dtype=dtype)
    for a in range(3):
        for b in range(3):
            first, second, third = ((a == axis) + (b == axis) for axis in range(3))
            table[a, b, places[first, second, third]] = 0.5
    return table.flatten(0, 1).to(device)


def with_known_gradients(
    value: Tensor, inputs: list[Tensor], gradients: list[Tensor], owners: list[Tensor | None] | None = None
) -> Tensor:
    """`value` without its own graph, with the given gradient, of whatever graph, in each of the inputs.

    Args:
        value: a scalar, or one number for each structure.
        inputs: the last axes of what belongs to the scalar, or to each structure in the first axis.
        gradients: of the shape of the inputs.
        owners: of each input, the structure that each of its numbers belongs to, if it has no axis of structures.
    """
    owners = [None] * len(inputs) if owners is None else owners
    known: Tensor = _KnownGradients.apply(value.detach(), owners, *inputs, *gradients)  # type: ignore[no-untyped-call]
    return known


class _KnownGradients(torch.autograd.Function):
    """A value, and its gradients in the inputs given beside them; they carry their own graph to higher derivatives."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, owners: list[Tensor | None], *inputs_and_gradients: Tensor) -> Tensor:
        ctx.owners = owners
        ctx.save_for_backward(*inputs_and_gradients[len(inputs_and_gradients) // 2 :])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        found = [_share(grad, one, owner) * one for one, owner in zip(gradients, ctx.owners, strict=True)]
        return None, None, *found, *(None for _ in gradients)


def _share(grad: Tensor, one: Tensor, owners: Tensor | None) -> Tensor:
    """What the gradient of every structure multiplies, in a shape that broadcasts with `one`."""
    if owners is not None:
        return grad.index_select(0, owners)
    return grad.view(*grad.shape, *[1] * (one.dim() - grad.dim()))
