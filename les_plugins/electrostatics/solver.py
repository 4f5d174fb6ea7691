"""Permanent energy, potential and field of a batch: each structure by the method of its own boundary conditions.

Open structures are pairs in real space, all of a batch at once; periodic ones a reciprocal sum each, slabs the same and
a correction. `layer.py` calls it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from les_plugins.electrostatics.local import LocalFields, contract
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.open import open_electrostatics
from les_plugins.electrostatics.pairs import refuse_too_many
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.periodic.mesh import mesh_electrostatics
from les_plugins.electrostatics.periodic.mesh_size import mesh_is_faster
from les_plugins.electrostatics.periodic.reciprocal import periodic_electrostatics, proper_lattice
from les_plugins.electrostatics.results import PermanentResult
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.electrostatics.slab import slab_electrostatics


def solve_structures(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None = None,
    training: bool = False,
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

    Source: theory 2–4.
    """
    n_structures = len(cell)
    order = torch.argsort(batch, stable=True)
    counts = torch.bincount(batch, minlength=n_structures).tolist()
    members = torch.split(order, counts)
    axes = pbc.sum(1).tolist()
    energy = positions.new_zeros(n_structures)
    pieces: list[tuple[Tensor, Tensor, LocalFields]] = []

    isolated = [i for i in range(n_structures) if counts[i] > 0 and axes[i] == 0]
    if isolated:
        refuse_too_many([counts[i] for i in isolated], isolated)
        atoms = torch.cat([members[i] for i in isolated])
        structure = torch.repeat_interleave(
            torch.arange(len(isolated), device=batch.device),
            torch.tensor([counts[i] for i in isolated], device=batch.device),
        )
        share, fields = open_electrostatics(
            positions[atoms], structure, multipoles.select(atoms), settings.sigma, settings.remove_self_interaction
        )
        energy = energy.index_add(0, batch[atoms], share)
        pieces.append((atoms, share, fields))

    def periodic(place: Tensor, box: Tensor, moments: Multipoles) -> tuple[Tensor, LocalFields]:
        return _solve_periodic(place, box, moments, settings, ranks, training)

    for i in range(n_structures):
        if axes[i] == 0 or (counts[i] == 0 and ranks is None):
            continue
        atoms = members[i]
        mine = multipoles.select(atoms)
        if axes[i] == 3:
            total, fields = periodic(positions[atoms], cell[i], mine)
        else:
            total, fields = slab_electrostatics(positions[atoms], cell[i], pbc[i], mine, settings.sigma, periodic)
        energy = energy.index_add(0, batch.new_tensor([i]), total[None])
        pieces.append((atoms, contract(mine, fields), fields))

    if not pieces:  # no atom at all; a sum over none has a graph
        return PermanentResult(energy + positions.sum(), positions[:, 0], positions[:, 0], positions)
    place = torch.argsort(torch.cat([atoms for atoms, _, _ in pieces]))
    return PermanentResult(
        energy,
        _joined([share for _, share, _ in pieces])[place],
        _joined([fields.potential for _, _, fields in pieces])[place],
        -torch.cat([fields.gradient for _, _, fields in pieces])[place],
    )


def _joined(parts: list[Tensor]) -> Tensor:
    """(N,): the gradient of `cat` has no graph for a part of shape (0,), and a rank without atoms has to take part."""
    return torch.cat([part[:, None] for part in parts])[:, 0]


def _solve_periodic(
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None,
    training: bool,
) -> tuple[Tensor, LocalFields]:
    """One periodic structure; what "auto" takes depends on nothing else in the batch."""
    method = settings.method
    if method == "auto" and ranks is None:
        size = (len(positions), proper_lattice(cell), settings.sigma, settings.cutoff, multipoles.order)
        method = "mesh" if mesh_is_faster(*size, settings.mesh_tolerance) else "direct"
    electrostatics = mesh_electrostatics if method == "mesh" else periodic_electrostatics
    return electrostatics(positions, cell, multipoles, settings, ranks, training)
