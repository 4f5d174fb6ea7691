"""From the `LongRangeResult` of one structure to physical results under ASE's names (theory 7–9).

Calculators call this; so may a calculator of your own (docs/how-to/write-an-adapter.md).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from les_plugins.electrostatics.lattice import open_directions
from les_plugins.electrostatics.long_waves import OneShotResponse, long_waves
from les_plugins.electrostatics.observables import (
    Carriers,
    Current,
    born_of_carriers,
    charge_of_total,
    electronic_dielectric_tensor,
    electronic_screening,
    electronic_susceptibility,
    field_forces_of_carriers,
    system_polarizability,
)
from les_plugins.errors import ConfigError, HostError
from les_plugins.model.carriers import carriers_of
from les_plugins.model.long_range import LongRange, LongRangeResult


@dataclass(frozen=True)
class LatentStructure:
    """One structure as the long-range part saw it, and what scales its results.

    Attributes:
        latent: result of the long-range part for one structure.
        positions: (N, 3) Å; for derivatives the leaf that the graph of `latent` starts from.
        cell: (1, 3, 3) Å.
        pbc: (1, 3) bool.
        epsilon_infinity: ε_∞ of the material; not used for open structures.
        susceptibility: ⟨χ⟩ of the material, for ε_e = ε_∞/(1 + χ); this structure's own χ when None.
        total_charge: (1,) e, latent, what the charges are made to add up to (`charge_of_total`); zero when None.
        known_carriers: what carries the polarization, where `latent` does not say it (compiled code); else None.
    """

    latent: LongRangeResult
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    epsilon_infinity: float
    susceptibility: float | None = None
    total_charge: Tensor | None = None
    known_carriers: Carriers | None = None

    @property
    def is_periodic(self) -> bool:
        """Along all three axes."""
        return bool(self.pbc.all())

    @cached_property
    def batch(self) -> Tensor:
        """(N,) zeros."""
        return torch.zeros(len(self.positions), dtype=torch.long, device=self.positions.device)

    @cached_property
    def carriers(self) -> Carriers:
        """What carries the polarization, latent."""
        if self.known_carriers is not None:
            return self.known_carriers
        return carriers_of(self.latent, self.batch, 1, self.total_charge)

    @cached_property
    def screening(self) -> Tensor:
        """(1,) ε_e."""
        cell, chi = self.cell.double(), self.susceptibility
        return electronic_screening(self.epsilon_infinity, self.dipolar, cell, self.pbc, self.batch, chi)

    @cached_property
    def dipolar(self) -> Tensor | None:
        """Polarizabilities of atoms that add up to that of a periodic structure."""
        return self.latent.dipolar

    def whole_polarizability(self) -> Tensor:
        """(3, 3) e²·Å²/eV, latent, −∂²U/∂E²."""
        softness = self.latent.softness if self.latent.collective_polarizability is None else None
        places = (self.positions.double(), self.pbc, self.batch)
        return system_polarizability(*places, softness, self.dipolar, self.cell.double())[0]


def latent_results(structure: LatentStructure) -> dict[str, Any]:
    """Results of one structure that need no derivative.

    Returns:
        charges (N,) e, dipole (3,) e·Å and polarizability (3, 3) e²·Å²/eV, scaled to physical ones by ε_e (theory 8.3);
        polarization (3,) e/Å², the dipole over the volume, dielectric_tensor (3, 3), electronic, and susceptibility,
        this structure's own χ, of periodic ones; long_range_energy, eV; latent_charges (N,), latent_dipoles (N, 3),
        latent_quadrupoles (N, 3, 3), as the model has them; polarization_source, "transfers" or "phases" (theory 8.6).
        The dipole of a structure with a total charge is about the origin of the coordinates. Along periodic directions
        it is one branch, that of the positions as given: only its changes along unwrapped positions have a meaning,
        and from transfers they are exact.
    """
    latent, screening = structure.latent, structure.screening[0]
    charge = latent.charge if latent.charge.dim() == 1 else latent.charge.sum(1)
    true_charge = charge_of_total(charge.double(), structure.batch, 1, structure.total_charge)
    moment = structure.carriers.total(structure.positions.double(), structure.batch, 1)[0]
    results = {
        "charges": screening.sqrt() * true_charge,
        "dipole": screening.sqrt() * moment,
        "latent_charges": charge,
    }
    if latent.dipole is not None:
        results["latent_dipoles"] = latent.dipole
    if latent.permanent.quadrupole is not None:
        results["latent_quadrupoles"] = latent.permanent.quadrupole
    if latent.softness is not None or structure.dipolar is not None:
        results["polarizability"] = screening * structure.whole_polarizability()
    found: dict[str, Any] = {"polarization_source": structure.carriers.source}
    if structure.is_periodic:
        cell = structure.cell.double()
        results["polarization"] = results["dipole"] / torch.linalg.det(cell[0]).abs()
        results["dielectric_tensor"] = electronic_dielectric_tensor(
            structure.epsilon_infinity,
            structure.dipolar,
            cell,
            structure.pbc,
            structure.batch,
            structure.susceptibility,
        )[0]
        found["susceptibility"] = susceptibility_of(latent, cell, structure.pbc)
    found.update({name: _array(value) for name, value in results.items()})
    found["long_range_energy"] = float(latent.energy.detach())
    return found


def susceptibility_of(latent: LongRangeResult, cell: Tensor, pbc: Tensor) -> float:
    """χ of one structure's own induced dipoles (theory 8.3).

    Args:
        latent: result of the long-range part for one structure.
        cell: (1, 3, 3) Å.
        pbc: (1, 3) bool.
    """
    batch = torch.zeros(len(latent.charge), dtype=torch.long, device=latent.charge.device)
    return float(electronic_susceptibility(latent.dipolar, cell.double(), pbc, batch)[0].detach())


def born_results(structure: LatentStructure) -> NDArray[Any]:
    """Physical Born effective charges (N, 3, 3) e of one structure, first index polarization, from its graph."""
    places = (structure.positions, structure.cell, structure.pbc, structure.batch)
    return _array(born_of_carriers(structure.carriers, *places, epsilon=structure.screening.detach()))


def current_of(structure: LatentStructure, kind: type[Current] = Current) -> Current | None:
    """J(v) = Σ Z* v of one structure, physical, by one product once v is known; None where it takes all of Z*.

    Args:
        structure: with its graph.
        kind: with a derivative of its own, or `CurrentOfForces`.
    """
    if not structure.carriers.is_fixed:
        return None
    return kind(structure.carriers, structure.positions, structure.batch, structure.screening.detach())


def one_shot_response(part: nn.Module, latent: LongRangeResult) -> OneShotResponse | None:
    """What induced the moments, for `long_waves`."""
    induces = (latent.softness, latent.polarizability, latent.pair_softness)
    if all(coefficient is None for coefficient in induces):
        return None
    if not isinstance(part, LongRange):
        raise HostError("long-wave quantities of induced moments: this model's long-range part is not les-plugins' own")
    if part.config.response.solve != "one_shot":
        raise ConfigError(
            "long-wave quantities (dynamical_quadrupoles, long_wave_born_charges, piezoelectricity): the model's "
            f"response is {part.config.response.solve}; allowed: one_shot, or no response, for what a wave's own field "
            "induces is to be taken out"
        )
    return OneShotResponse(latent.permanent, part.config.sigma, *induces)


def long_wave_results(structure: LatentStructure, part: nn.Module, wanted: Container[str]) -> dict[str, NDArray[Any]]:
    """Physical dynamical_quadrupoles (N, 3, 3, 3) e·Å, last two symmetric, and long_wave_born_charges (N, 3, 3) e.

    Args:
        structure: periodic, its graph kept.
        part: the long-range part, which knows what induced the moments.
        wanted: names of these.

    Returns:
        Those of long waves to the fourth order of the cell's smallest wave vectors. long_wave_born_charges are
        born_effective_charges where these are exact at k = 0, from transfers.
    """
    found: dict[str, NDArray[Any]] = {}
    if structure.carriers.is_fixed and "long_wave_born_charges" in wanted:
        found["long_wave_born_charges"] = born_results(structure)
        if "dynamical_quadrupoles" not in wanted:
            return found
    latent, screening = structure.latent, float(structure.screening[0].detach())
    waves = long_waves(
        structure.positions,
        structure.cell[0],
        latent.charge,
        latent.dipole,
        latent.permanent.quadrupole,
        screening,
        one_shot_response(part, latent),
        structure.total_charge,
    )
    return {"dynamical_quadrupoles": _array(waves.quadrupoles), "long_wave_born_charges": _array(waves.born), **found}


def field_results(structure: LatentStructure, field: Tensor) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """What a uniform field adds to energy, forces and dipole of one structure (theory 7).

    With either response the energy is exactly quadratic in the field: U(E) = U(0) − P·E − ½ E·α·E, P of section 6.

    Args:
        structure: evaluated without field, its graph kept.
        field: (3,) V/Å.

    Returns:
        Energy, eV (without −P·E of periodic directions); forces (N, 3) eV/Å; dipole (3,) e·Å: with the dipole of
        `latent_results` it is −∂U/∂E. On a structure with a total charge Q the forces add up to Q E, and work is
        counted from the origin of the coordinates.
    """
    positions, pbc, batch = structure.positions, structure.pbc, structure.batch
    place, cell = positions.double(), structure.cell.double()
    induced = structure.screening[0] * (structure.whole_polarizability() @ field)
    along = open_directions(cell, pbc)[0].detach()
    energy = -0.5 * (field @ induced)
    forces = torch.zeros_like(place)
    if not structure.is_periodic:
        energy = energy - (along @ field) @ structure.carriers.total(place, batch, 1)[0].double()
    if bool(pbc.any()):
        forces = field_forces_of_carriers(
            structure.carriers, positions, cell, pbc, batch, field - along @ field, structure.screening.detach()
        ).double()
    if energy.requires_grad:
        # an atom on its own: some hosts' graphs do not reach its position
        (slope,) = torch.autograd.grad(energy, positions, retain_graph=True, materialize_grads=True)
        forces = forces - slope
    return float(energy.detach()), _array(forces), _array(induced)


def _array(value: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().double().numpy()
    return array
