"""Moments and fields in the coordinates of the lattice, and an energy whose gradients are known beforehand.

`reciprocal.py` and `mesh.py` call it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from les_plugins.electrostatics.local import LocalFields, derivatives_of
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.periodic.structure_factor import exponents


def fractional_moments(multipoles: Multipoles, inverse: Tensor) -> Tensor:
    """(n, M): coefficients of the fractional derivatives in q + u·∇ + ½ Q:∇∇."""
    order = multipoles.order
    by_exponent = {(0, 0, 0): multipoles.charge}
    if multipoles.dipole is not None:
        dipole = multipoles.dipole @ inverse
        by_exponent |= {(1, 0, 0): dipole[:, 0], (0, 1, 0): dipole[:, 1], (0, 0, 1): dipole[:, 2]}
    elif order > 0:
        zero = torch.zeros_like(multipoles.charge)
        by_exponent |= {(1, 0, 0): zero, (0, 1, 0): zero, (0, 0, 1): zero}
    if multipoles.quadrupole is not None:
        quadrupole = inverse.T @ (0.5 * (multipoles.quadrupole + multipoles.quadrupole.transpose(1, 2))) @ inverse
        for exponent in exponents(2):
            if sum(exponent) == 2:
                a, b = (axis for axis, power in enumerate(exponent) for _ in range(power))
                by_exponent[exponent] = quadrupole[:, a, b] * (0.5 if a == b else 1.0)
    return torch.stack([by_exponent[e] for e in exponents(order)], 1)


def cartesian_fields(local: tuple[Tensor, ...], inverse: Tensor) -> LocalFields:
    """Potential and Cartesian derivatives from the fractional ones, (n, 1), (n, 3) and, of rank 2, (n, 6)."""
    second = None
    if len(local) == 3:
        rank_two = [exponent for exponent in exponents(2) if sum(exponent) == 2]
        second = inverse @ derivatives_of(dict(zip(rank_two, local[2].unbind(1), strict=True)), 2) @ inverse.T
    return LocalFields(local[0][:, 0], local[1] @ inverse.T, second)


def with_known_gradients(value: Tensor, inputs: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """The scalar `value` without its own graph, with the given gradient, of whatever graph, in each of the inputs."""
    known: Tensor = _KnownGradients.apply(value.detach(), *inputs, *gradients)  # type: ignore[no-untyped-call]
    return known


class _KnownGradients(torch.autograd.Function):
    """A value, and its gradients in the inputs given beside them; they carry their own graph to higher derivatives."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *inputs_and_gradients: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs_and_gradients[len(inputs_and_gradients) // 2 :])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return None, *(grad * gradient for gradient in gradients), *(None for _ in gradients)
