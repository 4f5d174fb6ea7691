"""Periodic electrostatics of smeared multipoles: the direct sum over all |k| ≤ k_c of one cell (theory 2).

The grid of wave vectors and the kernel on it; `solver.py` calls it once for each periodic structure.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import BYTES_PER_POINT, MOST_GRID_POINTS
from les_plugins.electrostatics.local import LocalFields
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.reciprocal_energy import reciprocal_energy
from les_plugins.electrostatics.periodic.structure_factor import ReciprocalGrid, Slab
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.errors import GeometryError

#: A cell whose volume is below this fraction of the product of its edges is refused as singular.
SMALLEST_RELATIVE_VOLUME = 1e-6
#: A vector on the cutoff sphere belongs to it, however the rounding falls: |k| may exceed k_c by this fraction.
ROUNDING = 1e-9
#: Slabs of the grid are at least this thick and at most this many: thinner ones follow the sphere more closely.
THINNEST_SLAB = 11
MOST_SLABS = 8


def periodic_electrostatics(
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None = None,
    training: bool = False,
) -> tuple[Tensor, LocalFields]:
    """Energy and local fields of the permanent moments of one periodic structure.

    Args:
        positions: (n, 3) Å, float64.
        cell: (3, 3) Å, rows are lattice vectors; any handedness.
        multipoles: moments of the n atoms.
        settings: of the sums.
        ranks, training: see `reciprocal_energy`.

    Returns:
        As `reciprocal_energy`.

    Raises:
        GeometryError: a singular cell, or one that needs more reciprocal vectors than MOST_GRID_POINTS.

    Source: theory 2.1; arXiv 2605.05746.
    """
    grid = reciprocal_grid(cell, settings.cutoff)
    grid = grid._replace(workspace=settings.workspace_bytes, products=settings.products)
    inverse = torch.linalg.inv(cell)[:, list(grid.axes)]  # (3, 3): Cartesian to fractional, grid's axis order
    kernel = _kernel(cell, inverse, grid, settings.sigma)
    return reciprocal_energy(positions, multipoles, inverse, grid, _GridFilter(kernel), settings, ranks, training)


def reciprocal_grid(cell: Tensor, cutoff: float) -> ReciprocalGrid:
    """All reciprocal-lattice vectors with 0 < |k| ≤ cutoff of a cell (3, 3), half of them, as an integer grid."""
    vectors = proper_lattice(cell)
    return _build_grid(tuple(vectors.flatten().tolist()), cutoff, cell.device)


def proper_lattice(cell: Tensor) -> Tensor:
    """(3, 3) the lattice vectors without a graph; raises GeometryError where they have no volume."""
    vectors = cell.detach().double().cpu()
    lengths = torch.linalg.norm(vectors, dim=1)
    volume = abs(float(torch.linalg.det(vectors)))
    if not math.isfinite(volume):
        raise GeometryError(f"the cell {vectors.tolist()} of a periodic structure holds NaN or infinity")
    if not volume > SMALLEST_RELATIVE_VOLUME * float(lengths.prod()):
        raise GeometryError(
            f"the cell {vectors.tolist()} is singular (volume {volume:.3g} Å³): a periodic structure needs three "
            "independent lattice vectors; set pbc to False for an open one"
        )
    return vectors


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # the grid outlives the call that needed it first
def _build_grid(cell: tuple[float, ...], cutoff: float, device: torch.device) -> ReciprocalGrid:
    vectors = torch.tensor(cell, dtype=torch.float64).view(3, 3)
    # |n_a| = |k·a| / 2π ≤ |k| |a| / 2π: no vector inside the sphere lies outside these bounds, however skewed the cell
    reach = cutoff * (1.0 + ROUNDING)
    bounds = [math.floor(n) for n in (reach * torch.linalg.norm(vectors, dim=1) / (2.0 * math.pi)).tolist()]
    points = math.prod(2.0 * b + 1.0 for b in bounds) / 2.0
    if points > MOST_GRID_POINTS:
        raise GeometryError(
            f"the cell {vectors.tolist()} needs a grid of {points:.3g} reciprocal vectors at dl = "
            f"{2.0 * math.pi / cutoff:g} Å, some {points * BYTES_PER_POINT / 1e9:.3g} GB; allowed: "
            f"{MOST_GRID_POINTS}. Use a larger dl, a reduced cell, or an open boundary for an isolated molecule"
        )
    axes = tuple(sorted(range(3), key=lambda axis: -bounds[axis]))  # the longest axis makes the rows
    extent = tuple(bounds[axis] for axis in axes)
    reciprocal = 2.0 * math.pi * torch.linalg.inv(vectors).T[list(axes)]

    slabs: list[Slab] = []
    row, pair, multiplicity = [], [], []
    thickness = max(THINNEST_SLAB, math.ceil((extent[1] + 1) / MOST_SLABS))
    for start in range(0, extent[1] + 1, thickness):
        second = (start, min(start + thickness, extent[1] + 1))
        weights = _half_sphere(extent, second, reciprocal, reach)
        used = (weights > 0).any(-1)
        if start == 0:
            used[0, 0, extent[2]] = True  # k = 0, of no weight: keeps the grid of a very small cell from being empty
        if not bool(used.any()):
            continue
        rows = int(used.any(2).any(1).nonzero().max()) + 1
        low, high = (int(place) for place in used.any(1).any(0).nonzero().aminmax())
        weights = weights[:rows, :, low : high + 1].reshape(-1, 2)
        first_point = slabs[-1].points[1] if slabs else 0
        third = (low - extent[2], high + 1 - extent[2])
        slabs.append(Slab(rows, second, third, (first_point, first_point + len(weights))))
        indices = torch.cartesian_prod(torch.arange(rows), torch.arange(*second), torch.arange(*third)).double()
        row.append(indices[:, 0])
        pair.append(indices[:, 1:])
        multiplicity.append(weights)
    return ReciprocalGrid(
        axes=(axes[0], axes[1], axes[2]),
        extent=(extent[0], extent[1], extent[2]),
        slabs=tuple(slabs),
        row=torch.cat(row).to(device),
        pair=torch.cat(pair).to(device),
        multiplicity=torch.cat(multiplicity).to(device),
    )


def _half_sphere(extent: tuple[int, ...], second: tuple[int, int], reciprocal: Tensor, reach: float) -> Tensor:
    """(rows, second, third, 2): how often +n and −n of a slab count in the half-space sum over |k| ≤ reach."""
    row = torch.arange(extent[0] + 1, dtype=torch.float64)
    ranges = [torch.arange(*bounds, dtype=torch.float64) for bounds in (second, (-extent[2], extent[2] + 1))]
    in_plane = torch.stack(torch.meshgrid(*ranges, indexing="ij"), -1) @ reciprocal[1:]
    square = (row**2 * reciprocal[0].square().sum())[:, None, None] + in_plane.square().sum(-1)
    cross = row[:, None, None] * (2.0 * in_plane @ reciprocal[0])
    weights = (torch.stack([square + cross, square - cross], -1) <= reach**2).double()
    weights[0] *= 0.5
    if second[0] == 0:
        weights[:, 0, : extent[2]] = 0.0  # the other half
        weights[:, 0, extent[2]] *= 0.5
        weights[0, 0, extent[2]] = 0.0  # k = 0: tinfoil boundary, neutralising background
    return weights


def _kernel(cell: Tensor, inverse: Tensor, grid: ReciprocalGrid, sigma: float) -> Tensor:
    """(T, 2): (2 C / V) exp(−σ²k²/2)/k² of +n and −n, the 2 for the other half space, zero outside the sphere."""
    reciprocal = 2.0 * math.pi * inverse.T
    along_row, in_plane = grid.row[:, None] * reciprocal[0], grid.pair @ reciprocal[1:]
    square = (along_row * along_row + in_plane * in_plane).sum(1)
    cross = 2.0 * (along_row * in_plane).sum(1)
    k_squared = torch.stack([square + cross, square - cross], 1)
    safe = torch.where(grid.multiplicity > 0, k_squared, 1.0)
    volume = torch.linalg.det(cell).abs()
    return 2.0 * grid.multiplicity * smeared_coulomb_kernel(safe, volume, sigma)


class _GridFilter(NamedTuple):
    """E = Σ kernel |S(k)|², with S(±n) = (c·Re ∓ s·Im) + i (c·Im ± s·Re) in the components of the grid."""

    kernel: Tensor

    def filtered(self, density: Tensor) -> Tensor:
        """∂E/∂density, (2, T, 2)."""
        even, odd = self.kernel.sum(1), self.kernel[:, 0] - self.kernel[:, 1]
        return 2.0 * (even[:, None] * density + odd[:, None] * _crossed(density))

    def kernel_gradient(self, density: Tensor) -> Tensor:
        """∂E/∂kernel, (T, 2)."""
        even, odd = density.square().sum((0, 2)), (density * _crossed(density)).sum((0, 2))
        return torch.stack([even + odd, even - odd], 1)


def _crossed(components: Tensor) -> Tensor:
    """Half of the derivative of |S(+n)|² − |S(−n)|²: cos and sin, Re and Im change places."""
    sign = torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]]], dtype=components.dtype, device=components.device)
    return components.flip(0, 2) * sign
