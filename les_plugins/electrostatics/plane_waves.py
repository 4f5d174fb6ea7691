"""Plane waves at all atoms of small structures: the interaction of charges and dipoles, and its matrix.

A wave at an atom is one number here, where `periodic/reciprocal.py` has a factor for each axis: more arithmetic and
memory, and a fraction of the operators. `couplings.py` calls it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.lattice import determinant
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.reciprocal import ROUNDING, Cell
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.electrostatics.slab import SlabGeometry, plane_indices, weight_of_copies


class PlaneWaves(NamedTuple):
    """T_ij = Re Σ_k weight_k f_ik f*_jk' with f = (1, g_k) e_k(r), where ∇e_k = g_k e_k (theory 2.1).

    Attributes:
        values: (G, w, 2W) e_k at the atoms of G structures, real and imaginary part of one wave after the other.
        slopes: (G, d, W) complex, 1 and g_k: what the d moments multiply.
        weight: (G, W) eV/e²; not negative, but for the waves that take the copies of slabs away.
        n_sum: number of waves of the reciprocal sum, which come first; after them those of the copies of slabs.
        partner: (W,) k' of every wave: itself in the sum, the one of the other sign of copies; None without copies.
    """

    values: Tensor
    slopes: Tensor
    weight: Tensor
    n_sum: int
    partner: Tensor | None

    def fields(self, moments: Tensor) -> Tensor:
        """(G, w, d): T times moments (G, w, d)."""
        transforms = torch.bmm(moments.mT, self.values).unflatten(2, (-1, 2))
        factors = (torch.view_as_complex(transforms) * self.slopes).sum(1)  # (G, W)
        if self.partner is not None:
            factors = factors.index_select(1, self.partner)
        source = (self.weight * factors)[:, None] * self.slopes.conj()
        return torch.bmm(self.values, torch.view_as_real(source.resolve_conj()).flatten(2).mT)

    def matrix(self) -> Tensor:
        """(G, w·d, w·d) without graph. Partners have equal weights: each is a product of two roots."""
        roots = self.weight.abs().sqrt()[:, None] * self.slopes
        values = torch.view_as_complex(self.values.unflatten(2, (-1, 2)))
        factors = (values[:, :, None] * roots[:, None]).flatten(1, 2)
        of_sum = torch.view_as_real(factors[..., : self.n_sum]).flatten(2)
        product = torch.bmm(of_sum, of_sum.mT)
        if self.partner is not None:
            copies = factors[..., self.n_sum :]
            others = torch.view_as_real(copies.roll(copies.shape[2] // 2, 2)).flatten(2)
            product.baddbmm_(torch.view_as_real(copies).flatten(2), others.mT, alpha=-1.0)
        return product


def plane_waves(
    places: Tensor,
    cell: Tensor,
    cells: Sequence[Cell],
    moments: slice,
    settings: ElectrostaticsSettings,
    slabs: SlabGeometry | None = None,
) -> PlaneWaves:
    """The waves of the reciprocal sum, and those that take the copies of slabs away (theory 2.1 and 4).

    Args:
        places: (G, w, 3) Å.
        cell: (G, 3, 3) Å, of slabs those that they are summed in.
        cells: its values.
        moments: which d of q, u_x, u_y, u_z there are.
        settings: of the sums.
        slabs: their geometry, with zero area⁻¹ for structures that are none.
    """
    table = _tables(tuple(cells), settings.cutoff, None if slabs is None else slabs.reach, cell.device)
    inverse = torch.linalg.inv_ex(cell).inverse
    fractional = torch.bmm(places, inverse)
    phase = (fractional - fractional.detach().floor()) @ table.indices  # (G, w, W)
    waves = inverse @ table.indices  # (G, 3, W)
    square = waves.square().sum(1)
    kernel = smeared_coulomb_kernel(square, determinant(cell).abs()[:, None], settings.sigma)
    weight = torch.where(square.detach() <= table.limit, 4.0 * kernel, 0.0)  # of half of the waves
    rise: Tensor = table.unit
    if slabs is None:
        values = torch.stack([phase.cos(), phase.sin()], 3)
    else:
        length = square.sqrt()
        weight = weight - table.of_copies * weight_of_copies(slabs, length)
        rate = length * table.sign
        lowest = (-0.5 * slabs.extent * length * table.of_copies)[:, None]
        values = torch.polar(torch.addcmul(lowest, slabs.height[:, :, None], rate[:, None]).exp(), phase)
        values = torch.view_as_real(values)
        rise = table.unit + torch.nn.functional.pad(slabs.normal, (1, 0))[:, :, None] * rate[:, None]
    slopes = torch.complex(rise, torch.nn.functional.pad(waves, (0, 0, 1, 0)))
    return PlaneWaves(values.flatten(2), slopes[:, moments], weight, table.n_sum, table.partner)


class _Tables(NamedTuple):
    """What is the same for all structures of a group.

    Attributes:
        indices: (3, W) 2π n of every wave: those of the reciprocal sum, then those of the copies of slabs.
        limit: (W,) largest |k|², Å⁻²; none of the copies' is below it.
        of_copies: (W,) 1 for the copies' waves, 0 for the others.
        sign: (W,) of the copies' growth along the normal, 0 for the others.
        unit: (4, 1) 1 for the charge.
        n_sum, partner: see `PlaneWaves`.
    """

    indices: Tensor
    limit: Tensor
    of_copies: Tensor
    sign: Tensor
    unit: Tensor
    n_sum: int
    partner: Tensor | None


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # they outlive the call that needed them first
def _tables(cells: tuple[Cell, ...], cutoff: float, reach: tuple[int, int] | None, device: torch.device) -> _Tables:
    index = 2.0 * math.pi * _half_of_the_waves(cells, cutoff)
    n_sum = len(index)
    sign, partner = torch.zeros(n_sum, dtype=torch.float64), torch.arange(n_sum)
    if reach is not None:
        in_plane, signs = plane_indices(reach, torch.device("cpu"))
        opposite = n_sum + torch.arange(len(signs)).roll(len(signs) // 2)
        index = torch.cat([index, torch.nn.functional.pad(in_plane, (0, 1))])
        sign, partner = torch.cat([sign, signs]), torch.cat([partner, opposite])
    limit = (cutoff * (1.0 + ROUNDING)) ** 2 * (1.0 - sign.abs()) - sign.abs()
    unit = torch.tensor([[1.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    of_waves = torch.cat([index.T, torch.stack([limit, sign.abs(), sign])]).to(device)
    others = None if reach is None else partner.to(device)
    limits, of_copies, signs = of_waves[3:].unbind()
    return _Tables(of_waves[:3], limits, of_copies, signs, unit.to(device), n_sum, others)


def _half_of_the_waves(cells: tuple[Cell, ...], cutoff: float) -> Tensor:
    """(T, 3): indices of the waves within the cutoff of any of the cells, one of n and −n, without 0."""
    vectors = torch.tensor(cells, dtype=torch.float64).view(-1, 3, 3)
    reach = cutoff * (1.0 + 2.0 * ROUNDING)
    bounds = (reach * vectors.square().sum(2).sqrt().amax(0) / (2.0 * math.pi)).floor().tolist()
    a, b, c = (int(bound) for bound in bounds)
    index = torch.cartesian_prod(torch.arange(a + 1), torch.arange(-b, b + 1), torch.arange(-c, c + 1))
    first, second, third = index.unbind(1)
    half = (first > 0) | (second > 0) | ((second == 0) & (third > 0))
    half &= (first > 0) | (second >= 0)
    index = index[half].double()
    reciprocal = 2.0 * math.pi * torch.linalg.inv(vectors)
    square = (index @ reciprocal.mT).square().sum(2)
    return index[(square <= reach**2).any(0)]
