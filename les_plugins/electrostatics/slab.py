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
        cell: (G, 3, 3) Å, the two periodic vectors and one along the normal.
        cells: its values, nine numbers of each slab.
        normal: (G, 3) unit vectors.
        per_area: (G, 1) Å⁻², over the area that the periodic vectors span.
        height: (G, n) Å of the atoms above the middle.
        length: (G, 1) of the cell along the normal, Å; without a graph, for the energy does not depend on it.
        extent: (G, 1) of the atoms along the normal, Å; likewise.
        reach: largest index of a wave of the copies along the two periodic axes, of all slabs.
    """

    cell: Tensor
    cells: list[tuple[float, ...]]
    normal: Tensor
    per_area: Tensor
    height: Tensor
    length: Tensor
    extent: Tensor
    reach: tuple[int, int]

    def after(self, cell: Tensor) -> SlabGeometry:
        """The same with structures before it that are no slabs, with cells (P, 3, 3), to which it does nothing."""
        if not len(cell):
            return self
        before = (0, 0, len(cell), 0)
        values = self.normal, self.per_area, self.height, self.extent
        normal, per_area, height, extent = (torch.nn.functional.pad(value, before) for value in values)
        length = torch.nn.functional.pad(self.length, before, value=1.0)
        return SlabGeometry(
            torch.cat([cell, self.cell]), self.cells, normal, per_area, height, length, extent, self.reach
        )


def cells_of_slabs(
    known: Sequence[Sequence[float]], pbc: Sequence[tuple[bool, bool, bool]], sigma: float
) -> list[tuple[float, ...]]:
    """Nine numbers of the cell that each slab is summed in, Å; of `known` of `slab_geometry`, whose errors it has."""
    lengths, _ = _lengths(known, pbc, sigma)
    return [(*row[:6], *(length * x for x in row[8:])) for row, length in zip(known, lengths, strict=True)]


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
    plane = torch.gather(cell, 1, _periodic_rows(tuple(flags.index(False) for flags in pbc), cell.device))
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
    slab_cell = torch.cat([plane, (length_of * normal)[:, None]], 1)
    return SlabGeometry(slab_cell, cells, normal, 1.0 / area, height, length_of, extent_of, (reach[0], reach[1]))


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


def parabola_matrix(slab: SlabGeometry, sigma: float) -> tuple[Tensor, Tensor]:
    """The parabola, which the 3D sums lack, as R M Rᵀ of charges and dipoles: R (G, n, 4, 3) and M (G, 3, 3).

    R holds 1, z and z² of every atom, and their derivatives.
    """
    first = torch.cat([slab.height[:, :, None], slab.normal[:, None].expand(*slab.height.shape, 3)], 2)
    one, twice, square, others = _parabola_tables(slab.normal.device)
    second = twice * slab.height[:, :, None] * first
    middle = (sigma**2 + slab.length**2 / 6.0)[:, :, None] * square + others
    return torch.stack([one.expand_as(first), first, second], 3), _parabola_factor(slab)[:, :, None] * middle


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
def _periodic_rows(axes: tuple[int, ...], device: torch.device) -> Tensor:
    """(G, 2, 3): which rows of the cell are periodic, by the open axis, once for each component."""
    rows = torch.tensor([[(axis + 1) % 3, (axis + 2) % 3] for axis in axes])
    return rows[:, :, None].expand(-1, -1, 3).contiguous().to(device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _parabola_tables(device: torch.device) -> tuple[Tensor, ...]:
    """1 and its derivatives; from z and its derivatives to those of z², over z; parts of the matrix between powers."""
    one, twice = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    square, others = torch.zeros(2, 3, 3, dtype=torch.float64)
    square[0, 0] = others[0, 2] = others[2, 0] = 1.0
    others[1, 1] = -2.0
    return tuple(table.to(device) for table in (one, twice, square, others))


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
    return (-2.0 * math.pi * COULOMB_CONSTANT) * slab.per_area / slab.length


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
    index, sign = plane_indices(slab.reach, positions.device)
    dual = torch.linalg.inv_ex(slab.cell).inverse.mT[:, :2]
    waves = _times_all(index, dual)
    length = waves.square().sum(2).sqrt()
    rate = length * sign
    weight = weight_of_copies(slab, length)
    lowest = (-0.5 * slab.extent * length)[:, None]
    magnitude = torch.addcmul(lowest, slab.height[:, :, None], rate[:, None]).exp()
    values = torch.polar(magnitude, torch.bmm(positions, waves.mT))  # (G, n, 2H)
    gradient = torch.complex(rate[:, :, None] * slab.normal[:, None], waves)  # (G, 2H, 3): ∇ value = gradient · value
    return values, gradient, weight


def weight_of_copies(slab: SlabGeometry, length: Tensor) -> Tensor:
    """(G, W) eV/e²: of waves of the plane with |h| (G, W) Å⁻¹, those of the other half of the plane included."""
    gap = slab.length - slab.extent
    decay = torch.exp(-gap * length) / (1.0 - torch.exp(-slab.length * length))
    weight = (4.0 * math.pi * COULOMB_CONSTANT) * slab.per_area * decay / length
    return torch.where(length.detach() <= DECAY / gap, weight, 0.0)


def _times_all(index: Tensor, dual: Tensor) -> Tensor:
    """(G, 2H, 3): indices (2H, 2) times the reciprocal vectors (G, 2, 3) of every slab."""
    flat: Tensor = index @ dual.transpose(0, 1).flatten(1)
    return flat.view(len(index), len(dual), 3).transpose(0, 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def plane_indices(reach: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
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
