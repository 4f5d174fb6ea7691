"""Neighbour pairs of small random systems, and the flow of charge over them by dense linear algebra."""

from __future__ import annotations

import itertools

import torch
from random_systems import System, solve_system
from torch import Tensor

from les_plugins import ElectrostaticsResult, LatentElectrostatics, Multipoles, PairSoftness

CUTOFF = 4.5


def neighbours(system: System) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (E,), neighbour (E,) and shift (E, 3) of every pair within the cutoff, in both directions, mixed up."""
    centre, neighbor, shift = [], [], []
    for structure in range(len(system.cell)):
        atoms = (system.batch == structure).nonzero()[:, 0].tolist()
        reach = [range(-3, 4) if periodic else range(1) for periodic in system.pbc[structure].tolist()]
        for image in itertools.product(*reach):
            offset = torch.tensor(image, dtype=torch.float64)
            for i, j in itertools.product(atoms, atoms):
                vector = system.positions[j] + offset @ system.cell[structure] - system.positions[i]
                if 0.0 < float(vector.detach().norm()) < CUTOFF:
                    centre.append(i)
                    neighbor.append(j)
                    shift.append(offset)
    order = torch.randperm(len(centre), generator=torch.Generator().manual_seed(3))
    shifts = torch.stack(shift) if shift else torch.zeros(0, 3, dtype=torch.float64)
    return torch.tensor(centre, dtype=torch.long)[order], torch.tensor(neighbor, dtype=torch.long)[order], shifts[order]


def pairs_of(system: System, listed: tuple[Tensor, Tensor, Tensor], scale: float | Tensor = 0.05) -> PairSoftness:
    """Softness that falls to zero at the cutoff, with the graph to positions, cell and the factor (N,) or of all."""
    centre, neighbor, shift = listed
    cell = system.cell[system.batch[centre]]
    vector = system.positions[neighbor] + torch.einsum("ei,eij->ej", shift, cell) - system.positions[centre]
    square = vector.square().sum(1)
    value = torch.exp(-square / 4.5) * (1.0 - square / CUTOFF**2).clamp(min=0.0) ** 3
    factor = torch.as_tensor(scale, dtype=torch.float64)
    factor = factor if factor.dim() == 0 else factor[centre] * factor[neighbor]
    return PairSoftness(centre, neighbor, vector, factor * value)


def with_pairs(
    layer: LatentElectrostatics,
    system: System,
    pairs: PairSoftness | None,
    external_field: Tensor | None = None,
    polarizable: bool = True,
) -> ElectrostaticsResult:
    """The layer's result with flow over pairs; a field acts along periodic directions too."""
    return layer(
        system.positions,
        system.cell,
        system.pbc,
        system.batch,
        Multipoles(system.charge, system.dipole, system.quadrupole),
        polarizability=system.polarizability if polarizable else None,
        external_field=external_field,
        periodic_field="dipoles",
        pair_softness=pairs,
    )


def interaction_matrix(system: System) -> Tensor:
    """T (4N, 4N) of charges and dipoles, self-interaction included, from the fields of unit moments."""
    n_atoms, columns = len(system.positions), []
    for unit in torch.eye(4 * n_atoms, dtype=torch.float64).view(-1, n_atoms, 4):
        bare = system._replace(charge=unit[:, 0], dipole=unit[:, 1:], quadrupole=None)
        result = solve_system(bare, response=None, remove_self_interaction=False, net_charge_warning=None)
        columns.append(torch.cat([result.potential[:, None], -result.field], 1).flatten())
    return torch.stack(columns, 1)


def dense_solution(
    system: System, pairs: PairSoftness, external_field: Tensor, polarizable: bool, mutual: bool, remove_self: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, induced moments (N, 4) and Σ t d of one structure: the minimum over the charge that every edge moves.

    Every directed edge e of softness κ_e/2 moves t_e; U = Σ t_e²/κ_e − Σ t_e (Φ_i − Φ_j + E·d) + ½ Δ·T Δ and so on.
    """
    n_atoms, n_edges = len(system.positions), len(pairs.value)
    bare = system._replace(softness=None, polarizability=None)
    how = {"external_field": external_field, "periodic_field": "dipoles", "remove_self_interaction": remove_self}
    permanent = solve_system(bare, response=None, **how)
    moved = torch.zeros(n_atoms, 4, n_edges, dtype=torch.float64)  # moments of one unit over each edge
    for edge, (i, j) in enumerate(zip(pairs.centre.tolist(), pairs.neighbor.tolist(), strict=True)):
        moved[i, 0, edge] -= 1.0
        moved[j, 0, edge] += 1.0
    drive = torch.cat([permanent.potential[:, None], -(permanent.field + external_field)], 1).flatten()
    columns = [moved.flatten(0, 1)]
    stiffness = [torch.diag(2.0 / pairs.value)]
    if polarizable:
        columns.append(torch.eye(4 * n_atoms).double().view(4 * n_atoms, n_atoms, 4)[:, :, 1:].flatten(1))
        alpha = system.polarizability
        alpha = alpha if alpha.dim() == 3 else alpha[:, None, None] * torch.eye(3).double()
        stiffness.append(torch.block_diag(*torch.linalg.inv(alpha)))
    basis = torch.cat(columns, 1)
    matrix = torch.block_diag(*stiffness)
    if mutual:
        matrix = matrix + basis.T @ interaction_matrix(system) @ basis
    linear = basis.T @ drive
    linear[:n_edges] -= pairs.vector @ external_field
    solution = torch.linalg.solve(matrix, -linear)
    energy = permanent.energy[0] + 0.5 * linear @ solution
    return energy, (basis @ solution).view(n_atoms, 4), solution[:n_edges] @ pairs.vector
