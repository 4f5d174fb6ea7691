"""Conjugate gradients for many structures at once, each to its own convergence. `self_consistent.py` calls it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from les_plugins.electrostatics.local import to_atoms
from les_plugins.errors import ResponseError

Linear = Callable[[Tensor], Tensor]
#: What an iteration takes off the logarithm of the squared residual where it converges fast.
FAST = 8.0
TINY = 1e-300


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
    due, start, on_host = 0, 0.0, right.device.type == "cpu"
    for iteration in range(most):
        active = square > limit
        if iteration == due:
            # the curvatures of the steps before are looked at here: one exchange with the device for all
            far = active.any() if on_host else _distance(square, limit).max()
            worst, some_wrong = torch.stack([far, wrong.any().to(far.dtype)]).tolist()
            if some_wrong:
                number = int(wrong.nonzero()[0])
                raise no_minimum(number, float(curvature[number]))
            if not worst > 0.0:
                return solution, residual, iteration
            start = start or worst
            due += 1 if on_host else _iterations_ahead(worst, start, iteration)
        image, conjugate = operator(direction), metric(direction)
        here = dot(conjugate, image)
        curvature = torch.where(wrong, curvature, here)
        wrong = wrong | (active & ~(here > 0.0))
        step = _ratio(square, here, active)
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


def _distance(square: Tensor, limit: Tensor) -> Tensor:
    """(B,): log of the squared residual over what it is to be, above zero where that is not reached."""
    active = square > limit
    ratio = torch.where(active, square, 1.0) / torch.where(active & (limit > 0.0), limit, 1.0)
    return torch.where(active, ratio.log().clamp(min=TINY), 0.0)


def _iterations_ahead(worst: float, start: float, iteration: int) -> int:
    """How many iterations are needed at least, to ask an accelerator no sooner: to ask is to wait for it.

    Args:
        worst: largest distance now; start: at the first iteration.
        iteration: how many there have been.
    """
    rate = max((start - worst) / iteration, FAST / 8.0) if iteration else FAST
    return max(1, math.floor(0.9 * worst / rate))


def no_minimum(structure: int, curvature: float) -> ResponseError:
    """The error of a structure whose energy has a direction in which it falls without end."""
    return ResponseError(
        f"structure {structure} has no minimum over its induced moments (curvature {curvature:.3g}); its solver's "
        "interaction is not positive semidefinite. Allowed: response: {conserve_charge: true} where the total charge "
        "runs away, or the one-shot response"
    )


def _ratio(numerator: Tensor, denominator: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, numerator / torch.where(where, denominator, 1.0), 0.0)
