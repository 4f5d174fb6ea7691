"""Charge equilibration with known answers: clusters of two species whose charges minimize an energy.

E = Σ (χ q + ½ q²/κ) + ½ Σ_{i≠j} q_i q_j k_e erf(r/√2σ)/r + Σ A exp(−r/ρ), the minimum over q with Σ q = Q.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.units import COULOMB_CONSTANT

#: Of the two species: electronegativity, V, and softness, e²/eV.
ELECTRONEGATIVITY = torch.tensor([3.0, 7.0], dtype=torch.float64)
SOFTNESS = torch.tensor([0.07, 0.05], dtype=torch.float64)
SIGMA, REPULSION, RANGE = 1.0, 300.0, 0.35  # Å, eV, Å
CLOSEST = 1.5  # Å


class Cluster(NamedTuple):
    """Positions (n, 3) Å, species (n,), total charge e; exact energy eV, forces (n, 3) eV/Å and charges (n,) e."""

    positions: Tensor
    species: Tensor
    total_charge: float
    energy: Tensor
    forces: Tensor
    charges: Tensor


def equilibrated(positions: Tensor, species: Tensor, total_charge: float) -> Cluster:
    """The cluster with its exact energy, forces and charges."""
    place = positions.detach().clone().requires_grad_()
    count = len(place)
    apart = torch.cdist(place, place) + torch.eye(count, dtype=place.dtype)  # on the diagonal anything but zero
    pairs = 1.0 - torch.eye(count, dtype=place.dtype)
    coulomb = pairs * COULOMB_CONSTANT * torch.erf(apart / (math.sqrt(2.0) * SIGMA)) / apart
    chi, hardness = ELECTRONEGATIVITY[species], torch.diag(1.0 / SOFTNESS[species]) + coulomb
    # the minimum with a multiplier for the total charge
    matrix = torch.zeros(count + 1, count + 1, dtype=place.dtype)
    matrix[:count, :count], matrix[count, :count], matrix[:count, count] = hardness.detach(), 1.0, 1.0
    right = torch.cat([-chi, torch.tensor([total_charge], dtype=place.dtype)])
    charges = torch.linalg.solve(matrix, right)[:count]
    # at a minimum the slope by positions is that at fixed charges
    repulsion = 0.5 * (pairs * REPULSION * torch.exp(-apart / RANGE)).sum()
    energy = (chi * charges).sum() + 0.5 * charges @ hardness @ charges + repulsion
    (slope,) = torch.autograd.grad(energy, place)
    return Cluster(positions, species, total_charge, energy.detach(), -slope, charges)


def random_cluster(generator: torch.Generator, count: int = 5) -> tuple[Tensor, Tensor]:
    """Positions of some atoms that are not closer than `CLOSEST`, and their species, both of them present."""
    edge = 2.2 * count ** (1.0 / 3.0)
    while True:
        positions = edge * torch.rand(count, 3, generator=generator, dtype=torch.float64)
        if float(torch.pdist(positions).min()) > CLOSEST:
            break
    species = torch.randint(0, 2, (count,), generator=generator)
    species[0], species[1] = 0, 1
    return positions, species


def clusters(number: int, charges: tuple[float, ...], seed: int) -> list[Cluster]:
    """Random clusters, each with every one of some total charges."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [random_cluster(generator) for _ in range(number)]
    return [equilibrated(*shape, charge) for shape in shapes for charge in charges]
