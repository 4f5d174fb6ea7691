"""The interaction of charges and dipoles of small structures, kept for all sums of one call.

It costs an accelerator a fraction of the launches of a sum, and is made once: what moments make at the atoms is then a
product with it. The self-consistent response is solved with its matrix (theory 6.3). `solver.py` and responses call it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.groups import (
    Facts,
    Piece,
    Rows,
    atoms_of,
    cut,
    groups_of_like_size,
    limits_of,
)
from les_plugins.electrostatics.local import self_slopes
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.open import open_matrix
from les_plugins.electrostatics.periodic.mesh_size import takes_mesh
from les_plugins.electrostatics.periodic.reciprocal import grid_extent, volume_of
from les_plugins.electrostatics.plane_waves import PlaneWaves, plane_waves
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.electrostatics.slab import cells_of_slabs, parabola_matrix, slab_geometry

#: A structure is small where (moments)² × (waves) is at most this: some milliseconds of processor time for its matrix,
#: beyond which conjugate gradients are faster (docs/explanation/theory.md, 6.3) …
MOST_WORK = 1.0e7
#: … and this on an accelerator, where it is one product of 10¹⁰ operations in the place of thousands of launches.
DEVICE_WORK = 1.0e9
#: A pair of an open structure costs as much as so many waves.
WAVES_OF_A_PAIR = (4, 4, 2)
#: All of q, u_x, u_y, u_z.
ALL = slice(0, 4)


class Coupling(NamedTuple):
    """T of some structures: what every moment makes at every atom, the self-interaction included.

    Attributes:
        structures: their places in the batch, in the order of rows: periodic ones, slabs, open ones.
        rows: how their atoms stand in rows of one width w.
        atoms: (n,) their places in the batch, None for all in order.
        tensors: with their graph: of the waves of those that are not open, of their parabolas, of pairs of open ones.
        n_sum, partner: see `PlaneWaves`.
        n_isolated: how many are open.
    """

    structures: list[int]
    rows: Rows
    atoms: Tensor | None
    tensors: tuple[Tensor, ...]
    n_sum: int
    partner: Tensor | None
    n_isolated: int

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

    def fields(self, moments: Tensor) -> Tensor:
        """(G, w, d): T times moments (G, w, d)."""
        waves, parabola, pairs = self._parts()
        extended, isolated = moments.split([len(moments) - self.n_isolated, self.n_isolated])
        found = []
        if waves is not None:
            field = waves.fields(extended)
            if parabola is not None:
                powers, between = parabola
                sums = torch.bmm(between, torch.bmm(powers.mT, extended.flatten(1)[:, :, None]))
                field = torch.baddbmm(field.flatten(1)[:, :, None], powers, sums).view_as(field)
            found.append(field)
        if pairs is not None:
            found.append(torch.bmm(pairs, isolated.flatten(1)[:, :, None]).view_as(isolated))
        return torch.cat(found) if len(found) > 1 else found[0]

    def matrix(self) -> Tensor:
        """(G, w·d, w·d) without graph; symmetric, rows of no atom hold anything."""
        waves, parabola, pairs = self._parts()
        found = []
        with torch.no_grad():
            if waves is not None:
                values = waves.matrix()
                if parabola is not None:
                    powers, between = parabola
                    values.baddbmm_(torch.bmm(powers, between), powers.mT)
                found.append(values)
            if pairs is not None:
                found.append(pairs)
            return torch.cat(found) if len(found) > 1 else found[0].clone()

    def _parts(self) -> tuple[PlaneWaves | None, tuple[Tensor, Tensor] | None, Tensor | None]:
        tensors: Iterator[Tensor] = iter(self.tensors)
        waves = parabola = pairs = None
        if self.n_isolated < len(self.structures):
            waves = PlaneWaves(next(tensors), next(tensors), next(tensors), self.n_sum, self.partner)
            if self.partner is not None:
                parabola = next(tensors), next(tensors)
        if self.n_isolated:
            pairs = next(tensors)
        return waves, parabola, pairs


def couplings(
    positions: Tensor,
    cell: Tensor,
    moments: slice,
    order: int,
    batch: Tensor,
    settings: ElectrostaticsSettings,
    facts: Facts,
) -> list[Coupling]:
    """Those of the structures that are small enough and summed directly, like sizes together; of one call, once.

    Args:
        positions: (N, 3) Å, float64; cell: (B, 3, 3) Å.
        moments: which of q, u_x, u_y, u_z there are.
        order: highest rank of the moments that are summed, by which "auto" takes the mesh or not.
        batch: (N,) integer.
        settings: of the sums.
        facts: of this batch.
    """
    name = "couplings", moments.start, moments.stop, order
    make = partial(_couplings, positions, cell, moments, order, batch, settings, facts)
    return facts.made.of((positions, cell), name, make)


def permanent_piece(coupling: Coupling, multipoles: Multipoles, settings: ElectrostaticsSettings) -> Piece:
    """Permanent result of the structures of a coupling of all moments, in their order in the batch."""
    charge, dipole, _ = multipoles
    columns = [charge[:, None], charge.new_zeros(len(charge), 3) if dipole is None else dipole]
    moments = coupling.pad(torch.cat(columns, 1))
    slopes = coupling.fields(moments)
    if settings.remove_self_interaction:
        slopes = torch.addcmul(slopes, moments, self_slopes(settings.sigma, slopes.device), value=-1.0)
    shares = 0.5 * (moments * slopes).sum(2)
    energy, structures = shares.sum(1), sorted(coupling.structures)
    if structures != coupling.structures:
        rows = [coupling.structures.index(i) for i in structures]
        energy = energy.index_select(0, torch.tensor(rows).to(energy.device))
    potential, gradient = coupling.rows.atoms(slopes).split([1, 3], 1)
    return Piece(structures, energy, coupling.rows.atoms(shares), potential[:, 0], gradient)


def _couplings(
    positions: Tensor,
    cell: Tensor,
    moments: slice,
    order: int,
    batch: Tensor,
    settings: ElectrostaticsSettings,
    facts: Facts,
) -> list[Coupling]:
    in_order = None if facts.in_order else torch.argsort(batch, stable=True)
    slabs = [i for i, axes in enumerate(facts.axes) if axes == 2 and facts.counts[i] > 0]
    flags, known = [facts.pbc[i] for i in slabs], [facts.slabs[i] for i in slabs if i in facts.slabs]
    if len(known) < len(slabs):  # nothing has been summed at these places
        known = []
        with torch.no_grad():
            rows, _, places, lattice = _in_rows(slabs, positions, cell, in_order, facts)
            slab_geometry(places, lattice, flags, settings.sigma, rows.mask(places), known)
        facts.slabs.update(zip(slabs, known, strict=True))
    cells = list(facts.cells)
    for i, values in zip(slabs, cells_of_slabs(known, flags, settings.sigma), strict=True):
        cells[i] = values  # of the sum: the third vector that a slab is given may be anything, as zero
    facts = facts._replace(cells=cells)
    return [
        _coupling(group, positions, cell, in_order, moments, settings, facts)
        for group in _groups(moments, order, settings, facts, positions.device)
    ]


def _groups(
    moments: slice, order: int, settings: ElectrostaticsSettings, facts: Facts, device: torch.device
) -> list[list[int]]:
    """Small structures that are taken together."""
    most, limits = MOST_WORK if device.type == "cpu" else DEVICE_WORK, limits_of(device)
    small, sizes, numbers = [], [], []
    for i, count in enumerate(facts.counts):
        if count == 0 or _work(i, moments, order, settings, facts) > most:
            continue
        extent = _extent(i, settings, facts)
        own = max(4.0 * count * math.prod(n + 1.0 for n in extent), 16.0 * count**2 * (facts.axes[i] == 0))
        if own <= limits.numbers:
            small.append(i)
            sizes.append((count**2, extent))
            numbers.append(own)
    found = []
    for group in groups_of_like_size(sizes, limits):
        largest = max(numbers[place] for place in group)  # rows and waves are those of the largest
        found += cut([small[place] for place in group], [largest] * len(group), limits)
    return found


def _coupling(
    structures: list[int],
    positions: Tensor,
    cell: Tensor,
    in_order: Tensor | None,
    moments: slice,
    settings: ElectrostaticsSettings,
    facts: Facts,
) -> Coupling:
    """Of structures with atoms, in ascending order."""
    periodic, own, isolated = ([i for i in structures if facts.axes[i] == axes] for axes in (3, 2, 0))
    structures = [*periodic, *own, *isolated]
    rows, atoms, places, lattice = _in_rows(structures, positions, cell, in_order, facts)
    n_periodic, n_extended = len(periodic), len(periodic) + len(own)
    tensors: list[Tensor] = []
    n_sum, partner = 0, None
    if n_extended:
        extended, lattice = places[:n_extended], lattice[:n_extended]
        geometry = None
        if own:
            mask, flags, known = rows.mask(places), [facts.pbc[i] for i in own], [facts.slabs[i] for i in own]
            mask = None if mask is None else mask[n_periodic:n_extended]
            geometry = slab_geometry(extended[n_periodic:], lattice[n_periodic:], flags, settings.sigma, mask, known)
            geometry = geometry.after(lattice[:n_periodic])
            lattice = geometry.cell
        cells = [facts.cells[i] for i in structures[:n_extended]]
        waves = plane_waves(extended, lattice, cells, moments, settings, geometry)
        tensors, n_sum, partner = [*waves[:3]], waves.n_sum, waves.partner
        if geometry is not None:
            powers, between = parabola_matrix(geometry, settings.sigma)
            tensors += [powers[:, :, moments].flatten(1, 2), between]
    if isolated:
        tensors.append(open_matrix(places[n_extended:], moments, settings.sigma))
    return Coupling(structures, rows, atoms, tuple(tensors), n_sum, partner, len(isolated))


def _in_rows(
    structures: Sequence[int], positions: Tensor, cell: Tensor, in_order: Tensor | None, facts: Facts
) -> tuple[Rows, Tensor | None, Tensor, Tensor]:
    """Rows of structures, their atoms in the batch, positions in rows, and their cells."""
    ascending = sorted(structures)
    atoms = atoms_of(ascending, facts, positions.device)
    if in_order is not None:
        atoms = in_order if atoms is None else in_order.index_select(0, atoms)
    row = {i: place for place, i in enumerate(structures)}
    rows = Rows.of([facts.counts[i] for i in ascending], positions.device, [row[i] for i in ascending])
    places = rows.pad(positions if atoms is None else positions.index_select(0, atoms))
    if list(structures) != list(range(len(cell))):
        cell = cell.index_select(0, torch.tensor(structures).to(cell.device))
    return rows, atoms, places, cell


def _work(i: int, moments: slice, order: int, settings: ElectrostaticsSettings, facts: Facts) -> float:
    """Products of two moments and a wave, of a structure's matrix; infinite where it is summed on a mesh."""
    if facts.axes[i] > 0:
        volume_of(facts.cells[i])  # refuses what has none
        if takes_mesh(facts.counts[i], facts.cells[i], order, settings):
            return math.inf
    n_moments = facts.counts[i] * (moments.stop - moments.start)
    work: float = n_moments**2 * math.prod(n + 1.0 for n in _extent(i, settings, facts))
    return work


def _extent(i: int, settings: ElectrostaticsSettings, facts: Facts) -> tuple[int, int, int]:
    """Of the grid."""
    return WAVES_OF_A_PAIR if facts.axes[i] == 0 else grid_extent(facts.cells[i], settings.cutoff)[1]
