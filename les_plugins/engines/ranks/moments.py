"""Physical charges, dipoles, polarization and current of a structure that is spread over the ranks (theory 7, 8)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from les_plugins.data.metrics import Floats
from les_plugins.electrostatics.observables import (
    Carriers,
    born_of_carriers,
    charge_of_total,
    electronic_screening,
    electronic_susceptibility,
)
from les_plugins.engines.ranks.engine import Evaluation
from les_plugins.errors import HostError
from les_plugins.model.carriers import carriers_of, latent_total_charge
from les_plugins.model.long_range import LongRange, LongRangeResult


class AtomMoments(NamedTuple):
    """Of own atoms, physical: charge (own,) e, induced part included, and dipole (own, 3) e·Å."""

    charge: Floats
    dipole: Floats


class Moments:
    """What the latent variables of a step mean, by the ε_e of the material.

    Args:
        part: the long-range part.
        epsilon_infinity: ε_∞ of the material.
        susceptibility: ⟨χ⟩ of the material; None for that of the first structure.
    """

    def __init__(self, part: LongRange, epsilon_infinity: float, susceptibility: float | None) -> None:
        self._part, self._epsilon, self.susceptibility = part, epsilon_infinity, susceptibility
        self._ranks: Any = part.electrostatics.ranks

    def of_atoms(self, found: Evaluation) -> AtomMoments:
        """Charges, which add up to the total charge over all ranks, and dipoles."""
        latent, domain = _latent(found), found.domain
        root = self._screening(found).sqrt()
        charge = charge_of_total(_charge(latent).detach(), domain.batch, 1, self._total(found), self._ranks)
        dipole = latent.charge.new_zeros(len(domain.own), 3) if latent.dipole is None else latent.dipole.detach()
        return AtomMoments(_array(root * charge.double()), _array(root * dipole.double()))

    def polarization(self, found: Evaluation, positions: Floats) -> Floats:
        """(3,) e·Å, Σ q r + Σ moments over all ranks at unwrapped positions (own, 3) Å: a branch, its changes count."""
        carriers, domain = self._carriers(found), found.domain
        with torch.no_grad():
            places = torch.from_numpy(positions).to(domain.own.device)
            total = self._ranks.sum(carriers.total(places, domain.batch, 1))[0]
            return _array(self._screening(found).sqrt() * total)

    def current(self, found: Evaluation, velocities: Floats) -> Floats:
        """(3,) e times the unit of velocities (own, 3), Σ Z* v over all ranks; needs the graph of the step."""
        return _array(self._ranks.sum(torch.from_numpy(np.einsum("nab,nb->a", self.born(found), velocities))))

    def born(self, found: Evaluation) -> Floats:
        """Z* of own atoms, (own, 3, 3) e, first index polarization; needs the graph of the step."""
        carriers, domain = self._carriers(found), found.domain
        tensors = born_of_carriers(carriers, domain.own, domain.cell.detach(), domain.pbc, domain.batch)
        return _array(self._screening(found).sqrt() * tensors)

    @property
    def iterates(self) -> bool:
        """Whether a polarizability takes iterations of its own."""
        return self._part.config.response.solve != "one_shot"

    def polarizability(self, found: Evaluation) -> Floats | None:
        """(3, 3) e²·Å²/eV of the whole structure; None without a response. Called by all ranks."""
        domain, dipolar = found.domain, self._dipolar(found)
        if dipolar is None:
            return None
        identity = torch.eye(3, dtype=torch.float64, device=domain.own.device)
        local = dipolar.sum() * identity if dipolar.dim() == 1 else dipolar.sum(0)
        return _array(self._screening(found) * self._ranks.sum(local))

    def sum_over_ranks(self, values: Floats) -> Floats:
        """Of numbers of each rank."""
        return _array(self._ranks.sum(torch.from_numpy(values).to(self._part.gauge.device)))

    def source(self, found: Evaluation) -> str:
        """What Z* are made with: "transfers" or "phases"."""
        return self._carriers(found).source

    def _carriers(self, found: Evaluation) -> Carriers:
        latent, domain = _latent(found), found.domain
        return carriers_of(latent, domain.batch, 1, self._total(found), self._ranks)

    def _total(self, found: Evaluation) -> Tensor | None:
        """(1,) e, latent, that charges are made to add up to; None for zero."""
        latent = _latent(found)
        screening = self._screening(found) if latent.total_charge is not None else None
        return latent_total_charge(self._part, latent, found.domain.batch, 1, screening, self._ranks)

    def _screening(self, found: Evaluation) -> Tensor:
        """() ε_e."""
        domain, dipolar = found.domain, _latent(found).dipolar
        cell = domain.cell.detach()
        if dipolar is not None and self.susceptibility is None:
            own = electronic_susceptibility(self._dipolar(found), cell, domain.pbc, domain.batch)
            self.susceptibility = float(self._ranks.sum(own)[0])
        return electronic_screening(self._epsilon, dipolar, cell, domain.pbc, domain.batch, self.susceptibility)[0]

    def _dipolar(self, found: Evaluation) -> Tensor | None:
        """Polarizabilities of own atoms, with mutual polarization where the response has it; float64."""
        latent, domain = _latent(found), found.domain
        if self.iterates:
            with torch.no_grad():
                geometry = (domain.positions, domain.cell, domain.pbc, domain.batch)
                latent = self._part.with_collective_polarizability(latent, *geometry)
        return None if latent.dipolar is None else latent.dipolar.detach().double()


def _latent(found: Evaluation) -> LongRangeResult:
    if found.latent is None:
        raise HostError("this model has no long-range part: it has no charges, dipoles and currents")
    return found.latent


def _charge(latent: LongRangeResult) -> Tensor:
    return latent.charge if latent.charge.dim() == 1 else latent.charge.sum(1)


def _array(value: Tensor) -> Floats:
    array: Floats = value.detach().cpu().double().numpy()
    return array
