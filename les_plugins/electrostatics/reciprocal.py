"""Periodic electrostatics of smeared multipoles: the direct sum over all |k| ≤ k_c of one cell (PHYSICS 2, 4).

Structure factor, kernel, potential, energy, in that order; `layer.py` calls it once for each periodic structure.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from les_plugins.electrostatics.local import LocalFields, derivatives_of, self_energy, self_fields
from les_plugins.electrostatics.structure_factor import (
    ReciprocalGrid,
    exponents,
    grid_to_moments,
    moments_to_grid,
)
from les_plugins.errors import GeometryError
from les_plugins.multipoles import Multipoles
from les_plugins.units import RECIPROCAL_PREFACTOR

#: A cell whose volume is below this fraction of the product of its edges is refused as singular.
SMALLEST_RELATIVE_VOLUME = 1e-6
#: A grid of more reciprocal-lattice points than this is refused rather than left to exhaust the memory.
MOST_GRID_POINTS = 50_000_000


def periodic_electrostatics(
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    sigma: float,
    cutoff: float,
    remove_self_interaction: bool,
) -> tuple[Tensor, LocalFields]:
    """Energy and local fields of the permanent moments of one periodic structure.

    Args:
        positions: (n, 3) Å, float64.
        cell: (3, 3) Å, rows are lattice vectors; any handedness.
        multipoles: moments of the n atoms.
        sigma: Gaussian smearing width, Å.
        cutoff: k_c, Å⁻¹.
        remove_self_interaction: take each atom's smeared self-energy and self-field away.

    Returns:
        energy, scalar eV; potential (n,) V, its gradient (n, 3) V/Å and, with quadrupoles, second gradient (n, 3, 3).

    Raises:
        GeometryError: a singular cell, or one that needs more reciprocal vectors than MOST_GRID_POINTS.

    Source: PHYSICS 2 and 4; arXiv 2605.05746.
    """
    grid = reciprocal_grid(cell, cutoff)
    inverse = torch.linalg.inv(cell)[:, list(grid.axes)]  # (3, 3): Cartesian to fractional, grid's axis order
    fractional = positions @ inverse
    fractional = fractional - torch.floor(fractional.detach())
    components = moments_to_grid(fractional, _fractional_moments(multipoles, inverse), grid, multipoles.order)
    filtered = _apply_kernel(components, _kernel(cell, inverse, grid, sigma), grid)
    energy = 0.5 * (components * filtered).sum()

    order = max(multipoles.order, 1)
    fields = _cartesian_fields(grid_to_moments(fractional, filtered, grid, order), inverse, order)
    if remove_self_interaction:
        energy = energy - self_energy(multipoles, sigma).sum()
        fields = fields - self_fields(multipoles, sigma)
    return energy, fields


def reciprocal_grid(cell: Tensor, cutoff: float) -> ReciprocalGrid:
    """All reciprocal-lattice vectors with 0 < |k| ≤ cutoff of a cell (3, 3), half of them, as an integer grid."""
    vectors = cell.detach().double().cpu()
    lengths = torch.linalg.norm(vectors, dim=1)
    volume = abs(float(torch.linalg.det(vectors)))
    if not volume > SMALLEST_RELATIVE_VOLUME * float(lengths.prod()):
        raise GeometryError(
            f"the cell {vectors.tolist()} is singular (volume {volume:.3g} Å³): a periodic structure needs three "
            "independent lattice vectors; set pbc to False for an open one"
        )
    return _build_grid(tuple(vectors.flatten().tolist()), cutoff, cell.device)


@lru_cache(maxsize=16)
def _build_grid(cell: tuple[float, ...], cutoff: float, device: torch.device) -> ReciprocalGrid:
    vectors = torch.tensor(cell, dtype=torch.float64).view(3, 3)
    # |n_a| = |k·a| / 2π ≤ |k| |a| / 2π: no vector inside the sphere lies outside these bounds, however skewed the cell
    bounds = (cutoff * torch.linalg.norm(vectors, dim=1) / (2.0 * math.pi)).floor().long().tolist()
    points = math.prod(2 * b + 1 for b in bounds) // 2
    if points > MOST_GRID_POINTS:
        raise GeometryError(
            f"the cell {vectors.tolist()} needs a grid of {points} reciprocal vectors at dl = {2 * math.pi / cutoff:g} Å; "
            f"allowed: {MOST_GRID_POINTS}. Use a larger dl, a reduced cell, or an open boundary for an isolated molecule"
        )
    axes = tuple(sorted(range(3), key=lambda axis: -bounds[axis]))  # the longest axis makes the rows
    n1, n2, n3 = (bounds[axis] for axis in axes)
    reciprocal = 2.0 * math.pi * torch.linalg.inv(vectors).T[list(axes)]

    second, third = torch.meshgrid(torch.arange(0, n2 + 1), torch.arange(-n3, n3 + 1), indexing="ij")
    pairs = torch.stack([second.flatten(), third.flatten()], 1)
    pairs = pairs[(pairs[:, 0] > 0) | (pairs[:, 1] >= 0)].double()
    row = torch.arange(n1 + 1, dtype=torch.float64)
    in_plane = pairs @ reciprocal[1:]
    sphere = torch.stack(
        [
            torch.linalg.norm(sign * row[:, None, None] * reciprocal[0] + in_plane, dim=-1) <= cutoff
            for sign in (1.0, -1.0)
        ],
        -1,
    )
    multiplicity = sphere.double()
    multiplicity[0] *= 0.5
    origin = int(((pairs == 0).all(1)).nonzero())
    multiplicity[1:, origin] *= 0.5
    multiplicity[0, origin] = 0.0  # k = 0: tinfoil boundary, neutralising background

    used = multiplicity.sum(2) > 0
    last = torch.where(used, row[:, None], -1.0).amax(0)
    order = torch.argsort(last, descending=True, stable=True)
    order = order[: int((last >= 0).sum())]
    pairs, multiplicity, last = pairs[order], multiplicity[:, order], last[order]
    return ReciprocalGrid(
        axes=(axes[0], axes[1], axes[2]),
        rows=n1 + 1,
        pairs=pairs.to(device),
        columns=(pairs.T.long() + torch.tensor([[n2], [n3]])).contiguous().to(device),
        extent=(n2, n3),
        blocks=_blocks(last, n1 + 1),
        multiplicity=multiplicity.to(device),
    )


def _blocks(last: Tensor, rows: int) -> tuple[tuple[int, int, int], ...]:
    """Up to four groups of rows, each with the number of leading pairs that any of its rows needs."""
    size = max(4, -(-rows // 4))
    starts = range(0, rows, size)
    return tuple((start, min(start + size, rows), int((last >= start).sum())) for start in starts)


def _kernel(cell: Tensor, inverse: Tensor, grid: ReciprocalGrid, sigma: float) -> Tensor:
    """(rows, P, 2): (2 C / V) exp(−σ²k²/2)/k² of +n and −n, the 2 for the other half space, zero outside the sphere."""
    reciprocal = 2.0 * math.pi * inverse.T
    row = torch.arange(grid.rows, dtype=cell.dtype, device=cell.device)[:, None, None] * reciprocal[0]
    in_plane = grid.pairs @ reciprocal[1:]
    # |n a + p|² = n² a² ± 2 n a·p + p²: no (rows, P, 2, 3) array
    square = (row * row).sum(-1) + (in_plane * in_plane).sum(-1)
    cross = 2.0 * row[:, 0] @ in_plane.T
    k_squared = torch.stack([square + cross, square - cross], -1)
    safe = torch.where(grid.multiplicity > 0, k_squared, 1.0)
    volume = torch.linalg.det(cell).abs()
    return (2.0 * RECIPROCAL_PREFACTOR / volume) * grid.multiplicity * torch.exp(-0.5 * sigma**2 * safe) / safe


def _apply_kernel(components: Tensor, kernel: Tensor, grid: ReciprocalGrid) -> Tensor:
    """∂E/∂components of E = Σ kernel |S(k)|², with S(±n) = (c·Re ∓ s·Im) + i (c·Im ± s·Re) in the grid's components."""
    parts = components.view(grid.rows, 2, -1, 2)
    even, odd = kernel.sum(-1), kernel[..., 0] - kernel[..., 1]
    sign = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=kernel.dtype, device=kernel.device)
    mixed = parts.flip(1, 3) * sign[:, None, :]
    filtered = 2.0 * (even[:, None, :, None] * parts + odd[:, None, :, None] * mixed)
    return filtered.reshape(components.shape)


def _fractional_moments(multipoles: Multipoles, inverse: Tensor) -> Tensor:
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


def _cartesian_fields(local: Tensor, inverse: Tensor, order: int) -> LocalFields:
    """Potential and Cartesian derivatives from the fractional ones (n, M)."""
    column = {e: local[:, i] for i, e in enumerate(exponents(order))}
    gradient = derivatives_of(column, 1) @ inverse.T
    second = inverse @ derivatives_of(column, 2) @ inverse.T if order == 2 else None
    return LocalFields(column[0, 0, 0], gradient, second)
