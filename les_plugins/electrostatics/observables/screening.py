"""Polarizability, electronic screening and dielectric tensor of whole structures (theory 8.3 and 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.lattice import open_directions
from les_plugins.errors import GeometryError
from les_plugins.units import VACUUM_PERMITTIVITY


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
        normal only. Periodic: Σ α alone, for charges induced on atoms have no periodic form. What flows over pairs is
        among the polarizabilities of atoms (`flow.polarizability_with_flow`). Times ε_e it is the
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
