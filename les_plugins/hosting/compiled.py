"""What compiled models of every host return, as the calculators read it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.model.long_range import LongRangeResult


def compiled_result(output: Mapping[str, Tensor]) -> LongRangeResult:
    """What a compiled model of any host returned for one structure, as a `LongRangeResult`.

    Args:
        output: long_range_energy (1,) or (1, 1), latent_charges (N,) or (N, 1), latent_dipoles (N, 3),
            latent_quadrupoles and latent_polarizability (N, 3, 3); zero where the model has none.

    Returns:
        On the CPU in float64; NaN for potential, field and atomic energies, which are not among them.
    """
    energy, charge, dipole, quadrupole, alpha = (
        output[name].detach().cpu().double()
        for name in (
            "long_range_energy",
            "latent_charges",
            "latent_dipoles",
            "latent_quadrupoles",
            "latent_polarizability",
        )
    )
    charge = charge.view(-1)
    unknown = torch.full_like(charge, torch.nan)
    return LongRangeResult(
        energy=energy.view(-1),
        atomic_energy=unknown,
        potential=unknown,
        field=torch.full_like(dipole, torch.nan),
        charge=charge,
        dipole=dipole,
        permanent=Multipoles(charge, None, quadrupole.view(-1, 3, 3)),
        softness=None,
        polarizability=alpha.view(-1, 3, 3),
    )
