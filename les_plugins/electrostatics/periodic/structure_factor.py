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
#: On an accelerator the workspace is this many times as large: memory is plenty, and every operation has its price.
DEVICE_WORKSPACE = 64
#: Slices of structures and of their atoms, None for all.
Chunk = tuple["slice | None", "slice | None"]


class MomentTransform(Protocol):
    """A linear map of moments to something like a grid, and its transpose: what the autograd functions below need."""

    def spread(self, fractional: Tensor, moments: Tensor, order: int) -> Tensor:
        """What moments (…, n, M), of the derivatives of `exponents(order)`, at places (…, n, 3) give on the grid."""

    def gather(self, fractional: Tensor, values: Tensor, order: int) -> Tensor:
        """(…, n, M): its transpose."""


class Slab(NamedTuple):
    """A box of the grid: rows 0 … rows − 1, `second` and `third` as half-open ranges, `points` as its place in all."""

    rows: int
    second: tuple[int, int]
    third: tuple[int, int]
    points: tuple[int, int]


class ReciprocalGrid(NamedTuple):
    """Integer half-space grid that G structures have in common; which of its points a cell has, its kernel says.

    It is cut into slabs along its second axis that fit the cutoff spheres closely.

    Attributes:
        extent: largest |n| along the first axis, the row axis, the second and the third.
        slabs: the boxes, which follow each other in the T points; the second index is ≥ 0; +n and −n share a point.
        workspace: bytes of intermediate arrays that a transform may hold at once.
        products: type of the matrix products, float64 or float32; phases and sums over products are float64.
    """

    extent: tuple[int, int, int]
    slabs: tuple[Slab, ...]
    workspace: int = int(WORKSPACE * MEBIBYTE)
    products: torch.dtype = torch.float64

    def spread(self, fractional: Tensor, moments: Tensor, order: int) -> Tensor:
        """Structure-factor components (G, 2, T, 2), see `moments_to_grid`."""
        return _spread(fractional, moments, self, order)

    def gather(self, fractional: Tensor, values: Tensor, order: int) -> Tensor:
        """(G, n, M): the transpose of `spread`."""
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


def moments_to_grid(fractional: Tensor, moments: Tensor, grid: MomentTransform, order: int) -> Tensor:
    """Structure-factor components of point moments.

    Args:
        fractional: (G, n, 3) fractional coordinates in the grid's axis order; of a mesh, (n, 3).
        moments: (G, n, M) coefficient of every derivative of `exponents(order)`; likewise.
        grid: the reciprocal grid, or a mesh.
        order: highest rank of the moments.

    Returns:
        (G, 2, T, 2): Σ_i moments · derivative of {cos, sin}(2π n s_row) × {Re, Im} exp(2πi pair·s_pair).
    """
    out: Tensor = _MomentsToGrid.apply(fractional, moments, grid, order)  # type: ignore[no-untyped-call]
    return out


def grid_to_moments(fractional: Tensor, components: Tensor, grid: MomentTransform, order: int) -> tuple[Tensor, ...]:
    """Transpose of `moments_to_grid`: derivatives, at the atoms, of the function with the given components.

    One tensor (…, n, 1), (…, n, 3), (…, n, 6) … for each rank ≤ order: the ranks that nothing depends on cost no
    backward. So join no more of them than are used: a joined one that is not receives zeros, and its transform is done.
    """
    out: tuple[Tensor, ...] = _GridToMoments.apply(fractional, components, grid, order)  # type: ignore[no-untyped-call]
    return out


def position_gradient(moments: Tensor, local: Tensor, order: int) -> Tensor:
    """Σ moments · (derivatives one rank higher), along each fractional axis: (…, n, 3)."""
    raised = local.index_select(-1, _raised_places(order, local.device)).unflatten(-1, (3, -1))
    gradient: Tensor = (raised * moments.unsqueeze(-2)).sum(-1)
    return gradient


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
        local = torch.cat(grid_to_moments(fractional, grad, ctx.grid, highest + spare)[: highest + 1], -1)
        on_position = position_gradient(moments, local, ctx.order) if ctx.needs_input_grad[0] else None
        return on_position, local[..., : moments.shape[-1]], None, None


class _GridToMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fractional: Tensor, components: Tensor, grid: MomentTransform, order: int
    ) -> tuple[Tensor, ...]:
        local = grid.gather(fractional, components, order)
        by_rank = tuple(part.contiguous() for part in local.split([_count(rank) for rank in range(order + 1)], -1))
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
        grad = torch.cat([torch.zeros_like(value) if part is None else part for part, value in ranks], -1)
        on_position = on_components = None
        if ctx.needs_input_grad[0]:
            if order == ctx.order:  # the forward did not go one rank higher
                by_rank = grid_to_moments(fractional, components, ctx.grid, order + 1)
            on_position = position_gradient(grad, torch.cat(tuple(by_rank)[: order + 2], -1), order)
        if ctx.needs_input_grad[1]:
            on_components = moments_to_grid(fractional, grad, ctx.grid, order)
        return on_position, on_components, None, None


def _spread(fractional: Tensor, moments: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    n_structures, degrees, wave = len(fractional), order + 1, grid.products.to_complex()
    cube = (moments @ _cube(order, moments.dtype, moments.device)).to(wave)  # (G, n, q·p·r)
    totals = [moments.new_zeros(n_structures, 2 * slab.rows, 2 * _area(slab)) for slab in grid.slabs]
    chunks, workspace = _chunks(fractional, grid, order)
    for structures, atoms in chunks:
        rows, second, third = _waves(_part(fractional, structures, atoms), grid, order)
        moment = _part(cube, structures, atoms).reshape(-1, degrees, degrees**2)
        for slab, total in zip(grid.slabs, totals, strict=True):
            along_second = torch.bmm(second[..., slice(*slab.second)].mT, moment).unflatten(2, (degrees, degrees))
            along_second = along_second.transpose(1, 2).flatten(1, 2)  # (atoms, p·S, r)
            plane = _plane(slab, workspace, len(second), degrees)
            torch.bmm(along_second, third[..., _third(slab, grid)], out=plane)
            of_slab = rows[..., : 2 * slab.rows]
            _add_product(_part(total, structures), of_slab.mT, _as_real(plane, rows, slab))
    by_part = [
        total.unflatten(1, (slab.rows, 2)).transpose(1, 2).flatten(2)
        for slab, total in zip(grid.slabs, totals, strict=True)
    ]
    components: Tensor = (torch.cat(by_part, 2) if len(by_part) > 1 else by_part[0]).unflatten(2, (-1, 2))
    return components


def _gather(fractional: Tensor, components: Tensor, grid: ReciprocalGrid, order: int) -> Tensor:
    n_structures, width, degrees = len(fractional), fractional.shape[1], order + 1
    several = len(grid.slabs) > 1
    # in place of the conjugates of the second and third waves; only the real part of the result counts
    conjugate = (components * _conjugation(components.dtype, components.device)).to(grid.products)
    matrices = [
        (conjugate[:, :, slice(*slab.points)] if several else conjugate)
        .reshape(n_structures, 2, slab.rows, 2 * _area(slab))
        .transpose(1, 2)
        .flatten(1, 2)
        for slab in grid.slabs
    ]
    parts = []
    chunks, workspace = _chunks(fractional, grid, order)
    for structures, atoms in chunks:
        rows, second, third = _waves(_part(fractional, structures, atoms), grid, order)
        cubes = None
        for slab, matrix in zip(grid.slabs, matrices, strict=True):
            plane = _plane(slab, workspace, len(second), degrees)
            _product(rows[..., : 2 * slab.rows], _part(matrix, structures), _as_real(plane, rows, slab))
            line = torch.bmm(plane, third[..., _third(slab, grid)].mT).unflatten(1, (degrees, -1))
            line = line.transpose(1, 2).flatten(2)  # (atoms, S, q·r)
            along_second = second[..., slice(*slab.second)]
            cubes = torch.bmm(along_second, line) if cubes is None else torch.baddbmm(cubes, along_second, line)
        assert cubes is not None
        parts.append(cubes.real)
    cube = (torch.cat(parts) if len(parts) > 1 else parts[0]).reshape(n_structures, width, degrees**3)
    return cube.to(fractional.dtype).index_select(2, _cubic_places(order, fractional.device))


def _part(values: Tensor, structures: slice | None, atoms: slice | None = None) -> Tensor:
    """Those of some structures and atoms; None for all."""
    if structures is None:
        return values
    return values[structures] if atoms is None else values[structures, atoms]


def _add_product(total: Tensor, one: Tensor, other: Tensor) -> None:
    """total += one @ other, of batches of matrices; sums over chunks are in the precision of `total`."""
    if one.dtype != total.dtype:
        total += torch.bmm(one, other)
    elif len(total) == 1:
        total[0].addmm_(one[0], other[0])
    else:
        total.baddbmm_(one, other)


def _product(one: Tensor, other: Tensor, out: Tensor) -> None:
    """out = one @ other, of batches of matrices."""
    if len(out) == 1:
        torch.mm(one[0], other[0], out=out[0])
    else:
        torch.bmm(one, other, out=out)


def _chunks(fractional: Tensor, grid: ReciprocalGrid, order: int) -> tuple[list[Chunk], Tensor]:
    """Slices of the structures and of their atoms, and one workspace for all: fresh memory would cost more.

    Of small structures several are taken at once, of large ones a part of the atoms.
    """
    largest = (order + 1) * max(_area(slab) for slab in grid.slabs)
    wave = grid.products.to_complex()
    workspace = grid.workspace if fractional.device.type == "cpu" else DEVICE_WORKSPACE * grid.workspace
    size = max(FEWEST_ATOMS, workspace // (wave.itemsize * largest))
    n_structures, width = fractional.shape[:2]
    if width <= size:
        step = max(size // max(width, 1), 1)
        chunks: list[Chunk] = [(slice(g, g + step), None) for g in range(0, n_structures, step)]
        if len(chunks) == 1:
            chunks = [(None, None)]
        most = min(step, n_structures) * width
    else:
        chunks = [
            (slice(g, g + 1), slice(start, min(start + size, width)))
            for g in range(n_structures)
            for start in range(0, width, size)
        ]
        most = size
    return chunks, fractional.new_empty(most * largest, dtype=wave)


def _count(rank: int) -> int:
    return (rank + 1) * (rank + 2) // 2


def _area(slab: Slab) -> int:
    return (slab.second[1] - slab.second[0]) * (slab.third[1] - slab.third[0])


def _third(slab: Slab, grid: ReciprocalGrid) -> slice:
    """The slab's range of third indices in a table that starts at −extent."""
    return slice(slab.third[0] + grid.extent[2], slab.third[1] + grid.extent[2])


def _as_real(plane: Tensor, rows: Tensor, slab: Slab) -> Tensor:
    """The plane as (G, n·degrees, 2·second·third) real numbers."""
    return torch.view_as_real(plane).view(*rows.shape[:2], 2 * _area(slab))


def _plane(slab: Slab, workspace: Tensor, n_atoms: int, degrees: int) -> Tensor:
    """(n, degrees·second, third), complex, uninitialised."""
    shape = (n_atoms, degrees * (slab.second[1] - slab.second[0]), slab.third[1] - slab.third[0])
    return workspace[: math.prod(shape)].view(shape)


def _waves(fractional: Tensor, grid: ReciprocalGrid, order: int) -> tuple[Tensor, Tensor, Tensor]:
    """exp(2πi n s) along each axis and its derivatives in s: the first as (G, n·degrees, 2·rows) of {cos, sin}.

    The others are (G·n, degrees, indices), complex. On the first and the second axis n ≥ 0.
    """
    table, powers = _wave_tables(grid.extent, order, fractional.device)
    angle = fractional.reshape(-1, 3) @ table
    waves = torch.complex(torch.cos(angle), torch.sin(angle)).unsqueeze(1) * powers
    waves = waves.to(grid.products.to_complex())
    first, second, third = waves.split([grid.extent[0] + 1, grid.extent[1] + 1, 2 * grid.extent[2] + 1], 2)
    rows = torch.view_as_real(first).reshape(len(fractional), -1, 2 * first.shape[2])
    return rows, second, third


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # they outlive the call that needed them first
def _wave_tables(extent: tuple[int, int, int], order: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """2π n of all axes, (3, W), each in the row of its axis; and (2πi n)^q for q = 0 … order, (order + 1, W)."""
    ranges = [torch.arange(low, high + 1) for low, high in ((0, extent[0]), (0, extent[1]), (-extent[2], extent[2]))]
    waves = [2.0 * math.pi * n.double() for n in ranges]
    powers = torch.stack([(1j * torch.cat(waves)) ** q for q in range(order + 1)])
    return torch.block_diag(*waves).to(device), powers.to(device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _conjugation(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([1.0, -1.0], dtype=dtype).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _cube(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(M, degrees³): puts the coefficient of the derivative (p, q, r) at q, p, r of a flattened cube."""
    degrees = order + 1
    table = torch.zeros(len(exponents(order)), degrees, degrees, degrees, dtype=dtype)
    for place, (p, q, r) in enumerate(exponents(order)):
        table[place, q, p, r] = 1.0
    return table.flatten(1).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _cubic_places(order: int, device: torch.device) -> Tensor:
    """(M,): where the derivative (p, q, r) is in a flattened cube of q, p and r."""
    degrees = order + 1
    return torch.tensor([(q * degrees + p) * degrees + r for p, q, r in exponents(order)]).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _raised_places(order: int, device: torch.device) -> Tensor:
    """`_raised` of the three axes, one after the other."""
    return torch.tensor([_raised(order, axis) for axis in range(3)]).flatten().to(device)
