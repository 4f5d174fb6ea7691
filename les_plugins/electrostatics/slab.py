"""Electrostatics of slabs, periodic along two axes: the 3D sum of a cell of our own, corrected (theory 4).

The given third vector is not read. The 3D sum differs from that of the slab by two known terms: a parabola along the
normal (in-plane wave vector zero) and the copies above and below (all other wave vectors). `solver.py` calls it once
for each slab.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.lattice import boundary_lattice
from les_plugins.electrostatics.local import LocalFields, contract
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.errors import GeometryError
from les_plugins.units import COULOMB_CONSTANT

#: Energy and fields of a periodic structure from positions (n, 3), cell (3, 3) and moments.
PeriodicSolver = Callable[[Tensor, Tensor, Multipoles], tuple[Tensor, LocalFields]]
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
    """What a slab is summed in.

    Attributes:
        cell: (3, 3) Å.
        axis: the row of the cell that is along the normal.
        normal: (3,) unit vector.
        height: (n,) Å of the atoms above the middle.
        length: of the cell along the normal, Å; without a graph, for the energy does not depend on it.
        extent: of the atoms along the normal, Å; likewise.
    """

    cell: Tensor
    axis: int
    normal: Tensor
    height: Tensor
    length: float
    extent: float


def slab_electrostatics(
    positions: Tensor, cell: Tensor, pbc: Tensor, multipoles: Multipoles, sigma: float, periodic_solver: PeriodicSolver
) -> tuple[Tensor, LocalFields]:
    """Energy and local fields of the permanent moments of one slab.

    Args:
        positions: (n, 3) Å, float64, n ≥ 1; not wrapped along the open axis.
        cell: (3, 3) Å; the row of the open axis is not read and has no gradient.
        pbc: (3,) bool, one of them false.
        multipoles: moments of the n atoms.
        sigma: Gaussian smearing width, Å.
        periodic_solver: the sum of three periodic axes, self-interaction removed or not.

    Returns:
        energy, scalar eV; potential (n,) V, its gradient (n, 3) V/Å and, with quadrupoles, second gradient (n, 3, 3).
        A charged slab has the potential −2π k_e Q |z|/area far away: no background.

    Raises:
        GeometryError: parallel in-plane vectors, or what the periodic solver refuses.

    Source: theory 4; Yeh and Berkowitz, J. Chem. Phys. 111, 3155 (1999); charged: Ballenegger, Arnold, Cerdà,
    J. Chem. Phys. 131, 094107 (2009); copies: Arnold, de Joannis, Holm, J. Chem. Phys. 117, 2496 (2002).
    """
    slab = slab_geometry(positions, cell, pbc, sigma)
    energy, fields = periodic_solver(positions, slab.cell, multipoles)
    excess = _copies(positions, slab, multipoles) - _parabola(slab, multipoles, sigma)
    return energy - contract(multipoles, excess).sum(), fields - excess


def slab_geometry(positions: Tensor, cell: Tensor, pbc: Tensor, sigma: float) -> SlabGeometry:
    """The cell that a slab is summed in: its two periodic vectors, and a third along their normal.

    Args:
        positions: (n, 3) Å, n ≥ 1.
        cell: (3, 3) Å, its row of the open axis not read.
        pbc: (3,) bool, one of them false.
        sigma: smearing width, Å.

    Raises:
        GeometryError: the in-plane vectors are parallel, zero, or not finite.
    """
    axis = int((~pbc).nonzero()[0])
    plane = cell[[(axis + 1) % 3, (axis + 2) % 3]].detach()
    lengths = plane.norm(dim=1)
    area = float(torch.linalg.cross(plane[0], plane[1]).norm())
    if not math.isfinite(area) or not area > SMALLEST_RELATIVE_AREA * float(lengths.prod()):
        raise GeometryError(
            f"the periodic vectors {plane.tolist()} of a slab, pbc {pbc.tolist()}, span an area of {area:.3g} Å²; "
            "a slab needs two finite vectors that are not parallel; set pbc to False for an open structure"
        )
    lattice = boundary_lattice(cell[None], pbc[None])[0]
    normal = lattice[axis]
    along = positions @ normal
    low, high = (float(edge) for edge in along.detach().aminmax())
    gap = max(GAP_IN_SIGMA * sigma, GAP_IN_ROOT_AREA * math.sqrt(area))
    length = LENGTH_STEP * math.ceil((high - low + gap) / LENGTH_STEP)
    rows = [length * normal if row == axis else lattice[row] for row in range(3)]
    return SlabGeometry(torch.stack(rows), axis, normal, along - 0.5 * (low + high), length, high - low)


def _parabola(slab: SlabGeometry, multipoles: Multipoles, sigma: float) -> LocalFields:
    """In-plane wave vector zero: −2π k_e |z|/area instead of the periodic function that a 3D sum has.

    They differ by the pair kernel −(2π k_e/V)(z² + σ² + L²/6), on which the moments act from both sides.
    """
    volume = torch.linalg.det(slab.cell).abs()
    factor = -2.0 * math.pi * COULOMB_CONSTANT / volume
    z, charge = slab.height, multipoles.charge
    moment, square = charge * z, charge * z * z
    if multipoles.dipole is not None:
        upright = multipoles.dipole @ slab.normal
        moment, square = moment + upright, square + 2.0 * upright * z
    if multipoles.quadrupole is not None:
        square = square + multipoles.quadrupole @ slab.normal @ slab.normal
    net, total = charge.sum(), moment.sum()
    constant = net * (sigma**2 + slab.length**2 / 6.0) + square.sum()
    potential = factor * (net * z * z - 2.0 * total * z + constant)
    gradient = (2.0 * factor * (net * z - total))[:, None] * slab.normal
    second = None
    if multipoles.quadrupole is not None:
        second = (2.0 * factor * net * torch.outer(slab.normal, slab.normal)).expand(len(z), 3, 3)
    return LocalFields(potential, gradient, second)


def _copies(positions: Tensor, slab: SlabGeometry, multipoles: Multipoles) -> LocalFields:
    """What the slab's copies above and below do to it: waves along the plane that decay along the normal.

    A wave h of the plane comes with exp(±|h| z) and both satisfy Laplace's equation, for the Gaussians do not overlap:
    the copies' energy is (2π k_e/A) Σ_h Re(P M*) / (|h| (exp(|h| L) − 1)), P and M the structure factors with both
    signs. Heights are counted from the top and the bottom, so that nothing overflows.
    """
    half_plane = _plane_waves(slab)
    length = half_plane.square().sum(1).sqrt()
    gap, area = slab.length - slab.extent, torch.linalg.det(slab.cell).abs() / slab.length
    decay = torch.exp(-length * gap) / (1.0 - torch.exp(-length * slab.length))
    # 2 for the other half of the plane
    weight = (4.0 * math.pi * COULOMB_CONSTANT / area) * decay / length

    waves, rate = half_plane.repeat(2, 1), torch.cat([length, -length])
    magnitude = torch.exp(slab.height[:, None] * rate - 0.5 * slab.extent * rate.abs())
    values = torch.polar(magnitude, positions @ waves.T)  # (n, 2H)
    gradient = torch.complex(rate[:, None] * slab.normal, waves)  # (2H, 3): ∇ value = gradient · value
    totals = (values * _amplitude(multipoles, gradient)).sum(0)
    # what a structure factor of one sign makes is a wave of the other
    source = weight.repeat(2) * totals.roll(len(half_plane)).conj()
    potential = (values @ source).real
    slope = (values @ (source[:, None] * gradient)).real
    second = None
    if multipoles.quadrupole is not None:
        second = (values @ (source[:, None] * _outer(gradient))).real.unflatten(1, (3, 3))
    return LocalFields(potential, slope, second)


def _plane_waves(slab: SlabGeometry) -> Tensor:
    """(H, 3) 1/Å: half of the wave vectors of the plane whose copies reach across the gap."""
    dual = 2.0 * math.pi * torch.linalg.inv(slab.cell).T
    axes = [axis for axis in range(3) if axis != slab.axis]
    largest = DECAY / (slab.length - slab.extent)
    reach = [math.floor(largest * float(slab.cell[axis].detach().norm()) / (2.0 * math.pi)) for axis in axes]
    first, second = (
        torch.arange(low, high + 1, dtype=dual.dtype, device=dual.device)
        for low, high in ((0, reach[0]), (-reach[1], reach[1]))
    )
    index = torch.cartesian_prod(first, second)
    index = index[(index[:, 0] > 0) | (index[:, 1] > 0)]
    waves: Tensor = index @ dual[axes]
    return waves[waves.detach().square().sum(1) <= largest**2]


def _amplitude(multipoles: Multipoles, gradient: Tensor) -> Tensor:
    """(n, H): q + u·g + ½ g·Q·g, the moments on a wave whose gradient is g times itself."""
    amplitude = multipoles.charge[:, None].to(gradient.dtype)
    if multipoles.dipole is not None:
        amplitude = amplitude + multipoles.dipole.to(gradient.dtype) @ gradient.T
    if multipoles.quadrupole is not None:
        quadrupole = multipoles.quadrupole.flatten(1).to(gradient.dtype)
        amplitude = amplitude + 0.5 * quadrupole @ _outer(gradient).T
    return amplitude


def _outer(gradient: Tensor) -> Tensor:
    """(H, 9): every product of two components."""
    return (gradient[:, :, None] * gradient[:, None, :]).flatten(1)
