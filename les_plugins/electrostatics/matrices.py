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

from les_plugins.electrostatics.groups import Facts, Rows, atoms_of, groups_of_like_size, limits_of, places_of
from les_plugins.electrostatics.lattice import determinant
from les_plugins.electrostatics.open import open_matrix
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.mesh_size import takes_mesh
from les_plugins.electrostatics.periodic.reciprocal import ROUNDING, grid_extent
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.electrostatics.slab import SlabGeometry, cells_of_slabs, slab_excess_matrix, slab_geometry

#: A matrix is made where (moments of a structure)² × (waves) is at most this: some milliseconds of processor time,
#: beyond which conjugate gradients are faster (docs/explanation/theory.md, 6.3) …
MOST_WORK = 1.0e7
#: … and this on an accelerator, where it is one product of 10¹⁰ operations in the place of thousands of launches.
DEVICE_WORK = 1.0e9
#: Numbers that the waves of all atoms of a group may take at once: 512 MiB. More waves are summed in parts.
MOST_WAVES = 1 << 26
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
    most = MOST_WORK if positions.device.type == "cpu" else DEVICE_WORK
    order = None if facts.in_order else torch.argsort(batch, stable=True)

    def atoms_in_rows(structures: list[int]) -> tuple[Rows, Tensor | None, Tensor]:
        atoms = atoms_of(structures, facts, positions.device)
        if order is not None:
            atoms = order if atoms is None else order.index_select(0, atoms)
        rows = Rows.of([facts.counts[i] for i in structures], positions.device)
        return rows, atoms, rows.pad(positions if atoms is None else positions.index_select(0, atoms))

    def cells_of(structures: list[int]) -> Tensor:
        which = places_of(structures, len(cell), cell.device)
        return cell if which is None else cell.index_select(0, which)

    slabs = [i for i, axes in enumerate(facts.axes) if axes == 2 and facts.counts[i] > 0]
    flags = [facts.pbc[i] for i in slabs]
    if slabs and not facts.slabs:  # nothing has been summed at these places: this fills it
        rows, _, places = atoms_in_rows(slabs)
        slab_geometry(places, cells_of(slabs), flags, settings.sigma, rows.mask(places), facts.slabs)
    cells = list(facts.cells)
    for i, values in zip(slabs, cells_of_slabs(facts.slabs, flags, settings.sigma), strict=True):
        cells[i] = values  # of the sum: the third vector that a slab is given may be anything, as zero
    facts = facts._replace(cells=cells)

    small = [i for i, count in enumerate(facts.counts) if count > 0 and _work(i, moments, settings, facts) <= most]
    found = []
    for axes in (0, 2, 3):
        members = [i for i in small if facts.axes[i] == axes]
        sizes = [(facts.counts[i] ** 2, _extent(i, settings, facts)) for i in members]
        for group in groups_of_like_size(sizes, limits_of(positions.device)):
            structures = [members[place] for place in group]
            rows, atoms, places = atoms_in_rows(structures)
            if axes == 0:
                matrix = open_matrix(places, moments, settings.sigma)
            elif axes == 3:
                own = [facts.cells[i] for i in structures]
                matrix = _periodic(places, cells_of(structures), own, moments, settings)
            else:
                known = [facts.slabs[slabs.index(i)] for i in structures]
                flags = [facts.pbc[i] for i in structures]
                matrix = _slab(places, cells_of(structures), rows, flags, known, moments, settings)
            found.append(InteractionMatrices(structures, rows, atoms, matrix))
    return found


def _work(i: int, moments: slice, settings: ElectrostaticsSettings, facts: Facts) -> float:
    """Products of two moments and a wave, of a structure's matrix; infinite where it is summed on a mesh."""
    if facts.axes[i] > 0 and takes_mesh(facts.counts[i], facts.cells[i], int(moments.stop > 1), settings):
        return math.inf
    n_moments = facts.counts[i] * (moments.stop - moments.start)
    work: float = n_moments**2 * math.prod(n + 1.0 for n in _extent(i, settings, facts))
    return work


def _extent(i: int, settings: ElectrostaticsSettings, facts: Facts) -> tuple[int, int, int]:
    """Of the grid."""
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
    fractional = torch.bmm(places, inverse)
    fractional = fractional - fractional.floor()
    volume = determinant(cell).abs()[:, None]
    n_moments = places.shape[:2].numel() * (moments.stop - moments.start)
    parts = index.split(max(1, MOST_WAVES // (2 * n_moments)))
    factors = _wave_factors(parts[0], fractional, inverse, volume, moments, settings)
    values = torch.bmm(factors, factors.mT)
    for part in parts[1:]:
        factors = _wave_factors(part, fractional, inverse, volume, moments, settings)
        values.baddbmm_(factors, factors.mT)
    return values


def _wave_factors(
    index: Tensor,
    fractional: Tensor,
    inverse: Tensor,
    volume: Tensor,
    moments: slice,
    settings: ElectrostaticsSettings,
) -> Tensor:
    """(G, w·d, 2T): real and imaginary parts of f of some waves (T, 3), times the root of their weight."""
    waves = (2.0 * math.pi) * (index @ inverse.mT)  # (G, T, 3)
    square = waves.square().sum(2)
    inside = square <= (settings.cutoff * (1.0 + ROUNDING)) ** 2
    kernel = smeared_coulomb_kernel(square, volume, settings.sigma)
    amplitude = torch.where(inside, 2.0 * kernel.sqrt(), 0.0)[:, None]  # (G, 1, T)
    phase = (2.0 * math.pi) * (fractional @ index.T)
    cosine, sine = amplitude * phase.cos(), amplitude * phase.sin()
    factors = torch.cat([cosine, sine], 2)[:, :, None]  # (G, w, 1, 2T)
    if moments.stop > 1:
        turned = torch.cat([-sine, cosine], 2)[:, :, None] * waves.mT.repeat(1, 1, 2)[:, None]
        factors = turned if moments.start > 0 else torch.cat([factors, turned], 2)
    return factors.flatten(1, 2)


def _slab(
    places: Tensor,
    cell: Tensor,
    rows: Rows,
    flags: list[tuple[bool, bool, bool]],
    known: list[list[float]],
    moments: slice,
    settings: ElectrostaticsSettings,
) -> Tensor:
    """The matrix of the 3D sum, less what that has too much (theory 4)."""
    mask = rows.mask(places)
    geometry: SlabGeometry = slab_geometry(places, cell, flags, settings.sigma, mask, known)
    whole = _periodic(places, geometry.cell, geometry.cells, moments, settings)
    return whole - slab_excess_matrix(places, geometry, moments, settings.sigma)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # they outlive the call that needed them first
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
