"""Conjugate gradients for many structures at once, each to its own convergence. `self_consistent.py` calls it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from les_plugins.electrostatics.local import to_atoms
from les_plugins.errors import ResponseError

Linear = Callable[[Tensor], Tensor]


def conjugate_gradients(
    operator: Linear,
    metric: Linear,
    right: Tensor,
    batch: Tensor,
    total: Linear,
    tolerance: float,
    most: int,
    guess: tuple[Tensor, Tensor] | None = None,
    floor: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor, int]:
    """Solve A v = right, where W A is symmetric and positive definite on the range of the positive semidefinite W.

    The inner product is a·W·b: what W does not see is left as it falls.

    Args:
        operator: v → A v for all structures together, (N, d) → (N, d); does not mix structures.
        metric: v → W v, likewise.
        right: (N, d).
        batch: (N,) structure of each row.
        total: sums (B,) of (N,) over the rows of each structure.
        tolerance: largest remaining ‖A v − right‖ over ‖right‖, in the norm of W, of every structure.
        most: iterations.
        guess: a v and its A v; a structure starts there if that is nearer than zero.
        floor: (B,) squared norm of W that is rounding: nothing below it is solved for.

    Returns:
        v (N, d), right − A v, and the number of iterations.

    Raises:
        ResponseError: a direction in which W A is not positive, or no convergence.
    """

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return total((one * other).sum(1))

    residual, solution = right, torch.zeros_like(right)
    square = dot(residual, metric(residual))
    limit = torch.clamp(tolerance**2 * square, min=floor)
    if guess is not None:
        closer = right - guess[1]
        nearer = dot(closer, metric(closer))
        use = to_atoms(nearer < square, batch)[:, None]
        residual, solution = torch.where(use, closer, residual), torch.where(use, guess[0], solution)
        square = torch.minimum(nearer, square)
    direction = residual
    curvature, wrong = torch.ones_like(square), torch.zeros_like(square, dtype=torch.bool)
    for iteration in range(most):
        active = square > limit
        # the curvature of the step before is looked at here: one exchange with the device for both
        some_active, some_wrong = torch.stack([active.any(), wrong.any()]).tolist()
        if some_wrong:
            number = int(wrong.nonzero()[0])
            raise ResponseError(
                f"structure {number} has no minimum over its induced moments (curvature "
                f"{float(curvature[number]):.3g}); its solver's interaction is not positive semidefinite. Allowed: "
                "response: {conserve_charge: true} where the total charge runs away, or the one-shot response"
            )
        if not some_active:
            return solution, residual, iteration
        image, conjugate = operator(direction), metric(direction)
        curvature = dot(conjugate, image)
        wrong = active & ~(curvature > 0.0)
        step = _ratio(square, curvature, active)
        along = to_atoms(step, batch)[:, None]
        solution, residual = solution + along * direction, residual - along * image
        before, square = square, dot(residual, metric(residual))
        # a structure that has converged moves no further
        direction = to_atoms(active.to(right.dtype), batch)[:, None] * (
            residual + to_atoms(_ratio(square, before, active), batch)[:, None] * direction
        )
    if not bool((square > limit).any()):
        return solution, residual, most
    number = int((square > limit).nonzero()[0])
    reached = float((square[number] / limit[number]).sqrt()) * tolerance
    raise ResponseError(
        f"induced moments of structure {number} have a relative residual of {reached:.1g} after {most} iterations; "
        f"asked for: {tolerance:g}. Allowed: a larger tolerance of the response"
    )


def _ratio(numerator: Tensor, denominator: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, numerator / torch.where(where, denominator, 1.0), 0.0)
