"""Periodic electrostatics on a grid whose size is fixed beforehand: plain tensor operations that compilers can trace.

The same truncated sum as `reciprocal.py`: the grid holds every vector that any covered cell needs, and the cutoff
sphere of the cell at hand is a mask on it. No loop, shape or branch depends on values. `layer.py` calls it when it is
traced.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from les_plugins.electrostatics.lattice import determinant, dual_lattice
from les_plugins.electrostatics.local import LocalFields, contract, self_energy, self_fields, to_atoms
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.reciprocal import ROUNDING, SMALLEST_RELATIVE_VOLUME
from les_plugins.electrostatics.periodic.structure_factor import exponents
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.errors import GeometryError

Extent = tuple[int, int, int]
#: Of the derivatives of rank two. Listed here, for torch.compile warns of the cache of `exponents`.
RANK_TWO = tuple(exponent for exponent in exponents(2) if sum(exponent) == 2)


def static_extent(lengths: tuple[float, float, float], cutoff: float) -> Extent:
    """Largest index along each axis of any cell whose lattice vectors are no longer than `lengths` (Å)."""
    last = (math.floor(cutoff * (1.0 + ROUNDING) * length / (2.0 * math.pi)) for length in lengths)
    # floats are symbols to torch.compile(dynamic=True), and sizes that are expressions of them compile slowly
    first, second, third = (operator.index(number) for number in last)
    return first, second, third


def covered(cell: Tensor, pbc: Tensor, extent: Extent, cutoff: float) -> Tensor:
    """(B,) bool: whether the grid holds every vector |k| ≤ cutoff of a periodic structure.

    Args:
        cell: (B, 3, 3) Å.
        pbc: (B, 3) bool.
        extent: the grid.
        cutoff: k_c, Å⁻¹.
    """
    lengths = cell.square().sum(2).sqrt()
    needed = cutoff * (1.0 + ROUNDING) * lengths / (2.0 * math.pi)
    limit = torch.tensor([n + 1.0 for n in extent], dtype=cell.dtype, device=cell.device)
    volume = determinant(cell).abs()
    proper = volume > SMALLEST_RELATIVE_VOLUME * lengths.prod(1)
    return (needed < limit).all(1) & proper & pbc.all(1)


def refuse_uncovered(cell: Tensor, pbc: Tensor, lengths: tuple[float, float, float], cutoff: float) -> None:
    """Raise GeometryError for a structure that a grid sized by `lengths` (Å) does not cover; says what is needed.

    Args:
        cell: (B, 3, 3) Å.
        pbc: (B, 3) bool.
        lengths: the `static_cell`.
        cutoff: k_c, Å⁻¹.
    """
    fits = covered(cell.detach().double(), pbc, static_extent(lengths, cutoff), cutoff)
    if bool(fits.all()):
        return
    first = int((~fits).nonzero()[0])
    found = ", ".join(f"{float(length):.4g}" for length in cell[first].detach().norm(dim=1))
    raise GeometryError(
        f"static_cell is {list(lengths)} Å, the lattice vectors of structure {first} are [{found}] Å long and its pbc "
        f"is {pbc[first].tolist()}; allowed: periodic structures with a volume and lattice vectors no longer than "
        "static_cell; set a larger one, or none for a model that is not compiled"
    )


def static_electrostatics(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    extent: Extent,
) -> tuple[Tensor, LocalFields]:
    """Energies and local fields of the permanent moments of periodic structures.

    Args:
        positions: (N, 3) Å, float64.
        cell: (B, 3, 3) Å.
        pbc: (B, 3) bool.
        batch: (N,) integer.
        multipoles: moments of the N atoms.
        settings: of the sums.
        extent: largest index along each lattice axis.

    Returns:
        energy (N,) eV, each atom's share, and potential and gradient at the atoms. For a structure that the grid does
        not cover, or that is not periodic, they are NaN, and with it the derivatives of the whole batch: compiled code
        cannot raise.

    Source: theory 2.1; arXiv 2605.05746.
    """
    sigma, cutoff = settings.sigma, settings.cutoff
    fits = covered(cell, pbc, extent, cutoff)
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device)
    cell = torch.where(fits[:, None, None], cell, identity)
    dual = dual_lattice(cell)  # (B, axis, xyz): the reciprocal lattice over 2π
    of_atom = to_atoms(dual, batch)
    fractional = (of_atom * positions[:, None, :]).sum(2)
    fractional = fractional - torch.floor(fractional)

    order = multipoles.order
    here = (batch[:, None] == torch.arange(cell.shape[0], device=batch.device)).to(positions.dtype)  # (N, B)
    waves = [
        _waves(fractional[:, axis], *bounds, max(order, 1))
        for axis, bounds in enumerate(((0, extent[0]), (0, extent[1]), (-extent[2], extent[2])))
    ]
    components = _spread([wave[:, : order + 1] for wave in waves], here, _moment_cube(multipoles, of_atom))
    local = _gather(waves, here, _filter(components, _kernel(cell, dual, extent, sigma, cutoff)))

    gradient = torch.stack([local[:, 1, 0, 0], local[:, 0, 1, 0], local[:, 0, 0, 1]], 1)
    gradient = (gradient[:, :, None] * of_atom).sum(1)
    second = None
    if order == 2:
        rows = [
            torch.stack([local[:, 2, 0, 0], local[:, 1, 1, 0], local[:, 1, 0, 1]], 1),
            torch.stack([local[:, 1, 1, 0], local[:, 0, 2, 0], local[:, 0, 1, 1]], 1),
            torch.stack([local[:, 1, 0, 1], local[:, 0, 1, 1], local[:, 0, 0, 2]], 1),
        ]
        second = of_atom.transpose(1, 2) @ torch.stack(rows, 1) @ of_atom
    fields = LocalFields(local[:, 0, 0, 0], gradient, second)
    energy = contract(multipoles, fields)
    if settings.remove_self_interaction:
        energy = energy - self_energy(multipoles, sigma)
        fields = fields - self_fields(multipoles, sigma)
    # as a factor, so that every derivative is NaN as well
    factor = to_atoms(torch.where(fits, 1.0, math.nan).to(energy.dtype), batch)
    return factor * energy, LocalFields(factor * fields.potential, factor[:, None] * fields.gradient, None)


def _spread(waves: list[Tensor], here: Tensor, moments: Tensor) -> Tensor:
    """Structure factor in {cos, sin} of the first axis, {Re, Im} of the other two: (B, R·{cos, sin}, M, {Re, Im}, L).

    Args:
        waves: of each axis, (N, D, {Re, Im}, n); the first axis has n ≥ 0, as has the second; +n and −n of the first
            share a point.
        here: (N, B) 1 where an atom belongs to a structure, else 0.
        moments: (N, D, D, D) coefficient of every derivative.
    """
    first, second, third = waves
    degrees, n_third = third.shape[1], third.shape[3]
    along_third = (moments.flatten(1, 2) @ third.flatten(2)).unflatten(2, (2, n_third))  # (N, D·D, {Re, Im}, L)
    right = torch.stack([along_third.flatten(2), _times_i(along_third).flatten(2)], 2)
    right = right.unflatten(1, (degrees, degrees)).flatten(2, 3)  # (N, D, D·{Re, Im}, 2L)
    plane = second.flatten(1, 2).transpose(1, 2)[:, None] @ right  # (N, D, M, 2L)
    total = _of_structure(first, here).t() @ plane.flatten(0, 1).flatten(1)
    grid: Tensor = total.view(here.shape[1], -1, second.shape[3], 2, n_third)
    return grid


def _gather(waves: list[Tensor], here: Tensor, filtered: Tensor) -> Tensor:
    """(N, D, D, D): every derivative at the atoms; the transpose of `_spread`."""
    first, second, third = waves
    degrees, n_second = second.shape[1], second.shape[3]
    plane = _of_structure(first, here) @ filtered.flatten(0, 1).flatten(1)
    plane = plane.unflatten(0, (-1, degrees)).unflatten(2, (n_second, -1))  # (N, D, M, 2L)
    along = second.flatten(1, 2)[:, None] @ plane  # (N, D, D·{Re, Im}, 2L)
    real, imaginary = along.unflatten(3, (2, -1)).unflatten(2, (degrees, 2)).unbind(3)  # (N, D, D, {Re, Im}, L)
    combined = (real - _times_i(imaginary)).flatten(3).flatten(1, 2)
    local: Tensor = (combined @ third.flatten(2).transpose(1, 2)).unflatten(1, (degrees, degrees))
    return local


def _kernel(cell: Tensor, dual: Tensor, extent: Extent, sigma: float, cutoff: float) -> tuple[Tensor, Tensor]:
    """Kernel of +n plus and minus that of −n, (B, R, M, L): (2 C / V) exp(−σ²k²/2)/k², 2 for the other half space."""
    row, second, third = (
        torch.arange(first, last + 1, dtype=cell.dtype, device=cell.device)
        for first, last in ((0, extent[0]), (0, extent[1]), (-extent[2], extent[2]))
    )
    weights = torch.ones(len(row), len(second), len(third), dtype=cell.dtype, device=cell.device)
    weights = weights * torch.where(row == 0, 0.5, 1.0)[:, None, None]
    on_edge = torch.where(third < 0, 0.0, torch.where(third == 0, 0.5, 1.0))
    weights = weights * torch.where((second == 0)[:, None], on_edge, 1.0)
    origin = (row == 0)[:, None, None] & (second == 0)[:, None] & (third == 0)
    weights = torch.where(origin, 0.0, weights)

    reciprocal = 2.0 * math.pi * dual
    along_row = row[:, None] * reciprocal[:, None, 0]  # (B, R, xyz)
    in_plane = (
        second[:, None, None] * reciprocal[:, None, None, 1] + third[:, None] * reciprocal[:, None, None, 2]
    ).flatten(1, 2)  # (B, M·L, xyz)
    square = along_row.square().sum(2)[:, :, None] + in_plane.square().sum(2)[:, None, :]
    cross = 2.0 * along_row @ in_plane.transpose(1, 2)
    volume = determinant(cell).abs()[:, None, None]
    limit = (cutoff * (1.0 + ROUNDING)) ** 2
    both = []
    for k_squared in (square + cross, square - cross):
        inside = (k_squared <= limit) & (weights.flatten(1) > 0.0)
        safe = torch.where(inside, k_squared, 1.0)
        value = 2.0 * weights.flatten(1) * smeared_coulomb_kernel(safe, volume, sigma)
        both.append(torch.where(inside, value, 0.0).unflatten(2, (len(second), len(third))))
    return both[0] + both[1], both[0] - both[1]


def _filter(components: Tensor, kernel: tuple[Tensor, Tensor]) -> Tensor:
    """∂E/∂components of E = Σ kernel |S(k)|²; see `reciprocal.py`."""
    even, odd = (part[:, :, None, :, None, :] for part in kernel)  # (B, R, 1, M, 1, L)
    value = components.unflatten(1, (-1, 2))  # (B, R, {cos, sin}, M, {Re, Im}, L)
    cosine, sine = value.unbind(2)
    crossed = torch.stack([_times_i(sine), -_times_i(cosine)], 2)
    filtered: Tensor = 2.0 * (even * value + odd * crossed)
    return filtered.flatten(1, 2)


def _waves(coordinate: Tensor, first: int, last: int, order: int) -> Tensor:
    """exp(2πi n s), n = first … last, and its derivatives in s: (N, order + 1, {Re, Im}, last − first + 1)."""
    wave = 2.0 * math.pi * torch.arange(first, last + 1, dtype=coordinate.dtype, device=coordinate.device)
    angle = coordinate[:, None] * wave
    values = [torch.stack([torch.cos(angle), torch.sin(angle)], 1)]
    for _ in range(order):
        values.append(wave * _times_i(values[-1]))
    return torch.stack(values, 1)


def _times_i(value: Tensor) -> Tensor:
    """(…, {Re, Im}, L) times i."""
    real, imaginary = value.unbind(-2)
    return torch.stack([-imaginary, real], -2)


def _of_structure(first: Tensor, here: Tensor) -> Tensor:
    """(N·D, B·R·{cos, sin}): an atom's factors along the first axis in the columns of its structure, zero elsewhere."""
    factors = first.transpose(2, 3).flatten(2)  # (N, D, R·{cos, sin})
    return (here[:, None, :, None] * factors[:, :, None, :]).flatten(2).flatten(0, 1)


def _moment_cube(multipoles: Multipoles, of_atom: Tensor) -> Tensor:
    """(N, D, D, D): coefficients of the fractional derivatives in q + u·∇ + ½ Q:∇∇, by their exponents."""
    moments: dict[Extent, Tensor] = {(0, 0, 0): multipoles.charge}
    if multipoles.dipole is not None:
        along = (of_atom * multipoles.dipole[:, None, :]).sum(2)
        moments |= {(1, 0, 0): along[:, 0], (0, 1, 0): along[:, 1], (0, 0, 1): along[:, 2]}
    if multipoles.quadrupole is not None:
        symmetric = 0.5 * (multipoles.quadrupole + multipoles.quadrupole.transpose(1, 2))
        tensor = of_atom @ symmetric @ of_atom.transpose(1, 2)
        for exponent in RANK_TWO:
            a, b = (axis for axis, power in enumerate(exponent) for _ in range(power))
            moments[exponent] = tensor[:, a, b] * (0.5 if a == b else 1.0)
    degrees, zero = multipoles.order + 1, torch.zeros_like(multipoles.charge)
    places = [(p, q, r) for p in range(degrees) for q in range(degrees) for r in range(degrees)]
    return torch.stack([moments.get(place, zero) for place in places], 1).view(-1, degrees, degrees, degrees)
