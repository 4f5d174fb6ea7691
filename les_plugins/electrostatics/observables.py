"""Polarization, Born effective charges, forces of a field, polarizability (theory 7–9) of differentiable moments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.lattice import boundary_lattice, dual_lattice, open_directions
from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.errors import GeometryError
from les_plugins.units import VACUUM_PERMITTIVITY


def charge_of_total(charge: Tensor, batch: Tensor, n_structures: int, total_charge: Tensor | None = None) -> Tensor:
    """q'_i = q_i − (Σ q − Q)/N: charges that add up to the total charge that a structure truly has.

    Args:
        charge: (N,) e, or (N, channels), which add up.
        batch: (N,) integer, the structure of each atom.
        n_structures: B.
        total_charge: (B,) e, Q in the units of `charge`, latent as they are; zero when None.

    Returns:
        (N,) e.

    Source: theory 8.1.
    """
    charges = _single(charge)
    excess = to_structures(charges, batch, n_structures)
    if total_charge is not None:
        excess = excess - total_charge.to(charges.dtype)
    counts = to_structures(torch.ones_like(charges), batch, n_structures).clamp(min=1.0)
    return charges - to_atoms(excess / counts, batch)


def polarization(
    positions: Tensor,
    batch: Tensor,
    charge: Tensor,
    dipole: Tensor | None = None,
    total_charge: Tensor | None = None,
) -> Tensor:
    """Dipole moment of every open structure, P = Σ q' r + Σ u; of a slab the component along its normal has a meaning.

    Args:
        positions: (N, 3) Å.
        batch: (N,) integer, the structure of each atom.
        charge: (N,) e, or (N, channels), which add up.
        dipole: (N, 3) e·Å, induced part included, or None.
        total_charge: (B,) e, as for `charge_of_total`.

    Returns:
        (B, 3) e·Å, B = largest batch index + 1, of charges that add up to `total_charge`. Where that is zero it does
        not depend on where the structure stands, else it is that about the origin of the coordinates. Quadrupoles do
        not contribute.

    Source: theory 8.1.
    """
    n_structures = int(batch.max()) + 1 if len(batch) else 0
    moment = charge_of_total(charge, batch, n_structures, total_charge)[:, None] * positions
    if dipole is not None:
        moment = moment + dipole
    return moment.new_zeros(n_structures, 3).index_add(0, batch, moment)


def born_effective_charges(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    charge: Tensor,
    dipole: Tensor | None = None,
    epsilon: float | Tensor = 1.0,
    create_graph: bool = False,
    total_charge: Tensor | None = None,
) -> Tensor:
    """Born effective charges Z*[i, a, b] = sqrt(epsilon) ∂P_a/∂r_{i,b}.

    Args:
        positions: (N, 3) Å, with a graph: charge and dipole must be functions of this very tensor.
        cell: (B, 3, 3) Å, rows are lattice vectors; rows of open axes are not read.
        pbc: (B, 3) bool: three true (periodic), two (slab) or none (open) for each structure.
        batch: (N,) integer, the structure of each atom.
        charge: (N,) e, induced part included; (N, channels) are added up.
        dipole: (N, 3) e·Å, induced part included, or None.
        epsilon: electronic screening ε_e ≥ 0, one number or one for each structure (B,).
        create_graph: keep the graph, to differentiate the result again.
        total_charge: (B,) e, as for `charge_of_total`.

    Returns:
        (N, 3, 3) e, first index polarization, second displacement, of charges that add up to `total_charge`: so do
        the Z* of an open structure. Along periodic axes the charge part is taken at the smallest reciprocal vector of
        each, along the normal of a slab it is Σ q' r.

    Raises:
        GeometryError: positions without a graph, a wire.

    Source: theory 8.1; arXiv 2605.05746.
    """
    _check_differentiable(positions, pbc)
    born = positions.new_zeros(positions.shape[0], 3, 3, dtype=_single(charge).dtype)
    for mode in polarization_modes(positions, cell, pbc, batch, charge, dipole, total_charge):
        row = _gradient(mode.terms.sum(), positions, create_graph)
        if mode.phase is not None:
            row = mode.phase[:, None] * row
        born = born + mode.direction[:, :, None] * row[:, None, :]
    factor = torch.as_tensor(epsilon, dtype=born.dtype, device=born.device).sqrt()
    born = born * (factor if factor.dim() == 0 else factor[batch][:, None, None])
    return born if create_graph else born.detach()


def field_forces(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    charge: Tensor,
    field: Tensor,
    dipole: Tensor | None = None,
    epsilon: float | Tensor = 1.0,
    total_charge: Tensor | None = None,
) -> Tensor:
    """Forces of a uniform field to first order, F[i, b] = Σ_a E_a Z*[i, a, b], without the tensor Z*.

    Args:
        positions, cell, pbc, batch, charge, dipole, epsilon, total_charge: as for `born_effective_charges`.
        field: (3,) or (B, 3) V/Å, the applied field.

    Returns:
        (N, 3) eV/Å. One derivative for open structures; for periodic ones two for each lattice axis that the field has
        a component along, and one for the dipoles. They add up to `total_charge` times the field.

    Raises:
        GeometryError: as `born_effective_charges`.

    Source: theory 7.
    """
    _check_differentiable(positions, pbc)
    total = positions.new_zeros(positions.shape, dtype=_single(charge).dtype)
    strength = field.to(total.dtype).expand(len(pbc), 3)[batch]
    unphased = total.new_zeros(())
    for mode in polarization_modes(positions, cell, pbc, batch, charge, dipole, total_charge):
        along = (mode.direction * strength).sum(1)
        if not bool(along.any()):
            continue
        if mode.phase is None:
            unphased = unphased + (mode.terms * along).sum()
        else:
            total = total + (mode.phase * along)[:, None] * _gradient(mode.terms.sum(), positions, False)
    total = total + _gradient(unphased, positions, False)
    factor = torch.as_tensor(epsilon, dtype=total.dtype, device=total.device).sqrt()
    return (total * (factor if factor.dim() == 0 else factor[batch][:, None])).detach()


def sum_rule_violation(born: Tensor, batch: Tensor) -> Tensor:
    """(B, 3, 3) e: mean of Z* over the atoms of each structure; the acoustic sum rule asks for zero.

    Args:
        born: (N, 3, 3) e.
        batch: (N,) integer, the structure of each atom.

    Source: theory 8.
    """
    n_structures = int(batch.max()) + 1 if len(batch) else 0
    counts = torch.bincount(batch, minlength=n_structures).clamp(min=1)
    return born.new_zeros(n_structures, 3, 3).index_add(0, batch, born) / counts[:, None, None]


def enforce_asr(born: Tensor, batch: Tensor) -> Tensor:
    """Born effective charges (N, 3, 3) with the mean violation of the acoustic sum rule taken from every atom."""
    return born - sum_rule_violation(born, batch)[batch]


def electronic_susceptibility(polarizability: Tensor | None, cell: Tensor, pbc: Tensor, batch: Tensor) -> Tensor:
    """(B,) χ = Σ tr α / (3 ε0 V) of the induced dipoles of periodic structures; zero of others and without dipoles.

    Args:
        polarizability: (N,) or (N, 3, 3) latent α, e²·Å²/eV, or None when the model has no induced dipoles.
        cell: (B, 3, 3) Å.
        pbc: (B, 3) bool.
        batch: (N,) integer.

    Source: theory 8.3.
    """
    if polarizability is None:
        return cell.new_zeros(len(cell))
    periodic = pbc.all(1)
    mean = polarizability if polarizability.dim() == 1 else polarizability.diagonal(dim1=1, dim2=2).mean(1)
    total = mean.new_zeros(len(cell)).index_add(0, batch, mean)
    volume = torch.where(periodic, torch.linalg.det(cell).abs(), torch.ones_like(total))
    return torch.where(periodic, total / (VACUUM_PERMITTIVITY * volume), torch.zeros_like(total))


def electronic_screening(
    epsilon_infinity: float,
    polarizability: Tensor | None,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    susceptibility: float | Tensor | None = None,
) -> Tensor:
    """(B,) ε_e that turns latent into physical moments: physical = sqrt(ε_e) × latent.

    Args:
        epsilon_infinity: ε_∞ of the material, ≥ 1.
        polarizability: (N,) or (N, 3, 3) latent α, e²·Å²/eV, or None when the model has no induced dipoles.
        cell: (B, 3, 3) Å.
        pbc: (B, 3) bool; open structures and slabs are in vacuum, ε_e = 1.
        batch: (N,) integer.
        susceptibility: ⟨χ⟩ of the material, one number or (B,); each structure's own χ when None, with which ε_e
            would fluctuate from frame to frame of a trajectory.

    Returns:
        ε_∞, divided by 1 + χ where there are induced dipoles. A slab has no volume, and its charges are screened
        differently along plane and normal: no single factor is right, and none is put in.

    Source: theory 8.3.
    """
    periodic = pbc.all(1)
    screening = torch.where(periodic, cell.new_tensor(epsilon_infinity), cell.new_tensor(1.0))
    if polarizability is None:
        return screening
    if susceptibility is None:
        susceptibility = electronic_susceptibility(polarizability, cell, pbc, batch)
    return torch.where(periodic, screening / (1.0 + susceptibility), screening)


def electronic_dielectric_tensor(
    epsilon_infinity: float,
    polarizability: Tensor | None,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    susceptibility: float | Tensor | None = None,
) -> Tensor:
    """(B, 3, 3) the electronic dielectric tensor of each structure, ε_e (1 + Σ α/(ε0 V)).

    With the ⟨χ⟩ of the material it fluctuates about ε_∞ with the polarizabilities of the atoms, whose spectrum is the
    Raman one; with each structure's own χ its mean is the ε_∞ given.

    Args:
        epsilon_infinity, polarizability, cell, pbc, batch, susceptibility: as for `electronic_screening`; open
            structures and slabs get ones.

    Source: theory 9.2, with α_physical = ε_e α.
    """
    screening = electronic_screening(epsilon_infinity, polarizability, cell, pbc, batch, susceptibility)
    unit = torch.eye(3, dtype=cell.dtype, device=cell.device).expand(len(cell), 3, 3)
    if polarizability is None:
        return screening[:, None, None] * unit
    total = system_polarizability(cell.new_zeros(len(batch), 3), pbc, batch, None, polarizability).to(cell.dtype)
    periodic = pbc.all(1)
    volume = torch.where(periodic, torch.linalg.det(cell).abs(), torch.ones_like(screening))
    response = total / (VACUUM_PERMITTIVITY * volume)[:, None, None]
    return torch.where(periodic[:, None, None], screening[:, None, None] * (unit + response), unit)


def system_polarizability(
    positions: Tensor,
    pbc: Tensor,
    batch: Tensor,
    softness: Tensor | None,
    polarizability: Tensor | None,
    cell: Tensor | None = None,
) -> Tensor:
    """Latent polarizability of whole structures, −∂²U/∂E².

    Args:
        positions: (N, 3) Å.
        pbc: (B, 3) bool: three true (periodic), two (slab) or none (open) for each structure.
        batch: (N,) integer.
        softness: (N,) κ, e²/eV, or None.
        polarizability: (N,) or (N, 3, 3) α, e²·Å²/eV, or None.
        cell: (B, 3, 3) Å; needed for slabs with softness, whose normal it gives.

    Returns:
        (B, 3, 3) e²·Å²/eV. Open: Σ α + Σ κ (r − r̄)(r − r̄)ᵀ, r̄ the κ-weighted centre. Slab: the latter along its
        normal only. Periodic: Σ α alone, for the flow of charge between atoms has no periodic form. Times ε_e it is the
        physical one.

    Raises:
        GeometryError: a slab with softness and no cell.

    Source: theory 9.1.
    """
    total = positions.new_zeros(len(pbc), 3, 3)
    if polarizability is not None:
        tensor = polarizability
        if tensor.dim() == 1:
            tensor = tensor[:, None, None] * torch.eye(3, dtype=tensor.dtype, device=tensor.device)
        total = total.index_add(0, batch, tensor.to(total.dtype))
    if softness is not None:
        if cell is None:
            if not is_traced() and bool((pbc.any(1) & ~pbc.all(1)).any()):
                raise GeometryError(f"pbc is {pbc.tolist()}: the polarizability of a slab with softness needs its cell")
            cell = positions.new_zeros(len(pbc), 3, 3)
        weight = softness.to(positions.dtype)
        norm = weight.new_zeros(len(pbc)).index_add(0, batch, weight)
        centre = weight.new_zeros(len(pbc), 3).index_add(0, batch, weight[:, None] * positions)
        relative = positions - (centre / torch.where(norm > 0, norm, torch.ones_like(norm))[:, None])[batch]
        relative = (open_directions(cell.to(positions.dtype), pbc)[batch] * relative[:, None, :]).sum(2)
        total = total.index_add(0, batch, weight[:, None, None] * relative[:, :, None] * relative[:, None, :])
    return total


class Mode(NamedTuple):
    """One differentiable sum of the polarization: Z*[i, a, b] += direction[i, a] phase[i] ∂(Σ terms)/∂r_{i,b}."""

    terms: Tensor  # (N,)
    phase: Tensor | None  # (N,), None for one
    direction: Tensor  # (N, 3)


def polarization_modes(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    charge: Tensor,
    dipole: Tensor | None,
    total_charge: Tensor | None = None,
) -> Iterator[Mode]:
    """The sums of theory 8.1 and 8.2: charges along each axis, at the smallest k where periodic, and dipoles."""
    charges = charge_of_total(charge, batch, cell.shape[0], total_charge)
    positions, cell = positions.to(charges.dtype), cell.to(charges.dtype)
    lattice = boundary_lattice(cell, pbc)
    vectors = to_atoms(lattice, batch)
    reciprocal = to_atoms(dual_lattice(lattice).transpose(1, 2), batch)
    coordinate = torch.einsum("na,nam->nm", positions, reciprocal)  # fractional, or Å along an open axis
    for axis in range(3):
        place, direction, is_periodic = coordinate[:, axis], vectors[:, axis], to_atoms(pbc[:, axis], batch)
        if not is_traced() and not bool(pbc[:, axis].any()):
            yield Mode(charges * place, None, direction)
            continue
        # exp(iθ)/(2πi) = (sin θ − i cos θ)/2π; along an open axis the polarization is q r
        theta = 2.0 * math.pi * place
        sine, cosine = torch.sin(theta), torch.cos(theta)
        real = torch.where(is_periodic, sine / (2.0 * math.pi), place)
        imaginary = torch.where(is_periodic, -cosine / (2.0 * math.pi), torch.zeros_like(theta))
        one, zero = torch.ones_like(theta), torch.zeros_like(theta)
        yield Mode(charges * real, torch.where(is_periodic, cosine, one), direction)
        yield Mode(charges * imaginary, torch.where(is_periodic, sine, zero), direction)
    if dipole is not None:
        unit = torch.eye(3, dtype=charges.dtype, device=charges.device)
        for axis in range(3):
            yield Mode(dipole[:, axis], None, unit[axis].expand(positions.shape[0], 3))


def _check_differentiable(positions: Tensor, pbc: Tensor) -> None:
    if not positions.requires_grad:
        raise GeometryError(
            "positions.requires_grad is False; Born effective charges differentiate with respect to them"
        )
    if not is_traced() and bool((pbc.sum(1) == 1).any()):
        raise GeometryError(f"pbc is {pbc.tolist()}; allowed: three True, two or none for each structure; no wires")


def _single(charge: Tensor) -> Tensor:
    return charge if charge.dim() == 1 else charge.sum(1)


def _gradient(value: Tensor, positions: Tensor, create_graph: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(positions)
    (gradient,) = torch.autograd.grad(value, positions, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(positions) if gradient is None else gradient
