"""From the `LongRangeResult` of one structure to physical results under ASE's names (theory 7–9).

Calculators call this; so may a calculator of your own (docs/how-to/write-an-adapter.md).
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from les_plugins.electrostatics.lattice import open_directions
from les_plugins.electrostatics.long_waves import OneShotResponse, long_waves
from les_plugins.electrostatics.observables import (
    born_effective_charges,
    charge_of_total,
    electronic_dielectric_tensor,
    electronic_screening,
    electronic_susceptibility,
    field_forces,
    polarization,
    system_polarizability,
)
from les_plugins.errors import ConfigError, HostError
from les_plugins.model.long_range import LongRange, LongRangeResult


def latent_results(
    latent: LongRangeResult,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    epsilon_infinity: float,
    susceptibility: float | None = None,
    total_charge: Tensor | None = None,
) -> dict[str, Any]:
    """Results of one structure that need no derivative.

    Args:
        latent: result of the long-range part for one structure.
        positions: (N, 3) Å.
        cell: (1, 3, 3) Å.
        pbc: (1, 3) bool.
        epsilon_infinity: ε_∞ of the material; not used for open structures.
        susceptibility: ⟨χ⟩ of the material, for ε_e = ε_∞/(1 + χ); this structure's own χ when None.
        total_charge: (1,) e, latent, what the charges are made to add up to (`charge_of_total`); zero when None.

    Returns:
        charges (N,) e, dipole (3,) e·Å and polarizability (3, 3) e²·Å²/eV, scaled to physical ones by ε_e (theory 8.3);
        polarization (3,) e/Å², the dipole over the volume, dielectric_tensor (3, 3), electronic, and susceptibility,
        this structure's own χ, of periodic ones; long_range_energy, eV; latent_charges (N,), latent_dipoles (N, 3),
        latent_quadrupoles (N, 3, 3), as the model has them. The dipole of a structure with a total charge is about the
        origin of the coordinates. Along periodic directions it is one branch, that of the positions as given: only its
        changes along unwrapped positions have a meaning.
    """
    batch = _one_structure(positions)
    screening = electronic_screening(epsilon_infinity, _dipolar(latent), cell, pbc, batch, susceptibility)[0]
    charge = latent.charge if latent.charge.dim() == 1 else latent.charge.sum(1)
    true_charge = charge_of_total(charge.double(), batch, 1, total_charge)
    moment = polarization(positions.double(), batch, charge.double(), latent.dipole, total_charge)[0]
    results = {
        "charges": screening.sqrt() * true_charge,
        "dipole": screening.sqrt() * moment,
        "latent_charges": charge,
    }
    if latent.dipole is not None:
        results["latent_dipoles"] = latent.dipole
    if latent.permanent.quadrupole is not None:
        results["latent_quadrupoles"] = latent.permanent.quadrupole
    if latent.softness is not None or latent.polarizability is not None:
        total = _whole_polarizability(latent, positions, pbc, batch, cell)
        results["polarizability"] = screening * total
    found: dict[str, Any] = {}
    if bool(pbc.all()):
        cell = cell.double()
        results["polarization"] = results["dipole"] / torch.linalg.det(cell[0]).abs()
        tensor = electronic_dielectric_tensor(epsilon_infinity, _dipolar(latent), cell, pbc, batch, susceptibility)
        results["dielectric_tensor"] = tensor[0]
        found["susceptibility"] = susceptibility_of(latent, cell, pbc)
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
    batch = _one_structure(latent.charge)
    return float(electronic_susceptibility(_dipolar(latent), cell.double(), pbc, batch)[0].detach())


def born_results(
    latent: LongRangeResult,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    epsilon_infinity: float,
    susceptibility: float | None = None,
    total_charge: Tensor | None = None,
) -> NDArray[Any]:
    """Physical Born effective charges (N, 3, 3) e of one structure, first index polarization.

    Args:
        latent: result of the long-range part, its graph to `positions` kept.
        positions: (N, 3) Å, the leaf that the graph starts from.
        cell, pbc, epsilon_infinity, susceptibility, total_charge: as for `latent_results`.
    """
    batch = _one_structure(positions)
    screening = electronic_screening(epsilon_infinity, _dipolar(latent), cell, pbc, batch, susceptibility).detach()
    born = born_effective_charges(
        positions, cell, pbc, batch, latent.charge, latent.dipole, epsilon=screening, total_charge=total_charge
    )
    return _array(born)


def one_shot_response(part: nn.Module, latent: LongRangeResult) -> OneShotResponse | None:
    """What induced the moments, for `long_waves`."""
    if latent.softness is None and latent.polarizability is None:
        return None
    if not isinstance(part, LongRange):
        raise HostError("long-wave quantities of induced moments: this model's long-range part is not les-plugins' own")
    if part.config.response.solve != "one_shot":
        raise ConfigError(
            "long-wave quantities (dynamical_quadrupoles, long_wave_born_charges, piezoelectricity): the model's "
            f"response is {part.config.response.solve}; allowed: one_shot, or no response, for what a wave's own field "
            "induces is to be taken out"
        )
    return OneShotResponse(latent.permanent, part.config.sigma, latent.softness, latent.polarizability)


def long_wave_results(
    latent: LongRangeResult,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    epsilon_infinity: float,
    response: OneShotResponse | None = None,
    susceptibility: float | None = None,
    total_charge: Tensor | None = None,
) -> dict[str, NDArray[Any]]:
    """Physical dynamical_quadrupoles (N, 3, 3, 3) e·Å, last two symmetric, and long_wave_born_charges (N, 3, 3) e.

    Arguments as for `born_results`, of a periodic structure, and what induced the moments. The latter are Z* to the
    fourth order of the cell's smallest wave vectors, where born_effective_charges are to the second.
    """
    batch, alpha = _one_structure(positions), _dipolar(latent)
    screening = float(electronic_screening(epsilon_infinity, alpha, cell, pbc, batch, susceptibility)[0].detach())
    quadrupole = latent.permanent.quadrupole
    found = long_waves(positions, cell[0], latent.charge, latent.dipole, quadrupole, screening, response, total_charge)
    return {"dynamical_quadrupoles": _array(found.quadrupoles), "long_wave_born_charges": _array(found.born)}


def field_results(
    latent: LongRangeResult,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    epsilon_infinity: float,
    field: Tensor,
    susceptibility: float | None = None,
    total_charge: Tensor | None = None,
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """What a uniform field adds to energy, forces and dipole of one structure (theory 7).

    With either response the energy is exactly quadratic in the field: U(E) = U(0) − P·E − ½ E·α·E, P of section 6.

    Args:
        latent: result of the long-range part without field, its graph to `positions` kept.
        positions: (N, 3) Å.
        cell, pbc, epsilon_infinity, susceptibility, total_charge: as for `latent_results`.
        field: (3,) V/Å.

    Returns:
        Energy, eV (without −P·E of periodic directions); forces (N, 3) eV/Å; dipole (3,) e·Å: with the dipole of
        `latent_results` it is −∂U/∂E. On a structure with a total charge Q the forces add up to Q E, and work is
        counted from the origin of the coordinates.
    """
    batch = _one_structure(positions)
    place, cell = positions.double(), cell.double()
    screening = electronic_screening(epsilon_infinity, _dipolar(latent), cell, pbc, batch, susceptibility)
    alpha = _whole_polarizability(latent, place, pbc, batch, cell)
    induced = screening[0] * (alpha @ field)
    along = open_directions(cell, pbc)[0].detach()
    energy = -0.5 * (field @ induced)
    forces = torch.zeros_like(place)
    if not bool(pbc.all()):
        dipole = None if latent.dipole is None else latent.dipole.double()
        energy = energy - (along @ field) @ polarization(place, batch, latent.charge.double(), dipole, total_charge)[0]
    if bool(pbc.any()):
        forces = field_forces(
            positions,
            cell,
            pbc,
            batch,
            latent.charge,
            field - along @ field,
            latent.dipole,
            epsilon=screening.detach(),
            total_charge=total_charge,
        ).double()
    if energy.requires_grad:
        # an atom on its own: some hosts' graphs do not reach its position
        (slope,) = torch.autograd.grad(energy, positions, retain_graph=True, materialize_grads=True)
        forces = forces - slope
    return float(energy.detach()), _array(forces), _array(induced)


def _dipolar(latent: LongRangeResult) -> Tensor | None:
    """Polarizabilities of atoms that add up to that of a periodic structure."""
    return latent.polarizability if latent.collective_polarizability is None else latent.collective_polarizability


def _whole_polarizability(
    latent: LongRangeResult, positions: Tensor, pbc: Tensor, batch: Tensor, cell: Tensor
) -> Tensor:
    """(3, 3) −∂²U/∂E² of one structure."""
    softness = latent.softness if latent.collective_polarizability is None else None
    return system_polarizability(positions, pbc, batch, softness, _dipolar(latent), cell)[0]


def _one_structure(values: Tensor) -> Tensor:
    return torch.zeros(len(values), dtype=torch.long, device=values.device)


def _array(value: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().double().numpy()
    return array
