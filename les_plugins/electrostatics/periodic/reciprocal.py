"""Periodic electrostatics of smeared multipoles: the direct sum over all |k| ≤ k_c of one cell (PHYSICS 2, 4).

Structure factor, kernel, potential, energy, in that order; `layer.py` calls it once for each periodic structure.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import BYTES_PER_POINT, MOST_GRID_POINTS
from les_plugins.electrostatics.local import LocalFields, self_energy, self_fields
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum
from les_plugins.electrostatics.periodic.fractional import cartesian_fields, fractional_moments, with_known_gradients
from les_plugins.electrostatics.periodic.structure_factor import (
    WORKSPACE_BYTES,
    ReciprocalGrid,
    Slab,
    grid_to_moments,
    moments_to_grid,
    position_gradient,
)
from les_plugins.errors import GeometryError
from les_plugins.units import RECIPROCAL_PREFACTOR

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
    sigma: float,
    cutoff: float,
    remove_self_interaction: bool,
    ranks: Ranks | None = None,
    workspace: int = WORKSPACE_BYTES,
    training: bool = False,
    products: torch.dtype = torch.float64,
) -> tuple[Tensor, LocalFields]:
    """Energy and local fields of the permanent moments of one periodic structure.

    Args:
        positions: (n, 3) Å, float64.
        cell: (3, 3) Å, rows are lattice vectors; any handedness.
        multipoles: moments of the n atoms.
        sigma: Gaussian smearing width, Å.
        cutoff: k_c, Å⁻¹.
        remove_self_interaction: take each atom's smeared self-energy and self-field away.
        ranks: the structure's other atoms are on the other ranks of this group; the cell is the same on all.
        workspace: bytes of intermediate arrays held at once.
        training: the gradient will be differentiated: provide for it, which makes the energy and its gradient dearer.
        products: type of the matrix products, float64 or float32.

    Returns:
        energy, scalar eV; potential (n,) V, its gradient (n, 3) V/Å and, with quadrupoles, second gradient (n, 3, 3).
        With `ranks` the energy is the share of this rank's atoms, whose gradients are those of the sum of all
        shares; in the cell they are this rank's part, and the parts sum up to the whole.

    Raises:
        GeometryError: a singular cell, or one that needs more reciprocal vectors than MOST_GRID_POINTS.

    Source: PHYSICS 2 and 4; arXiv 2605.05746.
    """
    grid = reciprocal_grid(cell, cutoff)._replace(workspace=workspace, products=products)
    inverse = torch.linalg.inv(cell)[:, list(grid.axes)]  # (3, 3): Cartesian to fractional, grid's axis order
    fractional = positions @ inverse
    fractional = fractional - torch.floor(fractional.detach())
    moments = fractional_moments(multipoles, inverse)
    kernel = _kernel(cell, inverse, grid, sigma)
    components = reduce_sum(moments_to_grid(fractional, moments, grid, multipoles.order), ranks)
    filtered = _apply_kernel(components, kernel)

    order = max(multipoles.order, 1)
    # one rank more than the fields need is the energy's gradient in the positions, one further that gradient's
    highest = max(order, multipoles.order + 1) + int(training) if filtered.requires_grad else order
    local = grid_to_moments(fractional, filtered, grid, highest)
    n_ranks = 1 if ranks is None else ranks.size
    gradient = torch.cat(local[: multipoles.order + 2], 1)
    energy = _energy(fractional, moments, kernel, components, gradient, multipoles.order, n_ranks)
    fields = cartesian_fields(local[: order + 1], inverse)
    if remove_self_interaction:
        energy = energy - self_energy(multipoles, sigma).sum()
        fields = fields - self_fields(multipoles, sigma)
    return energy, fields


def reciprocal_grid(cell: Tensor, cutoff: float) -> ReciprocalGrid:
    """All reciprocal-lattice vectors with 0 < |k| ≤ cutoff of a cell (3, 3), half of them, as an integer grid."""
    vectors = proper_lattice(cell)
    return _build_grid(tuple(vectors.flatten().tolist()), cutoff, cell.device)


def proper_lattice(cell: Tensor) -> Tensor:
    """(3, 3) the lattice vectors without a graph; refuses those of no volume in words."""
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
    kernel: Tensor = (
        (2.0 * RECIPROCAL_PREFACTOR / volume) * grid.multiplicity * torch.exp(-0.5 * sigma**2 * safe) / safe
    )
    return kernel


def _apply_kernel(components: Tensor, kernel: Tensor) -> Tensor:
    """∂E/∂components of E = Σ kernel |S(k)|², with S(±n) = (c·Re ∓ s·Im) + i (c·Im ± s·Re) in the grid's components."""
    even, odd = kernel.sum(1), kernel[:, 0] - kernel[:, 1]
    return 2.0 * (even[:, None] * components + odd[:, None] * _crossed(components))


def _crossed(components: Tensor) -> Tensor:
    """Half of the derivative of |S(+n)|² − |S(−n)|²: cos and sin, Re and Im change places."""
    sign = torch.tensor([[[-1.0, 1.0]], [[1.0, -1.0]]], dtype=components.dtype, device=components.device)
    return components.flip(0, 2) * sign


def _energy(
    fractional: Tensor, moments: Tensor, kernel: Tensor, components: Tensor, local: Tensor, order: int, n_ranks: int
) -> Tensor:
    """½ Σ moments · local, whose gradients are at hand: the local derivatives, and |S(k)|² for the kernel.

    The gradients are those of the sum over the ranks; all ranks have the same kernel, each takes its equal part of it.
    """
    own = local[:, : moments.shape[1]]
    energy = 0.5 * (moments * own).sum()
    inputs, gradients = [moments], [own]
    if fractional.requires_grad:
        inputs.append(fractional)
        gradients.append(position_gradient(moments, local, order))
    if kernel.requires_grad:
        even, odd = components.square().sum((0, 2)), (components * _crossed(components)).sum((0, 2))
        inputs.append(kernel)
        gradients.append(torch.stack([even + odd, even - odd], 1) / n_ranks)
    return with_known_gradients(energy, inputs, gradients)
