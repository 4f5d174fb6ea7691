"""The factored transform between atomic moments and the reciprocal grid, and its adjoint. `reciprocal.py` calls it.

exp(2πi n·s) is a product of three one-dimensional factors, so that both directions are matrix products. Each is the
other's transpose and differs from its own derivative only in the rank of the moments: two small autograd functions
that call each other give every order of derivative, without autograd recording anything inside the sums.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from les_plugins.electrostatics.settings import MEBIBYTE, WORKSPACE

#: Atoms taken together at least, whatever the workspace: fewer make the matrix products slow.
FEWEST_ATOMS = 16


class MomentTransform(Protocol):
    """A linear map of moments to something like a grid, and its transpose: what the autograd functions below need."""

    def spread(self, fractional: Tensor, moments: Tensor, order: int) -> Tensor:
        """What moments (N, M), one for each derivative of `exponents(order)`, at places (N, 3) give on the grid."""

    def gather(self, fractional: Tensor, values: Tensor, order: int) -> Tensor:
        """(N, M): its transpose."""


class Slab(NamedTuple):
    """A box of the grid: rows 0 … rows − 1, `second` and `third` as half-open ranges, `points` as its place in all."""

    rows: int
    second: tuple[int, int]
    third: tuple[int, int]
    points: tuple[int, int]


class ReciprocalGrid(NamedTuple):
    """Integer half-space grid of one cell, cut into slabs along its second axis that fit the cutoff sphere closely.

    Attributes:
        axes: which lattice axis is the first, the row axis, and which are the second and the third.
        extent: largest |n| along each of them.
        slabs: the boxes, which follow each other in the points; the second index is ≥ 0.
        row: (T,) float64, first index of every point; +n and −n share a point.
        pair: (T, 2) float64, its second and third index.
        multiplicity: (T, 2) float64, of +n and −n: 1 for a vector inside the cutoff sphere, 0 outside; where +n and −n
            are the same vector (n = 0) or conjugates (pair (0, 0)), ½ each.
        workspace: bytes of intermediate arrays that a transform may hold at once.
        products: type of the matrix products, float64 or float32; phases and sums over products are float64.
    """

    axes: tuple[int, int, int]
    extent: tuple[int, int, int]
    slabs: tuple[Slab, ...]
    row: Tensor
    pair: Tensor
    multiplicity: Tensor
    workspace: int = int(WORKSPACE * MEBIBYTE)
    products: torch.dtype = torch.float64

    def spread(self, fractional: Tensor, moments: Tensor, order: int) -> Tensor:
        """Structure-factor components (2, T, 2), see `moments_to_grid`."""
        return _spread(fractional, moments, self, order)

    def gather(self, fractional: Tensor, values: Tensor, order: int) -> Tensor:
        """(N, M): the transpose of `spread`."""
        return _gather(fractional, values, self, order)


@cache
def exponents(order: int) -> tuple[tuple[int, int, int], ...]:
    """Exponents (p, q, r) of every derivative of rank ≤ order along the grid's axes, by rank."""
    return tuple(
        (p, q, rank - p - q) for rank in range(order + 1) for p in range(rank, -1, -1) for q in range(rank - p, -1, -1)
    )


@cache
def _raised(order: int, axis: int) -> tuple[int, ...]:
    """Index in exponents(order + 1) of every derivative of exponents(order), differentiated once more along `axis`."""
    place = {e: i for i, e in enumerate(exponents(order + 1))}
    step = [(1, 0, 0), (0, 1, 0), (0, 0, 1)][axis]
    return tuple(place[(p + step[0], q + step[1], r + step[2])] for p, q, r in exponents(order))


@cache
def cubic(order: int) -> tuple[int, ...]:
    """Place of every derivative of exponents(order) in a flattened (order + 1)³ cube."""
    return tuple((p * (order + 1) + q) * (order + 1) + r for p, q, r in exponents(order))


def moments_to_grid(fractional: Tensor, moments: Tensor, grid: MomentTransform, order: int) -> Tensor:
    """Structure-factor components of point moments.

    Args:
        fractional: (N, 3) fractional coordinates in the grid's axis order.
        moments: (N, M) coefficient of every derivative of `exponents(order)`.
        grid: the reciprocal grid, or a mesh.
        order: highest rank of the moments.

    Returns:
        (2, T, 2): Σ_i moments · derivative of {cos, sin}(2π n s_row) × {Re, Im} exp(2πi pair·s_pair).
    """
    out: Tensor = _MomentsToGrid.apply(fractional, moments, grid, order)  # type: ignore[no-untyped-call]
    return out


def grid_to_moments(fractional: Tensor, components: Tensor, grid: MomentTransform, order: int) -> tuple[Tensor, ...]:
    """Transpose of `moments_to_grid`: derivatives, at the atoms, of the function with the given components.

    One tensor (N, 1), (N, 3), (N, 6) … for each rank ≤ order: the ranks that nothing depends on cost no backward. So
    join no more of them than are used: a joined one that is not receives zeros, and its transform is done.
    """
    out: tuple[Tensor, ...] = _GridToMoments.apply(fractional, components, grid, order)  # type: ignore[no-untyped-call]
    return out


def position_gradient(moments: Tensor, local: Tensor, order: int) -> Tensor:
    """Σ moments · (derivatives one rank higher), along each fractional axis: (N, 3)."""
    return torch.stack([(moments * local[:, list(_raised(order, axis))]).sum(1) for axis in range(3)], 1)


class _MomentsToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fractional: Tensor, moments: Tensor, grid: MomentTransform, order: int) -> Tensor:
        ctx.save_for_backward(fractional, moments)
        ctx.set_materialize_grads(False)
        ctx.grid, ctx.order = grid, order
        return grid.spread(fractional, moments, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        if grad is None:
            return None, None, None, None
        fractional, moments = ctx.saved_tensors
        highest = ctx.order + 1 if ctx.needs_input_grad[0] else ctx.order
        # with a graph, a further derivative follows: it finds its rank ready and needs no transform of its own
        spare = int(torch.is_grad_enabled() and grad.requires_grad)
        local = torch.cat(grid_to_moments(fractional, grad, ctx.grid, highest + spare)[: highest + 1], 1)
        on_position = position_gradient(moments, local, ctx.order) if ctx.needs_input_grad[0] else None
        return on_position, local[:, : moments.shape[1]], None, None


class _GridToMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fractional: Tensor, components: Tensor, grid: MomentTransform, order: int
    ) -> tuple[Tensor, ...]:
        local = grid.gather(fractional, components, order)
        by_rank = tuple(part.contiguous() for part in local.split([_count(rank) for rank in range(order + 1)], 1))
        ctx.save_for_backward(fractional, components, *by_rank)
        ctx.set_materialize_grads(False)
        ctx.grid, ctx.order = grid, order
        return by_rank

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        fractional, components, *by_rank = ctx.saved_tensors
        order = max((rank for rank, grad in enumerate(grads) if grad is not None), default=None)
        if order is None:
            return None, None, None, None
        ranks = zip(grads[: order + 1], by_rank, strict=False)
        grad = torch.cat([torch.zeros_like(value) if part is None else part for part, value in ranks], 1)
        on_position = on_components = None
        if ctx.needs_input_grad[0]:
            if order == ctx.order:  # the forward did not go one rank higher
                by_rank = grid_to_moments(fractional, components, ctx.grid, order + 1)
            on_position = position_gradient(grad, torch.cat(tuple(by_rank)[: order + 2], 1), order)
        if ctx.needs_input_grad[1]:
            on_components = moments_to_grid(fractional, grad, ctx.grid, order)
        return on_position, on_components, None, None


def _spread(fractional: Tensor, moments: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    cube = moments.new_zeros(len(moments), (order + 1) ** 3, dtype=grid.products.to_complex())
    cube[:, list(cubic(order))] = moments.to(cube.dtype)
    cube = cube.view(len(moments), (order + 1) ** 2, order + 1)
    totals = [moments.new_zeros(2 * slab.rows, 2 * _area(slab)) for slab in grid.slabs]
    chunks, workspace = _chunks(fractional, grid, order)
    for atoms in chunks:
        rows = _row_basis(fractional[atoms, 0], grid.extent[0], order).to(grid.products)
        second, third = _second_and_third(fractional[atoms], grid, order)
        second, third = second.transpose(1, 2).contiguous(), torch.bmm(cube[atoms], third)
        third = third.view(len(third), order + 1, order + 1, -1)
        for slab, total in zip(grid.slabs, totals, strict=True):
            plane = _plane(slab, workspace, len(second), order)
            along_second, along_third = second[:, slice(*slab.second)], third[..., _third(slab, grid)]
            for p in range(order + 1):
                few = order + 1 - p
                torch.bmm(along_second[..., :few], along_third[:, p, :few], out=plane[p])
            total += torch.mm(rows[:, : 2 * slab.rows].T, torch.view_as_real(plane).view(len(rows), -1))
    by_part = [
        total.view(slab.rows, 2, -1).transpose(0, 1).flatten(1) for slab, total in zip(grid.slabs, totals, strict=True)
    ]
    return torch.cat(by_part, 1).view(2, -1, 2)


def _gather(fractional: Tensor, components: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    matrices = [
        components[:, slice(*slab.points)]
        .reshape(2, slab.rows, -1)
        .transpose(0, 1)
        .reshape(2 * slab.rows, -1)
        .to(grid.products)
        for slab in grid.slabs
    ]
    out = fractional.new_empty(len(fractional), (order + 1) ** 2, order + 1)
    chunks, workspace = _chunks(fractional, grid, order)
    for atoms in chunks:
        rows = _row_basis(fractional[atoms, 0], grid.extent[0], order).to(grid.products)
        second, third = (wave.conj().resolve_conj() for wave in _second_and_third(fractional[atoms], grid, order))
        local = third.new_zeros(len(third), order + 1, order + 1, third.shape[2])
        for slab, matrix in zip(grid.slabs, matrices, strict=True):
            plane = _plane(slab, workspace, len(second), order)
            torch.mm(rows[:, : 2 * slab.rows], matrix, out=torch.view_as_real(plane).view(len(rows), -1))
            along_second = second[..., slice(*slab.second)]
            for p in range(order + 1):
                few = order + 1 - p
                local[:, p, :few, _third(slab, grid)] += torch.bmm(along_second[:, :few], plane[p])
        out[atoms] = torch.bmm(local.flatten(1, 2), third.transpose(1, 2)).real
    return out.flatten(1)[:, list(cubic(order))]


def _chunks(fractional: Tensor, grid: ReciprocalGrid, order: int) -> tuple[list[slice], Tensor]:
    """Slices of the atoms, and one workspace for all: fresh memory would cost more than what is computed in it."""
    largest = (order + 1) * max(_area(slab) for slab in grid.slabs)
    wave = grid.products.to_complex()
    size = max(FEWEST_ATOMS, grid.workspace // (wave.itemsize * largest))
    n_atoms = len(fractional)
    chunks = [slice(start, min(start + size, n_atoms)) for start in range(0, n_atoms, size)]
    return chunks, fractional.new_empty(min(size, n_atoms) * largest, dtype=wave)


def _count(rank: int) -> int:
    return (rank + 1) * (rank + 2) // 2


def _area(slab: Slab) -> int:
    return (slab.second[1] - slab.second[0]) * (slab.third[1] - slab.third[0])


def _third(slab: Slab, grid: ReciprocalGrid) -> slice:
    """The slab's range of third indices in a table that starts at −extent."""
    return slice(slab.third[0] + grid.extent[2], slab.third[1] + grid.extent[2])


def _plane(slab: Slab, workspace: Tensor, n_atoms: int, order: int) -> Tensor:
    """(order + 1, n, second, third), complex, uninitialised."""
    shape = (order + 1, n_atoms, slab.second[1] - slab.second[0], slab.third[1] - slab.third[0])
    return workspace[: math.prod(shape)].view(shape)


def _row_basis(coordinate: Tensor, last: int, order: int) -> Tensor:
    """((order + 1)·n, 2·rows): {cos, sin}(2π n s), n = 0 … last, and their derivatives in s."""
    wave = 2.0 * math.pi * torch.arange(last + 1, dtype=coordinate.dtype, device=coordinate.device)
    angle = coordinate[:, None] * wave
    derivatives = [torch.stack([torch.cos(angle), torch.sin(angle)], -1)]
    for _ in range(order):
        below = derivatives[-1]
        derivatives.append(torch.stack([-below[..., 1], below[..., 0]], -1) * wave[:, None])
    return torch.stack(derivatives).view(-1, 2 * (last + 1))


def _second_and_third(fractional: Tensor, grid: ReciprocalGrid, order: int) -> tuple[Tensor, Tensor]:
    """Waves of the second axis, n ≥ 0, and of the third."""
    wave = grid.products.to_complex()
    second = _waves(fractional[:, 1], 0, grid.extent[1], order)
    return second.to(wave), _waves(fractional[:, 2], -grid.extent[2], grid.extent[2], order).to(wave)


def _waves(coordinate: Tensor, first: int, last: int, order: int) -> Tensor:
    """(n, order + 1, last − first + 1), complex: exp(2πi n s), n = first … last, and its derivatives in s."""
    wave, powers = _wave_powers(first, last, order, coordinate.device)
    angle = coordinate[:, None] * wave
    return torch.complex(torch.cos(angle), torch.sin(angle))[:, None] * powers


@lru_cache(maxsize=64)
def _wave_powers(first: int, last: int, order: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """2π n of n = first … last, and (2πi n)^q for q = 0 … order."""
    wave = 2.0 * math.pi * torch.arange(first, last + 1, dtype=torch.float64, device=device)
    return wave, torch.stack([(1j * wave) ** q for q in range(order + 1)])
