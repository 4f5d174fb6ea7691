"""Electrostatics of slabs, periodic along two axes: the 3D sum of a cell of our own, corrected (theory 4).

The given third vector is not read. The 3D sum differs from that of the slab by two known terms: a parabola along the
normal (in-plane wave vector zero) and the copies above and below (all other wave vectors). `solver.py` calls it once
for all slabs of a batch, whose atoms stand in rows of one width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.local import LocalFields, contract
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.errors import GeometryError
from les_plugins.units import COULOMB_CONSTANT

#: Copies are apart by this many smearing widths, so that their Gaussians do not overlap: exp(−9²/2) = 3e-18.
GAP_IN_SIGMA = 9.0
#: … and by this fraction of the root of the in-plane area, which bounds the number of wave vectors of the copies.
GAP_IN_ROOT_AREA = 0.5
#: The length of the cell along the normal is a multiple of it, Å: it stays the same while atoms vibrate.
LENGTH_STEP = 2.0
#: Waves of copies that decay by exp(−this) across the gap are left out: 1e-11.
DECAY = 25.0
#: In-plane vectors whose area is below this fraction of the product of their lengths are refused as parallel.
SMALLEST_RELATIVE_AREA = 1e-6


class SlabGeometry(NamedTuple):
    """What G slabs are summed in.

    Attributes:
        cell: (G, 3, 3) Å.
        cells: its values, nine numbers of each slab.
        in_plane: (G, 2, 3) which rows of the cell are the periodic ones, once for each component.
        normal: (G, 3) unit vectors.
        area: (G, 1) Å² of the plane's vectors.
        height: (G, n) Å of the atoms above the middle.
        length: (G, 1) of the cell along the normal, Å; without a graph, for the energy does not depend on it.
        extent: (G, 1) of the atoms along the normal, Å; likewise.
        reach: largest index of a wave of the copies along the two periodic axes, of all slabs.
    """

    cell: Tensor
    cells: list[tuple[float, ...]]
    in_plane: Tensor
    normal: Tensor
    area: Tensor
    height: Tensor
    length: Tensor
    extent: Tensor
    reach: tuple[int, int]


def cells_of_slabs(
    known: Sequence[Sequence[float]], pbc: Sequence[tuple[bool, bool, bool]], sigma: float
) -> list[tuple[float, ...]]:
    """Nine numbers of the cell that each slab is summed in, Å; of `known` of `slab_geometry`, whose errors it has."""
    cells = []
    for row, flags, length in zip(known, pbc, _lengths(known, pbc, sigma)[0], strict=True):
        axis = flags.index(False)
        rows = {(axis + 1) % 3: row[:3], (axis + 2) % 3: row[3:6], axis: [length * x for x in row[8:]]}
        cells.append((*rows[0], *rows[1], *rows[2]))
    return cells


def _lengths(
    known: Sequence[Sequence[float]], pbc: Sequence[tuple[bool, bool, bool]], sigma: float
) -> tuple[list[float], list[float]]:
    """Along the normal, Å: of the cells of slabs, and of their atoms."""
    areas = [_area(row[:6], flags) for row, flags in zip(known, pbc, strict=True)]
    extents = [row[7] - row[6] for row in known]
    gaps = [max(GAP_IN_SIGMA * sigma, GAP_IN_ROOT_AREA * math.sqrt(area)) for area in areas]
    return [LENGTH_STEP * math.ceil((one + gap) / LENGTH_STEP) for one, gap in zip(extents, gaps, strict=True)], extents


def slab_geometry(
    positions: Tensor,
    cell: Tensor,
    pbc: Sequence[tuple[bool, bool, bool]],
    sigma: float,
    mask: Tensor | None = None,
    known: list[list[float]] | None = None,
) -> SlabGeometry:
    """The cells that slabs are summed in: the two periodic vectors of each, and a third along their normal.

    Args:
        positions: (G, n, 3) Å, n ≥ 1; not wrapped along the open axis.
        cell: (G, 3, 3) Å; the row of the open axis is not read and has no gradient.
        pbc: three flags of each slab, one of them false.
        sigma: Gaussian smearing width, Å.
        mask: (G, n) which rows of the positions are atoms, the first one among them; None for all.
        known: numbers of the slabs that were read from the device at these positions; is filled where it is empty.

    Raises:
        GeometryError: in-plane vectors that are parallel, zero, or not finite.
    """
    axes = tuple(flags.index(False) for flags in pbc)
    places, order = _places(axes, cell.device)
    plane = torch.gather(cell, 1, places)
    first, second = plane.unbind(1)
    normal = torch.linalg.cross(first, second)
    area = normal.square().sum(1, keepdim=True).sqrt()
    normal = normal / area
    along = torch.bmm(positions, normal[:, :, None])[:, :, 0]
    if mask is not None:
        along = torch.where(mask, along, along[:, :1])
    low, high = along.detach().aminmax(dim=1, keepdim=True)
    known = [] if known is None else known
    if not known:
        known += torch.cat([plane.detach().flatten(1), low, high, normal.detach()], 1).tolist()
    lengths, extents = _lengths(known, pbc, sigma)
    cells, reach = cells_of_slabs(known, pbc, sigma), [0, 0]
    for row, length, extent in zip(known, lengths, extents, strict=True):
        largest = DECAY / (length - extent)
        for place in range(2):
            bound = math.floor(largest * math.hypot(*row[3 * place : 3 * place + 3]) / (2.0 * math.pi))
            reach[place] = max(reach[place], bound)
    both = torch.tensor([lengths, extents], dtype=cell.dtype)[:, :, None].to(cell.device)
    length_of, extent_of = both.unbind()
    height = along - 0.5 * (low + high)
    slab_cell = torch.cat([plane, (length_of * normal)[:, None]], 1).gather(1, order)
    return SlabGeometry(slab_cell, cells, places, normal, area, height, length_of, extent_of, (reach[0], reach[1]))


def slab_excess(
    positions: Tensor, slab: SlabGeometry, multipoles: Multipoles, sigma: float
) -> tuple[LocalFields, Tensor]:
    """What the 3D sums of slabs have too much: to be taken off their fields, and off the energies of the atoms.

    Args:
        positions: (G, n, 3) Å, float64.
        slab: what they are summed in.
        multipoles: moments of the atoms, (G, n, …); zero for rows that are none.
        sigma: Gaussian smearing width, Å.

    Returns:
        potential (G, n) V, its gradient (G, n, 3) V/Å and, with quadrupoles, second gradient (G, n, 3, 3); and the
        energies (G, n) eV. A charged slab has the potential −2π k_e Q |z|/area far away: no background.

    Source: theory 4; Yeh and Berkowitz, J. Chem. Phys. 111, 3155 (1999); charged: Ballenegger, Arnold, Cerdà,
    J. Chem. Phys. 131, 094107 (2009); copies: Arnold, de Joannis, Holm, J. Chem. Phys. 117, 2496 (2002).
    """
    excess = _copies(positions, slab, multipoles) - _parabola(slab, multipoles, sigma)
    return excess, contract(multipoles, excess)


def slab_excess_matrix(positions: Tensor, slab: SlabGeometry, moments: slice, sigma: float) -> Tensor:
    """(G, n·d, n·d): the same as a matrix, of charges and dipoles.

    Args:
        positions, slab, sigma: as for `slab_excess`.
        moments: which d of q, u_x, u_y, u_z there are.
    """
    values, gradient, weight = _decaying_waves(positions, slab)
    ones = torch.ones_like(gradient[..., :1])
    factors = (values[:, :, None] * torch.cat([ones, gradient], 2).mT[:, None, moments]).flatten(1, 2)
    source = weight[:, None] * factors.roll(weight.shape[1] // 2, 2)
    copies = torch.bmm(torch.view_as_real(factors).flatten(2), torch.view_as_real(source).flatten(2).mT)  # Re F S†

    z, normal = slab.height[:, :, None], slab.normal[:, None].expand(*positions.shape)
    zero = torch.zeros_like(normal)
    powers = [torch.ones_like(z), z, z * z]
    slopes = [zero, normal, 2.0 * z * normal]
    parts = [torch.cat(both, 2)[..., moments].flatten(1) for both in zip(powers, slopes, strict=True)]
    one, first, second = (part[:, :, None] for part in parts)
    constant = (sigma**2 + slab.length**2 / 6.0)[:, :, None]
    left = torch.cat([second + constant * one, -2.0 * first, one], 2)
    right = torch.cat([one, first, second], 2)
    return copies - torch.bmm(_parabola_factor(slab)[:, :, None] * left, right.mT)


def _area(plane: Sequence[float], pbc: tuple[bool, bool, bool]) -> float:
    """Å² spanned by two vectors, the six numbers of which are given; refuses parallel ones."""
    a, b, c, d, e, f = plane
    x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
    area = math.sqrt(x * x + y * y + z * z)  # not hypot: what overflows here does so in the normal
    if not math.isfinite(area) or not area > SMALLEST_RELATIVE_AREA * math.hypot(a, b, c) * math.hypot(d, e, f):
        raise GeometryError(
            f"the periodic vectors {[[a, b, c], [d, e, f]]} of a slab, pbc {list(pbc)}, span an area of {area:.3g} Å²; "
            "a slab needs two finite vectors that are not parallel; set pbc to False for an open structure"
        )
    return area


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # they outlive the call that needed them first
def _places(axes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(G, 2, 3) rows of the cell that are periodic; (G, 3, 3) place of each row among these and the open one."""
    rows = torch.tensor([[(axis + 1) % 3, (axis + 2) % 3, axis] for axis in axes])
    periodic, order = rows[:, :2, None].expand(-1, 2, 3), rows.argsort(1)[:, :, None].expand(-1, 3, 3)
    return periodic.contiguous().to(device), order.contiguous().to(device)


def _parabola(slab: SlabGeometry, multipoles: Multipoles, sigma: float) -> LocalFields:
    """In-plane wave vector zero: −2π k_e |z|/area instead of the periodic function that a 3D sum has.

    They differ by the pair kernel −(2π k_e/V)(z² + σ² + L²/6), on which the moments act from both sides.
    """
    factor = _parabola_factor(slab)
    z, charge = slab.height, multipoles.charge
    moment = charge * z
    square = moment * z
    if multipoles.dipole is not None:
        upright = torch.bmm(multipoles.dipole, slab.normal[:, :, None])[:, :, 0]
        moment, square = moment + upright, torch.addcmul(square, upright, z, value=2.0)
    if multipoles.quadrupole is not None:
        outer = slab.normal[:, None, :, None] * slab.normal[:, None, None, :]  # (G, 1, 3, 3)
        square = square + (multipoles.quadrupole * outer).sum((-2, -1))
    net, total, squares = torch.stack([charge, moment, square]).sum(2, keepdim=True).unbind()
    constant = squares + net * (sigma**2 + slab.length**2 / 6.0)
    slope = net * z - total
    potential = factor * ((slope - total) * z + constant)
    gradient = (2.0 * factor * slope)[:, :, None] * slab.normal[:, None]
    second = None
    if multipoles.quadrupole is not None:
        second = ((2.0 * factor * net)[:, :, None, None] * outer).expand(-1, z.shape[1], -1, -1)
    return LocalFields(potential, gradient, second)


def _parabola_factor(slab: SlabGeometry) -> Tensor:
    """(G, 1) V/(e·Å²)."""
    return (-2.0 * math.pi * COULOMB_CONSTANT) / (slab.area * slab.length)


def _copies(positions: Tensor, slab: SlabGeometry, multipoles: Multipoles) -> LocalFields:
    """What the slab's copies above and below do to it: waves along the plane that decay along the normal.

    A wave h of the plane comes with exp(±|h| z) and both satisfy Laplace's equation, for the Gaussians do not overlap:
    the copies' energy is (2π k_e/A) Σ_h Re(P M*) / (|h| (exp(|h| L) − 1)), P and M the structure factors with both
    signs. Heights are counted from the top and the bottom, so that nothing overflows.
    """
    values, gradient, weight = _decaying_waves(positions, slab)
    totals = (values * _amplitude(multipoles, gradient)).sum(1)
    # what a structure factor of one sign makes is a wave of the other
    source = (weight * totals.roll(weight.shape[1] // 2, 1).conj())[:, :, None]
    potential = torch.bmm(values, source)[:, :, 0].real
    slope = torch.bmm(values, source * gradient).real
    second = None
    if multipoles.quadrupole is not None:
        second = (values @ (source * _outer(gradient))).real.unflatten(2, (3, 3))
    return LocalFields(potential, slope, second)


def _decaying_waves(positions: Tensor, slab: SlabGeometry) -> tuple[Tensor, Tensor, Tensor]:
    """Waves of both signs at the atoms (G, n, 2H), their gradients over their values (G, 2H, 3), weights (G, 2H)."""
    index, sign = _plane_indices(slab.reach, positions.device)
    dual = torch.linalg.inv_ex(slab.cell).inverse.mT.gather(1, slab.in_plane)
    waves = _times_all(index, dual)
    length = waves.square().sum(2).sqrt()
    rate = length * sign
    gap = slab.length - slab.extent
    decay = torch.exp(-gap * length) / (1.0 - torch.exp(-slab.length * length))
    inside = length.detach() <= DECAY / gap
    # 2 for the other half of the plane
    weight = torch.where(inside, (4.0 * math.pi * COULOMB_CONSTANT) * decay / (slab.area * length), 0.0)

    lowest = (-0.5 * slab.extent * length)[:, None]
    magnitude = torch.addcmul(lowest, slab.height[:, :, None], rate[:, None]).exp()
    values = torch.polar(magnitude, torch.bmm(positions, waves.mT))  # (G, n, 2H)
    gradient = torch.complex(rate[:, :, None] * slab.normal[:, None], waves)  # (G, 2H, 3): ∇ value = gradient · value
    return values, gradient, weight


def _times_all(index: Tensor, dual: Tensor) -> Tensor:
    """(G, 2H, 3): indices (2H, 2) times the reciprocal vectors (G, 2, 3) of every slab."""
    flat: Tensor = index @ dual.transpose(0, 1).flatten(1)
    return flat.view(len(index), len(dual), 3).transpose(0, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _plane_indices(reach: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """2π times the indices of half of the waves of the plane, once for each sign, (2H, 2); the signs, (2H,)."""
    first = torch.arange(0, reach[0] + 1, dtype=torch.float64)
    second = torch.arange(-reach[1], reach[1] + 1, dtype=torch.float64)
    index = torch.cartesian_prod(first, second)
    index = 2.0 * math.pi * index[(index[:, 0] > 0) | (index[:, 1] > 0)]
    sign = torch.ones(len(index), dtype=torch.float64)
    return index.repeat(2, 1).to(device), torch.cat([sign, -sign]).to(device)


def _amplitude(multipoles: Multipoles, gradient: Tensor) -> Tensor:
    """(G, n, 2H): q + u·g + ½ g·Q·g, the moments on a wave whose gradient is g times itself."""
    amplitude = multipoles.charge[:, :, None].to(gradient.dtype)
    if multipoles.dipole is not None:
        amplitude = amplitude + torch.bmm(multipoles.dipole.to(gradient.dtype), gradient.mT)
    if multipoles.quadrupole is not None:
        quadrupole = multipoles.quadrupole.flatten(2).to(gradient.dtype)
        amplitude = amplitude + 0.5 * quadrupole @ _outer(gradient).mT
    return amplitude


def _outer(gradient: Tensor) -> Tensor:
    """(G, 2H, 9): every product of two components."""
    return (gradient[..., :, None] * gradient[..., None, :]).flatten(-2)
