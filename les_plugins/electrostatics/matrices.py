"""The interaction of charges and dipoles as matrices, of structures small enough for it. `layer.py` calls it.

A solution of the self-consistent response takes some ten sums, each of which is hundreds of operators; of a small
structure the matrix is had for less than one of them (theory 6.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.boys import smeared_coulomb_ladder
from les_plugins.electrostatics.groups import Facts, Rows, atoms_of, groups_of_like_size, places_of
from les_plugins.electrostatics.lattice import determinant
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.mesh_size import takes_mesh
from les_plugins.electrostatics.periodic.reciprocal import ROUNDING, grid_extent
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.electrostatics.slab import SlabGeometry, slab_excess_matrix, slab_geometry
from les_plugins.units import COULOMB_CONSTANT

#: A matrix is made where (moments of a structure)² × (waves) is at most this: some milliseconds of processor time,
#: beyond which conjugate gradients are faster (docs/explanation/theory.md, 6.3).
MOST_WORK = 1.0e7
#: A pair of an open structure costs as much as so many waves.
WAVES_OF_A_PAIR = (4, 4, 2)


class InteractionMatrices(NamedTuple):
    """T of some structures: what every moment makes at every atom, the self-interaction included.

    Attributes:
        structures: their places in the batch.
        rows: how their atoms stand in rows of one width w.
        atoms: (n,) their places in the batch, None for all in order.
        values: (G, w·d, w·d), symmetric; the d moments of an atom follow each other. Rows of no atom hold anything.
    """

    structures: list[int]
    rows: Rows
    atoms: Tensor | None
    values: Tensor

    @property
    def n_atoms(self) -> int:
        """Of all these structures."""
        return self.rows.n_rows * self.rows.width if self.rows.place is None else len(self.rows.place)

    def pad(self, values: Tensor) -> Tensor:
        """(G, w, …) of (N, …), zero where there is no atom."""
        return self.rows.pad(values if self.atoms is None else values.index_select(0, self.atoms))

    def put(self, among: Tensor, values: Tensor) -> Tensor:
        """(N, …): `among` with (G, w, …) at these atoms."""
        own = self.rows.atoms(values)
        return own if self.atoms is None else among.index_copy(0, self.atoms, own)


def interaction_matrices(
    positions: Tensor, cell: Tensor, moments: slice, batch: Tensor, settings: ElectrostaticsSettings, facts: Facts
) -> list[InteractionMatrices]:
    """Matrices of the structures that are small enough and summed directly; those of like size together.

    Args:
        positions: (N, 3) Å, float64; cell: (B, 3, 3) Å; neither with a graph.
        moments: which of q, u_x, u_y, u_z there are.
        batch: (N,) integer.
        settings: of the sums.
        facts: of this batch.
    """
    small = [i for i, count in enumerate(facts.counts) if count > 0 and _is_small(i, moments, settings, facts)]
    order = None if facts.in_order else torch.argsort(batch, stable=True)
    found = []
    for axes in (0, 2, 3):
        members = [i for i in small if facts.axes[i] == axes]
        sizes = [(facts.counts[i] ** 2, _extent(i, settings, facts)) for i in members]
        for group in groups_of_like_size(sizes):
            structures = [members[place] for place in group]
            atoms = atoms_of(structures, facts, positions.device)
            if order is not None:
                atoms = order if atoms is None else order.index_select(0, atoms)
            rows = Rows.of([facts.counts[i] for i in structures], positions.device)
            places = rows.pad(positions if atoms is None else positions.index_select(0, atoms))
            if axes == 0:
                values = _open(places, moments, settings.sigma)
            else:
                which = places_of(structures, len(cell), cell.device)
                cells = cell if which is None else cell.index_select(0, which)
                if axes == 3:
                    values = _periodic(places, cells, [facts.cells[i] for i in structures], moments, settings)
                else:
                    values = _slab(places, cells, rows, structures, moments, settings, facts)
            found.append(InteractionMatrices(structures, rows, atoms, values))
    return found


def _is_small(i: int, moments: slice, settings: ElectrostaticsSettings, facts: Facts) -> bool:
    n_moments = facts.counts[i] * (moments.stop - moments.start)
    if n_moments**2 * math.prod(n + 1.0 for n in _extent(i, settings, facts)) > MOST_WORK:
        return False
    order = int(moments.stop > 1)
    return facts.axes[i] == 0 or not takes_mesh(facts.counts[i], facts.cells[i], order, settings)


def _extent(i: int, settings: ElectrostaticsSettings, facts: Facts) -> tuple[int, int, int]:
    """Of the grid; of a slab as if its height were that of its cell."""
    return WAVES_OF_A_PAIR if facts.axes[i] == 0 else grid_extent(facts.cells[i], settings.cutoff)[1]


def _periodic(
    places: Tensor,
    cell: Tensor,
    cells: Sequence[tuple[float, ...]],
    moments: slice,
    settings: ElectrostaticsSettings,
) -> Tensor:
    """Σ_k (4C/V) exp(−σ²k²/2)/k² Re(f_i* f_j) over half of the waves, f = (1, ik) exp(ik·r) (theory 2.1)."""
    index = _half_of_the_waves(tuple(cells), settings.cutoff, cell.device)  # (T, 3)
    inverse = torch.linalg.inv_ex(cell).inverse
    waves = (2.0 * math.pi) * (index @ inverse.mT)  # (G, T, 3)
    square = waves.square().sum(2)
    inside = square <= (settings.cutoff * (1.0 + ROUNDING)) ** 2
    kernel = smeared_coulomb_kernel(square, determinant(cell).abs()[:, None], settings.sigma)
    amplitude = torch.where(inside, 2.0 * kernel.sqrt(), 0.0)[:, None]  # (G, 1, T)
    fractional = torch.bmm(places, inverse)
    phase = (2.0 * math.pi) * ((fractional - fractional.floor()) @ index.T)
    cosine, sine = amplitude * phase.cos(), amplitude * phase.sin()
    factors = torch.cat([cosine, sine], 2)[:, :, None]  # (G, w, 1, 2T)
    if moments.stop > 1:
        turned = torch.cat([-sine, cosine], 2)[:, :, None] * waves.mT.repeat(1, 1, 2)[:, None]
        factors = turned if moments.start > 0 else torch.cat([factors, turned], 2)
    factors = factors.flatten(1, 2)
    return torch.bmm(factors, factors.mT)


def _slab(
    places: Tensor,
    cell: Tensor,
    rows: Rows,
    structures: list[int],
    moments: slice,
    settings: ElectrostaticsSettings,
    facts: Facts,
) -> Tensor:
    """The matrix of the 3D sum, less what that has too much (theory 4)."""
    slabs = [i for i, axes in enumerate(facts.axes) if axes == 2 and facts.counts[i] > 0]
    known = [facts.slabs[slabs.index(i)] for i in structures] if facts.slabs else None
    flags, mask = [facts.pbc[i] for i in structures], rows.mask(places)
    geometry: SlabGeometry = slab_geometry(places, cell, flags, settings.sigma, mask, known)
    whole = _periodic(places, geometry.cell, geometry.cells, moments, settings)
    return whole - slab_excess_matrix(places, geometry, moments, settings.sigma)


def _open(places: Tensor, moments: slice, sigma: float) -> Tensor:
    """The pair kernel and its derivatives, (1, −∇) from the right and (1, ∇) from the left (theory 3.1)."""
    separation = places[:, :, None] - places[:, None]  # (G, w, w, 3), from the second atom to the first
    ladder = smeared_coulomb_ladder(separation.square().sum(3), sigma, 2 if moments.stop > 1 else 0)
    if moments.stop == 1:
        return COULOMB_CONSTANT * ladder[0]
    # B_0, ±d B_1 and δ B_1 − d d B_2 are (1, d) ⊗ (1, d) times one table of the B, plus another
    steps = torch.nn.functional.pad(separation, (1, 0), value=1.0)[..., moments]
    values = torch.stack(ladder, 3) @ _tables(moments.start, moments.stop, places.dtype, places.device)
    times, plus = values.view(*separation.shape[:3], 2, steps.shape[3], -1).unbind(3)
    each = torch.addcmul(plus, times, steps[..., :, None] * steps[..., None, :])
    width = separation.shape[1] * steps.shape[3]
    return each.transpose(2, 3).reshape(-1, width, width)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # they outlive the call that needed them first
def _tables(start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, 2·d·d): from B_0, B_1, B_2 to what multiplies (1, d) ⊗ (1, d), and to what is added."""
    times, plus = torch.zeros(2, 3, 4, 4, dtype=dtype)
    times[0, 0, 0], times[1, 0, 1:], times[1, 1:, 0], times[2, 1:, 1:] = 1.0, 1.0, -1.0, -1.0
    plus[1, 1:, 1:] = torch.eye(3, dtype=dtype)
    part = slice(start, stop)
    tables = [COULOMB_CONSTANT * table[:, part, part].flatten(1) for table in (times, plus)]
    return torch.cat(tables, 1).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _half_of_the_waves(cells: tuple[tuple[float, ...], ...], cutoff: float, device: torch.device) -> Tensor:
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
    return index[(square <= reach**2).any(0)].contiguous().to(device)
