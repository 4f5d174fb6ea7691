"""The factored transform between atomic moments and the reciprocal grid, and its adjoint. `reciprocal.py` calls it.

exp(2πi n·s) is a product of three one-dimensional factors, so that both directions are matrix products. Each is the
other's transpose and differs from its own derivative only in the rank of the moments: two small autograd functions
that call each other give every order of derivative, without autograd recording anything inside the sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

#: Bytes of intermediate arrays held at once: small enough to stay in the processor's cache.
WORKSPACE_BYTES = 4 << 20


@dataclass(frozen=True)
class ReciprocalGrid:
    """Integer half-space grid of one cell: rows ±n along one axis, pairs (half plane) of the other two.

    Attributes:
        axes: which lattice axis is the row axis, and which two make the pairs.
        rows: number of rows, n = 0 … rows − 1; +n and −n share a row.
        pairs: (P, 2) float64, ordered so that the pairs that a row needs always come first.
        columns: (2, P) int64, place of each pair's factors in a table that starts at −extent.
        extent: largest |n| along each pair axis.
        blocks: (first row, last row + 1, number of pairs) of the grid's occupied parts.
        multiplicity: (rows, P, 2) float64, of +n and −n: 1 for a vector inside the cutoff sphere, 0 outside; where
            +n and −n are the same vector (n = 0) or conjugates (pair (0, 0)), ½ each.
    """

    axes: tuple[int, int, int]
    rows: int
    pairs: Tensor
    columns: Tensor
    extent: tuple[int, int]
    blocks: tuple[tuple[int, int, int], ...]
    multiplicity: Tensor


@cache
def exponents(order: int) -> tuple[tuple[int, int, int], ...]:
    """Exponents (p, q, r) of every derivative of rank ≤ order along (row, pair, pair) axes, grouped by p."""
    return tuple(
        (p, q, total - q)
        for p in range(order + 1)
        for total in range(order - p + 1)
        for q in range(total, -1, -1)
    )


@cache
def _raised(order: int, axis: int) -> tuple[int, ...]:
    """Index in exponents(order + 1) of every derivative of exponents(order), differentiated once more along `axis`."""
    place = {e: i for i, e in enumerate(exponents(order + 1))}
    step = [(1, 0, 0), (0, 1, 0), (0, 0, 1)][axis]
    return tuple(place[(p + step[0], q + step[1], r + step[2])] for p, q, r in exponents(order))


@cache
def _kept(order: int) -> tuple[int, ...]:
    """Index in exponents(order + 1) of every derivative of exponents(order)."""
    place = {e: i for i, e in enumerate(exponents(order + 1))}
    return tuple(place[e] for e in exponents(order))


def moments_to_grid(fractional: Tensor, moments: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    """Structure-factor components of point moments.

    Args:
        fractional: (N, 3) fractional coordinates in the grid's axis order.
        moments: (N, M) coefficient of every derivative of `exponents(order)`.
        grid: the reciprocal grid.
        order: highest rank of the moments.

    Returns:
        (2·rows, 2·P): Σ_i moments · derivative of {cos, sin}(2π n s_row) × {Re, Im} exp(2πi pair·s_pair).
    """
    out: Tensor = _MomentsToGrid.apply(fractional, moments, grid, order)
    return out


def grid_to_moments(fractional: Tensor, components: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    """Transpose of `moments_to_grid`: (N, M) derivatives, at the atoms, of the function with the given components."""
    out: Tensor = _GridToMoments.apply(fractional, components, grid, order)
    return out


class _MomentsToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fractional: Tensor, moments: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
        ctx.save_for_backward(fractional, moments)
        ctx.grid, ctx.order = grid, order
        return _spread(fractional, moments, grid, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        fractional, moments = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, grid_to_moments(fractional, grad, ctx.grid, ctx.order), None, None
        local = grid_to_moments(fractional, grad, ctx.grid, ctx.order + 1)
        return _position_gradient(moments, local, ctx.order), local[:, list(_kept(ctx.order))], None, None


class _GridToMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fractional: Tensor, components: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
        ctx.save_for_backward(fractional, components)
        ctx.grid, ctx.order = grid, order
        return _gather(fractional, components, grid, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        fractional, components = ctx.saved_tensors
        on_position = on_components = None
        if ctx.needs_input_grad[0]:
            local = grid_to_moments(fractional, components, ctx.grid, ctx.order + 1)
            on_position = _position_gradient(grad, local, ctx.order)
        if ctx.needs_input_grad[1]:
            on_components = moments_to_grid(fractional, grad, ctx.grid, ctx.order)
        return on_position, on_components, None, None


def _position_gradient(moments: Tensor, local: Tensor, order: int) -> Tensor:
    """Σ moments · (derivatives one rank higher), along each fractional axis: (N, 3)."""
    return torch.stack([(moments * local[:, list(_raised(order, axis))]).sum(1) for axis in range(3)], 1)


def _spread(fractional: Tensor, moments: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    n_pairs = len(grid.pairs)
    out = fractional.new_zeros(2 * grid.rows, 2 * n_pairs)
    monomials = _pair_monomials(grid.pairs, order)
    for atoms in _chunks(len(fractional), n_pairs, order):
        rows = _row_basis(fractional[atoms, 0], grid.rows, order)
        phases = _pair_phases(fractional[atoms], grid)
        spread = phases.new_empty(order + 1, len(phases), n_pairs)
        first = 0
        for p in range(order + 1):
            count = _pair_count(order - p)
            weights = moments[atoms, first : first + count] @ monomials[:count]
            torch.mul(torch.view_as_complex(weights.view(len(phases), n_pairs, 2)), phases, out=spread[p])
            first += count
        flat = torch.view_as_real(spread).view(-1, 2 * n_pairs)
        rows = rows.view(len(flat), 2 * grid.rows)
        for low, high, count in grid.blocks:
            out[2 * low : 2 * high, : 2 * count].addmm_(rows[:, 2 * low : 2 * high].T, flat[:, : 2 * count])
    return out


def _gather(fractional: Tensor, components: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    n_pairs = len(grid.pairs)
    out = fractional.new_empty(len(fractional), len(exponents(order)))
    monomials = _pair_monomials(grid.pairs, order)
    for atoms in _chunks(len(fractional), n_pairs, order):
        rows = _row_basis(fractional[atoms, 0], grid.rows, order)
        phases = _pair_phases(fractional[atoms], grid).conj()
        flat = rows.view(-1, 2 * grid.rows)
        gathered = flat.new_zeros(len(flat), 2 * n_pairs)
        for low, high, count in grid.blocks:
            gathered[:, : 2 * count].addmm_(flat[:, 2 * low : 2 * high], components[2 * low : 2 * high, : 2 * count])
        local = torch.view_as_complex(gathered.view(order + 1, len(phases), n_pairs, 2))
        local *= phases
        first = 0
        for p in range(order + 1):
            count = _pair_count(order - p)
            values = torch.view_as_real(local[p]).view(len(phases), 2 * n_pairs)
            out[atoms, first : first + count] = values @ monomials[:count].T
            first += count
    return out


def _chunks(n_atoms: int, n_pairs: int, order: int) -> list[slice]:
    size = max(16, WORKSPACE_BYTES // (16 * (order + 3) * n_pairs))
    return [slice(start, min(start + size, n_atoms)) for start in range(0, n_atoms, size)]


def _pair_count(order: int) -> int:
    return (order + 1) * (order + 2) // 2


def _row_basis(coordinate: Tensor, rows: int, order: int) -> Tensor:
    """(order + 1, n, rows, 2): {cos, sin}(2π n s) and their derivatives in s."""
    wave = 2.0 * math.pi * torch.arange(rows, dtype=coordinate.dtype, device=coordinate.device)
    angle = coordinate[:, None] * wave
    basis = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
    derivatives = [basis]
    for _ in range(order):
        last = derivatives[-1]
        derivatives.append(torch.stack([-last[..., 1], last[..., 0]], -1) * wave[:, None])
    return torch.stack(derivatives)


def _pair_phases(fractional: Tensor, grid: ReciprocalGrid) -> Tensor:
    """(n, P) complex: exp(2πi pair·s)."""
    factors = []
    for axis, (columns, extent) in enumerate(zip(grid.columns, grid.extent, strict=True), start=1):
        wave = 2.0 * math.pi * torch.arange(-extent, extent + 1, dtype=fractional.dtype, device=fractional.device)
        angle = fractional[:, axis, None] * wave
        factors.append(torch.polar(torch.ones_like(angle), angle).index_select(1, columns))
    return factors[0].mul_(factors[1])


def _pair_monomials(pairs: Tensor, order: int) -> Tensor:
    """(monomials, 2·P): real and imaginary part of (2πi n_2)^q (2πi n_3)^r, in the order of `exponents` at p = 0."""
    wave = 2.0 * math.pi * pairs
    values = []
    for _, q, r in exponents(order)[: _pair_count(order)]:
        size = wave[:, 0] ** q * wave[:, 1] ** r
        real, imaginary = [(1, 0), (0, 1), (-1, 0), (0, -1)][(q + r) % 4]
        values.append(torch.stack([real * size, imaginary * size], -1).flatten())
    return torch.stack(values)
