"""What one atom does with its moments and the fields at its place: contraction, self terms. For every boundary."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.units import RECIPROCAL_PREFACTOR


class LocalFields(NamedTuple):
    """Potential (n,) V, its gradient (n, 3) V/Å (the field's negative), its second gradient (n, 3, 3) V/Å² or None."""

    potential: Tensor
    gradient: Tensor
    second: Tensor | None

    def __sub__(self, other: LocalFields) -> LocalFields:
        second = None
        if self.second is not None:
            second = self.second if other.second is None else self.second - other.second
        return LocalFields(self.potential - other.potential, self.gradient - other.gradient, second)


def contract(multipoles: Multipoles, fields: LocalFields) -> Tensor:
    """(n,) eV: ½ (q + u·∇ + ½ Q:∇∇) Φ, each atom's share of the permanent energy (theory 2.1 and 3.1)."""
    energy = multipoles.charge * fields.potential
    if multipoles.dipole is not None:
        energy = energy + (multipoles.dipole * fields.gradient).sum(-1)
    if multipoles.quadrupole is not None and fields.second is not None:
        energy = energy + 0.5 * (multipoles.quadrupole * fields.second).sum((-2, -1))
    return 0.5 * energy


def self_energy(multipoles: Multipoles, sigma: float) -> Tensor:
    """(n,) eV: interaction of each atom's smeared moments with themselves (theory 2.2)."""
    charge, dipole, quadrupole = _self_factors(sigma)
    energy = charge * multipoles.charge.square()
    if multipoles.dipole is not None:
        energy = energy + dipole * multipoles.dipole.square().sum(-1)
    if multipoles.quadrupole is not None:
        energy = energy + quadrupole * multipoles.quadrupole.square().sum((-2, -1))
    return energy


def self_fields(multipoles: Multipoles, sigma: float) -> LocalFields:
    """What each atom's own smeared moments add to the potential and its gradients at that atom."""
    charge, dipole, quadrupole = _self_factors(sigma)
    potential = 2.0 * charge * multipoles.charge
    gradient = (
        potential.new_zeros(*potential.shape, 3) if multipoles.dipole is None else 2.0 * dipole * multipoles.dipole
    )
    second = None if multipoles.quadrupole is None else 4.0 * quadrupole * multipoles.quadrupole
    return LocalFields(potential, gradient, second)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # it outlives the call that needed it first
def self_slopes(sigma: float, device: torch.device) -> Tensor:
    """(4,): slope of an atom's self-energy per unit of q, u_x, u_y and u_z (theory 2.2)."""
    charge, dipole, _ = _self_factors(sigma)
    return torch.tensor([2.0 * charge, *[2.0 * dipole] * 3], dtype=torch.float64).to(device)


def _self_factors(sigma: float) -> tuple[float, float, float]:
    base = RECIPROCAL_PREFACTOR / (2.0 * math.pi) ** 1.5
    return base / sigma, base / (3.0 * sigma**3), base / (10.0 * sigma**5)


def to_atoms(values: Tensor, batch: Tensor) -> Tensor:
    """(N, …): each atom's row of values (B, …) of the structures; without an index where there is one structure."""
    return values.expand(batch.shape[0], *values.shape[1:]) if values.shape[0] == 1 else values[batch]


def to_structures(values: Tensor, batch: Tensor, n_structures: int) -> Tensor:
    """(B, …): sums of values (N, …) over the atoms of each structure."""
    if n_structures == 1:
        return values.sum(0, keepdim=True)
    return values.new_zeros(n_structures, *values.shape[1:]).index_add(0, batch, values)
