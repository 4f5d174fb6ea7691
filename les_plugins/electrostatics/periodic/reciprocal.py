"""Periodic electrostatics of smeared multipoles: the direct sum over all |k| ≤ k_c of a group of cells (theory 2).

The grid of wave vectors that they have in common and the kernel of each on it; `solver.py` calls it for each group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import BYTES_PER_POINT, MOST_GRID_POINTS
from les_plugins.electrostatics.lattice import determinant
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.reciprocal_energy import ReciprocalLattice, ReciprocalResult, reciprocal_energy
from les_plugins.electrostatics.periodic.structure_factor import ReciprocalGrid, Slab
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.errors import GeometryError

#: A cell whose volume is below this fraction of the product of its edges is refused as singular.
SMALLEST_RELATIVE_VOLUME = 1e-6
#: A vector on the cutoff sphere belongs to it, however the rounding falls: |k| may exceed k_c by this fraction.
ROUNDING = 1e-9
#: Slabs of the grid are at most this thick, but for large grids: thin ones follow the sphere more closely.
THICKEST_SLAB = 11
MOST_SLABS = 8
#: Nine numbers: the lattice vectors of a cell one after the other, Å.
Cell = tuple[float, ...]


def periodic_electrostatics(
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    cells: Sequence[Cell],
    ranks: Ranks | None = None,
    training: bool = False,
    lattice: ReciprocalLattice | None = None,
) -> ReciprocalResult:
    """Energies and local fields of the permanent moments of periodic structures that share a grid.

    Args:
        positions: (G, n, 3) Å, float64.
        cell: (G, 3, 3) Å, rows are lattice vectors; any handedness.
        multipoles: moments of the atoms, (G, n, …); zero for rows that are no atoms.
        settings: of the sums.
        cells: the values of `cell` on the host; none of them singular.
        ranks, training: see `reciprocal_energy`.
        lattice: `lattice_on_grid` of these cells, where it is known.

    Returns:
        As `reciprocal_energy`.

    Raises:
        GeometryError: a cell that needs more reciprocal vectors than MOST_GRID_POINTS.

    Source: theory 2.1; arXiv 2605.05746.
    """
    shape = grid_shape(tuple(cells), settings.cutoff)
    grid = ReciprocalGrid(shape.extent, shape.slabs, settings.workspace_bytes, settings.products)
    lattice = lattice_on_grid(cell, settings, cells) if lattice is None else lattice
    return reciprocal_energy(positions, multipoles, lattice, grid, settings, ranks, training)


def lattice_on_grid(cell: Tensor, settings: ElectrostaticsSettings, cells: Sequence[Cell]) -> ReciprocalLattice:
    """Inverses of cells (G, 3, 3) and the kernel on their grid; arguments as for `periodic_electrostatics`."""
    shape = grid_shape(tuple(cells), settings.cutoff)
    inverse = torch.linalg.inv_ex(cell).inverse  # Cartesian to fractional
    permutation = _permutation(shape.axes, cell.device)
    if permutation is not None:  # in the grid's order of axes
        inverse = torch.gather(inverse, 2, permutation)
    return ReciprocalLattice(inverse, _GridFilter(_kernel(cell, inverse, shape, settings)))


def proper_lattice(cell: Tensor) -> Tensor:
    """(3, 3) the lattice vectors without a graph; raises GeometryError where they have no volume."""
    vectors = cell.detach().double().cpu()
    volume_of(tuple(vectors.flatten().tolist()))
    return vectors


def volume_of(cell: Cell) -> float:
    """Å³; raises GeometryError where there is none."""
    (a, b, c, d, e, f, g, h, i) = cell
    volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    vectors = [[a, b, c], [d, e, f], [g, h, i]]
    if not math.isfinite(volume):
        raise GeometryError(f"the cell {vectors} of a periodic structure holds NaN or infinity")
    if not volume > SMALLEST_RELATIVE_VOLUME * math.prod(math.hypot(*vector) for vector in vectors):
        raise GeometryError(
            f"the cell {vectors} is singular (volume {volume:.3g} Å³): a periodic structure needs three "
            "independent lattice vectors; set pbc to False for an open one"
        )
    return volume


class GridShape(NamedTuple):
    """The grid of some cells.

    Attributes:
        axes: of each cell, which lattice axis is the first of the grid, the row axis, and which the second and third.
        extent, slabs: see `ReciprocalGrid`.
    """

    axes: tuple[tuple[int, int, int], ...]
    extent: tuple[int, int, int]
    slabs: tuple[Slab, ...]


def grid_extent(cell: Cell, cutoff: float) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The axes of one cell, the longest first, and the largest |n| along each of them; refuses what is too large."""
    # |n_a| = |k·a| / 2π ≤ |k| |a| / 2π: no vector inside the sphere lies outside these bounds, however skewed the cell
    factor = cutoff * (1.0 + ROUNDING) / (2.0 * math.pi)
    bounds = [math.floor(factor * math.hypot(*cell[row : row + 3])) for row in (0, 3, 6)]
    points = math.prod(2.0 * b + 1.0 for b in bounds) / 2.0
    if points > MOST_GRID_POINTS:
        raise GeometryError(
            f"the cell {[list(cell[row : row + 3]) for row in (0, 3, 6)]} needs a grid of {points:.3g} reciprocal "
            f"vectors at dl = {2.0 * math.pi / cutoff:g} Å, some {points * BYTES_PER_POINT / 1e9:.3g} GB; allowed: "
            f"{MOST_GRID_POINTS}. Use a larger dl, a reduced cell, or an open boundary for an isolated molecule"
        )
    first, second, third = sorted(range(3), key=lambda axis: -bounds[axis])  # the longest axis makes the rows
    return (first, second, third), (bounds[first], bounds[second], bounds[third])


@lru_cache(maxsize=64)
def grid_shape(cells: tuple[Cell, ...], cutoff: float) -> GridShape:
    """The smallest grid that holds all reciprocal-lattice vectors with 0 < |k| ≤ cutoff of each cell, half of them."""
    each = [grid_extent(cell, cutoff) for cell in cells]
    axes = tuple(order for order, _ in each)
    longest = [max(extent[axis] for _, extent in each) for axis in range(3)]
    extent = (longest[0], longest[1], longest[2])
    n_slabs = min(math.ceil((extent[1] + 1) / THICKEST_SLAB), MOST_SLABS)
    thickness = math.ceil((extent[1] + 1) / n_slabs)
    if n_slabs == 1:
        box = Slab(extent[0] + 1, (0, extent[1] + 1), (-extent[2], extent[2] + 1), (0, 0))
        return GridShape(axes, extent, (_placed(box, 0),))
    vectors = torch.tensor(cells, dtype=torch.float64).view(-1, 3, 3)
    reciprocal = 2.0 * math.pi * torch.linalg.inv(vectors).mT
    reciprocal = torch.gather(reciprocal, 1, torch.tensor(axes)[:, :, None].expand(-1, 3, 3))
    slabs: list[Slab] = []
    for start in range(0, extent[1] + 1, thickness):
        second = (start, min(start + thickness, extent[1] + 1))
        used = _half_sphere(extent, second, reciprocal, cutoff * (1.0 + 2.0 * ROUNDING))
        if not bool(used.any()):
            continue
        rows = int(used.any(2).any(1).nonzero().max()) + 1
        low, high = (int(place) for place in used.any(1).any(0).nonzero().aminmax())
        third = (low - extent[2], high + 1 - extent[2])
        slabs.append(_placed(Slab(rows, second, third, (0, 0)), slabs[-1].points[1] if slabs else 0))
    return GridShape(axes, extent, tuple(slabs))


def _placed(slab: Slab, first: int) -> Slab:
    """Its points after the `first` ones."""
    count = slab.rows * (slab.second[1] - slab.second[0]) * (slab.third[1] - slab.third[0])
    return slab._replace(points=(first, first + count))


def _half_sphere(extent: tuple[int, ...], second: tuple[int, int], reciprocal: Tensor, reach: float) -> Tensor:
    """(rows, second, third): whether +n or −n of a slab is in the half space of any cell and |k| ≤ reach."""
    row = torch.arange(extent[0] + 1, dtype=torch.float64)
    ranges = [torch.arange(*bounds, dtype=torch.float64) for bounds in (second, (-extent[2], extent[2] + 1))]
    in_plane = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1)
    used = torch.zeros(len(row), *in_plane.shape[:2], dtype=torch.bool)
    for vectors in reciprocal.unbind():  # one after the other: the arrays of a large cell are large
        place = in_plane @ vectors[1:]
        square = (row**2 * vectors[0].square().sum())[:, None, None] + place.square().sum(-1)
        cross = row[:, None, None] * (2.0 * place @ vectors[0])
        used |= square - cross.abs() <= reach**2
    if second[0] == 0:
        used[:, 0, : extent[2]] = False  # the other half
    return used


class _Tables(NamedTuple):
    """What is the same for all cells of a grid.

    Attributes:
        pick: (9, 6): from n·n' of the reciprocal vectors to what multiplies the rows of `even` and `odd`.
        even, odd: (4, T), (2, T) n n' of every point: those that +n and −n, which change the sign of the row alone,
            have in common, and those that they have with opposite signs.
        weight: (2, T) how often each counts in the sum over both half spaces, whether a cell has it or not: 2, or 1
            where +n and −n are the same vector (n = 0) or conjugates (pair (0, 0)); k = 0 never.
        present: (2, T) where that is not zero.
    """

    pick: Tensor
    even: Tensor
    odd: Tensor
    weight: Tensor
    present: Tensor


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # they outlive the call that needed them first
def _tables(extent: tuple[int, int, int], slabs: tuple[Slab, ...], device: torch.device) -> _Tables:
    points = torch.cat(
        [
            torch.cartesian_prod(torch.arange(slab.rows), torch.arange(*slab.second), torch.arange(*slab.third))
            for slab in slabs
        ]
    ).double()
    row, second, third = points.unbind(1)
    weight = torch.where(row == 0, 1.0, 2.0).double()
    weight = weight * torch.where(second > 0, 1.0, torch.where(third > 0, 1.0, torch.where(third == 0, 0.5, 0.0)))
    weight = torch.where((points == 0).all(1), 0.0, weight)  # tinfoil boundary, neutralising background
    even = torch.stack([row * row, second * second, third * third, second * third])
    odd = torch.stack([row * second, row * third])
    pick = torch.zeros(3, 3, 6, dtype=torch.float64)
    for place, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 1), (0, 2))):
        pick[a, b, place] = pick[b, a, place] = 1.0
    weight = weight.expand(2, -1).contiguous()
    tables = (pick.flatten(0, 1), even, odd, weight, weight > 0.0)
    return _Tables(*(table.to(device) for table in tables))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _permutation(axes: tuple[tuple[int, int, int], ...], device: torch.device) -> Tensor | None:
    """(G, 3, 3): the column of the grid's axes; None where they are in order."""
    if all(order == (0, 1, 2) for order in axes):
        return None
    return torch.tensor(axes)[:, None, :].expand(-1, 3, 3).contiguous().to(device)


def _kernel(cell: Tensor, inverse: Tensor, shape: GridShape, settings: ElectrostaticsSettings) -> Tensor:
    """(G, 2, T): (2 C / V) exp(−σ²k²/2)/k² of +n and −n, the 2 for the other half space, zero outside the sphere."""
    tables = _tables(shape.extent, shape.slabs, cell.device)
    metric = ((2.0 * math.pi) ** 2 * (inverse.mT @ inverse)).flatten(1) @ tables.pick
    square, cross = metric[:, :4] @ tables.even, metric[:, 4:] @ tables.odd
    k_squared = torch.stack([square + cross, square - cross], 1)
    inside = (k_squared.detach() <= (settings.cutoff * (1.0 + ROUNDING)) ** 2) & tables.present
    safe = torch.where(inside, k_squared, 1.0)
    kernel = smeared_coulomb_kernel(safe, determinant(cell).abs()[:, None, None], settings.sigma)
    return torch.where(inside, tables.weight, 0.0) * kernel


class _GridFilter(NamedTuple):
    """E = Σ kernel |S(k)|², with S(±n) = (c·Re ∓ s·Im) + i (c·Im ± s·Re) in the components of the grid."""

    kernel: Tensor
    owners: Tensor | None = None

    def filtered(self, density: Tensor) -> Tensor:
        """∂E/∂density, (G, 2, T, 2)."""
        potential: Tensor = _Potential.apply(density, self.kernel)  # type: ignore[no-untyped-call]
        return potential

    def kernel_gradient(self, density: Tensor) -> Tensor:
        """∂E/∂kernel, (G, 2, T)."""
        return 0.5 * _Overlap.apply(density, density)  # type: ignore[no-untyped-call, no-any-return]


class _Potential(torch.autograd.Function):
    """∂E/∂density of E = Σ_k kernel(k) |S(k)|²; with `_Overlap` the derivatives of one trilinear form."""

    @staticmethod
    def forward(ctx: Any, density: Tensor, kernel: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(density, kernel)
        plus, minus = kernel.mul(2.0)[:, None, :, :, None].unbind(2)
        return torch.addcmul((plus + minus) * density, plus - minus, _crossed(density))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if grad is None:
            return None, None
        density, kernel = ctx.saved_tensors
        on_density = _Potential.apply(grad, kernel) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        on_kernel = _Overlap.apply(grad, density) if ctx.needs_input_grad[1] else None  # type: ignore[no-untyped-call]
        return on_density, on_kernel


class _Overlap(torch.autograd.Function):
    """2 Re(a(k)* b(k)) of +n and −n, (G, 2, T)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b)
        even, odd = _summed(a * b), _summed(a * _crossed(b))
        return 2.0 * torch.stack([even + odd, even - odd], 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if grad is None:
            return None, None
        a, b = ctx.saved_tensors
        on_a = _Potential.apply(b, grad) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        on_b = _Potential.apply(a, grad) if ctx.needs_input_grad[1] else None  # type: ignore[no-untyped-call]
        return on_a, on_b


def _summed(products: Tensor) -> Tensor:
    """(G, T) of (G, 2, T, 2): three additions take a tenth of the time of a sum over axes that are no neighbours."""
    both = products[:, 0] + products[:, 1]
    return both[..., 0] + both[..., 1]


def _crossed(components: Tensor) -> Tensor:
    """Half of the derivative of |S(+n)|² − |S(−n)|²: cos and sin, Re and Im change places."""
    return components.flip(1, 3) * _signs(components.dtype, components.device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _signs(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]]], dtype=dtype).to(device)
