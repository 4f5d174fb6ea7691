"""Permanent energy, potential and field of a batch: each structure by the method of its own boundary conditions.

Open structures are pairs in real space; periodic ones reciprocal sums, those of like size together; slabs the same and
a correction; those on meshes of the same sizes likewise. `layer.py` calls it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from les_plugins.electrostatics.couplings import ALL, couplings, permanent_piece
from les_plugins.electrostatics.groups import (
    Facts,
    Piece,
    Rows,
    atoms_of,
    facts_of,
    groups_of_like_size,
    groups_on_mesh,
    joined,
    limits_of,
    placed,
    places_of,
    take,
)
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.open import open_electrostatics
from les_plugins.electrostatics.pairs import refuse_too_many
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.periodic.mesh import lattice_on_mesh, mesh_electrostatics
from les_plugins.electrostatics.periodic.mesh_size import mesh_of_cell, takes_mesh
from les_plugins.electrostatics.periodic.reciprocal import (
    grid_extent,
    lattice_on_grid,
    periodic_electrostatics,
    volume_of,
)
from les_plugins.electrostatics.periodic.several_meshes import SeveralMeshes
from les_plugins.electrostatics.results import PermanentResult
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.electrostatics.slab import slab_excess, slab_geometry


def solve_structures(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None = None,
    training: bool = False,
    facts: Facts | None = None,
) -> PermanentResult:
    """Permanent result of a batch.

    Args:
        positions: (N, 3) Å, float64.
        cell: (B, 3, 3) Å, float64.
        pbc: (B, 3) bool; one axis alone is never periodic.
        batch: (N,) integer; need not be sorted, structures may be empty.
        multipoles: moments of the N atoms, float64.
        settings: of the sums. With `ranks`, "auto" is the direct sum: no rank knows how many atoms there are.
        ranks: over which the atoms of each structure are spread, if they are (see `reduction.py`).
        training: forces will be differentiated.
        facts: of this batch, where they are known.

    Source: theory 2–4.
    """
    facts = facts or facts_of(cell, pbc, batch)
    if facts.in_order:
        return _solve(positions, cell, pbc, batch, multipoles, settings, ranks, training, facts)
    order = torch.argsort(batch, stable=True)
    moments = multipoles.select(order)
    sorted_facts = facts._replace(in_order=True)
    found = _solve(positions[order], cell, pbc, batch[order], moments, settings, ranks, training, sorted_facts)
    back = torch.argsort(order)
    return PermanentResult(found.energy, *(values[back] for values in found[1:]))


def _solve(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None,
    training: bool,
    facts: Facts,
) -> PermanentResult:
    """The same for structures whose atoms follow each other."""
    counts, axes, given = facts.counts, facts.axes, (positions, cell)
    pieces = _small_pieces(positions, cell, batch, multipoles, settings, ranks, facts)
    small = {i for piece in pieces for i in piece.structures}
    present = [i for i in range(len(counts)) if i not in small and (counts[i] > 0 or ranks is not None)]
    isolated = [i for i in present if axes[i] == 0]
    slabs = [i for i in present if axes[i] == 2]
    if isolated:
        refuse_too_many([counts[i] for i in isolated], isolated)
        some = take(isolated, facts, positions, cell, multipoles)
        pieces.append(Piece(isolated, *open_electrostatics(some.positions, some.counts, some.multipoles, settings)))

    cells = list(facts.cells)
    geometry = None
    if slabs:
        some = take(slabs, facts, positions, cell, multipoles)
        rows = Rows.of(some.counts, positions.device)
        of_slabs = [facts.pbc[i] for i in slabs]
        mask = rows.mask(positions)
        known = [facts.slabs[i] for i in slabs if i in facts.slabs]
        geometry = slab_geometry(rows.pad(some.positions), some.cell, of_slabs, settings.sigma, mask, known)
        facts.slabs.update(zip(slabs, known, strict=True))
        for i, values in zip(slabs, geometry.cells, strict=True):
            cells[i] = values
        cell = placed(slabs, geometry.cell, cell)
    facts = facts._replace(cells=cells)
    periodic = [i for i in present if axes[i] > 0]
    pieces += _periodic_pieces(periodic, given, positions, cell, multipoles, settings, ranks, training, facts)
    if not pieces:  # no atom at all; a sum over none has a graph
        energy = positions.new_zeros(len(cell))
        return PermanentResult(energy + positions.sum(), positions[:, 0], positions[:, 0], positions)

    energy, atomic, potential, gradient = joined(pieces, facts)
    if geometry is not None:
        padded = rows.pad_moments(some.multipoles)
        excess, shares = slab_excess(rows.pad(some.positions), geometry, padded, settings.sigma)
        atoms = atoms_of(slabs, facts, positions.device)
        energy = _less(energy, shares.sum(1), places_of(slabs, len(cell), positions.device))
        atomic = _less(atomic, rows.atoms(shares), atoms)
        potential = _less(potential, rows.atoms(excess.potential), atoms)
        gradient = _less(gradient, rows.atoms(excess.gradient), atoms)
    return PermanentResult(energy, atomic, potential, -gradient)


def _small_pieces(
    positions: Tensor,
    cell: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None,
    facts: Facts,
) -> list[Piece]:
    """Of charges and dipoles of small structures on an accelerator, where operators cost more than arithmetic."""
    on_host = positions.device.type == "cpu"
    if on_host or ranks is not None or multipoles.order > 1 or settings.products != torch.float64:
        return []
    small = couplings(positions, cell, ALL, multipoles.order, batch, settings, facts)
    return [permanent_piece(one, multipoles, settings) for one in small]


def _less(values: Tensor, part: Tensor, places: Tensor | None) -> Tensor:
    return values - part if places is None else values.index_add(0, places, -part)


def _periodic_pieces(
    structures: list[int],
    given: tuple[Tensor, ...],
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None,
    training: bool,
    facts: Facts,
) -> list[Piece]:
    """Reciprocal sums; which method "auto" takes for a structure depends on nothing else in the batch.

    What is made of the cells is found again in a further sum at the places that were given.
    """
    direct: list[int] = []
    on_mesh: list[int] = []
    for i in structures:
        volume_of(facts.cells[i])  # refuses what has none
        # no rank knows how many atoms there are
        takes = settings.method == "mesh"
        if ranks is None:
            takes = takes_mesh(facts.counts[i], facts.cells[i], multipoles.order, settings)
        (on_mesh if takes else direct).append(i)
    if ranks is not None and ranks.size > 1:
        found = [_on_ranks(i, positions, cell, multipoles, settings, ranks, training, facts) for i in on_mesh]
    else:
        found = _mesh_pieces(on_mesh, given, positions, cell, multipoles, settings, training, facts)
    sizes = [(facts.counts[i], grid_extent(facts.cells[i], settings.cutoff)[1]) for i in direct]
    # ranks have different numbers of atoms and must do the same
    groups = [[place] for place in range(len(direct))]
    if ranks is None:
        groups = groups_of_like_size(sizes, limits_of(positions.device))
    for group in groups:
        members = [direct[place] for place in group]
        some = take(members, facts, positions, cell, multipoles)
        rows = Rows.of(some.counts, positions.device)
        cells = [facts.cells[i] for i in members]
        padded = rows.pad_moments(some.multipoles)
        make = partial(lattice_on_grid, some.cell, settings, cells)
        lattice = facts.made.of(given, ("grid", *members), make)
        of_rows = periodic_electrostatics(
            rows.pad(some.positions), some.cell, padded, settings, cells, ranks, training, lattice
        )
        found.append(Piece(members, of_rows.energy, *(rows.atoms(values) for values in of_rows[1:])))
    return found


def _mesh_pieces(
    structures: list[int],
    given: tuple[Tensor, ...],
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    training: bool,
    facts: Facts,
) -> list[Piece]:
    """Sums on meshes, whose sizes follow from the structure's own cell alone."""
    numbers = settings.sigma, settings.cutoff, multipoles.order, settings.mesh_tolerance
    meshes = [mesh_of_cell(facts.cells[i], *numbers) for i in structures]
    found = []
    for group in groups_on_mesh([facts.counts[i] for i in structures], meshes, positions.device):
        members, each = [structures[place] for place in group], tuple(meshes[place] for place in group)
        mesh = each[0] if each.count(each[0]) == len(each) else SeveralMeshes(each)
        some = take(members, facts, positions, cell, multipoles)
        rows = Rows.of(some.counts, positions.device)
        padded = rows.pad(some.positions), some.cell, rows.pad_moments(some.multipoles)
        make = partial(lattice_on_mesh, some.cell, settings, mesh)
        lattice = facts.made.of(given, ("mesh", mesh, *members), make)
        result = mesh_electrostatics(*padded, settings, None, training, mesh, lattice)
        found.append(Piece(members, result.energy, *(rows.atoms(values) for values in result[1:])))
    return found


def _on_ranks(
    structure: int,
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks,
    training: bool,
    facts: Facts,
) -> Piece:
    """The sum of one structure on a mesh that several ranks share out."""
    some = take([structure], facts, positions, cell, multipoles)
    result = mesh_electrostatics(some.positions, some.cell[0], some.multipoles, settings, ranks, training)
    return Piece([structure], result.energy[None], *result[1:])
