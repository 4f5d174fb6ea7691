"""The long-range part inside a model of any host, and its results under one set of names. Adapters call it.

`nequip-package` takes this file into its archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from les_plugins.electrostatics.observables.carriers import Carriers, charge_of_total
from les_plugins.model.long_range import LongRange, LongRangeResult

if TYPE_CHECKING:
    from les_plugins.config import LongRangeConfig

LONG_RANGE_ENERGY, LATENT_CHARGES = "long_range_energy", "latent_charges"
LATENT_DIPOLES, LATENT_QUADRUPOLES = "latent_dipoles", "latent_quadrupoles"
LATENT_POLARIZABILITY = "latent_polarizability"
#: Of compiled code: what carries the polarization (`model.carriers`).
CARRIED_CHARGES, CARRIED_MOMENTS = "latent_polarization_charges", "latent_polarization_moments"
#: Charge of an atom, e, below which it is a rounding error of float32 charges that add up to zero.
ROUNDING = 1e-6


def long_range_part(model: nn.Module) -> LongRange | None:
    """The long-range part of a model, None without one; by name: classes of a packaged model are copies."""
    found = (part for part in model.modules() if type(part).__qualname__ == LongRange.__qualname__)
    return cast("LongRange | None", next(found, None))


def section_of(model: nn.Module) -> LongRangeConfig | None:
    """The `long_range:` section of a model, None without a long-range part."""
    part = long_range_part(model)
    return None if part is None else part.config


def latent_outputs(result: LongRangeResult) -> dict[str, Tensor]:
    """What a model has: long_range_energy (B,) eV, latent_charges (N,) e, latent_dipoles (N, 3) e·Å, induced parts
    included, and the permanent latent_quadrupoles (N, 3, 3) e·Å²."""
    found = {
        LONG_RANGE_ENERGY: result.energy,
        LATENT_CHARGES: result.charge,
        LATENT_DIPOLES: result.dipole,
        LATENT_QUADRUPOLES: result.permanent.quadrupole,
    }
    return {name: value for name, value in found.items() if value is not None}


def every_latent_output(result: LongRangeResult) -> dict[str, Tensor]:
    """All of `latent_outputs`, in that order, and latent_polarizability (N, 3, 3) e²·Å²/eV; zero where there is none.

    The latter holds what flows over pairs, so that it adds up to the polarizability of a periodic structure.

    Compiled code returns them: which outputs there are is fixed then. `hosting.compiled` reads them.
    """
    zero = result.charge[:, None, None] * result.charge.new_zeros(3, 3)
    dipolar = result.dipolar
    alpha = zero if dipolar is None else dipolar.to(zero.dtype)
    if alpha.dim() == 1:
        alpha = alpha[:, None, None] * torch.eye(3, dtype=alpha.dtype, device=alpha.device)
    own = latent_outputs(result)
    found = {
        **{name: own[name] for name in (LONG_RANGE_ENERGY, LATENT_CHARGES)},
        LATENT_DIPOLES: own.get(LATENT_DIPOLES, zero[:, 0]),
        LATENT_QUADRUPOLES: own.get(LATENT_QUADRUPOLES, zero),
        LATENT_POLARIZABILITY: alpha,
    }
    return {name: value.to(zero.dtype) for name, value in found.items()}


def carried_outputs(carriers: Carriers) -> dict[str, Tensor]:
    """What carries the polarization: latent_polarization_charges (N,) e and latent_polarization_moments (N, 3) e·Å.

    Compiled code returns them beside `every_latent_output`; `read_carriers` reads them.
    """
    moment = carriers.charge[:, None] * carriers.charge.new_zeros(3)
    if carriers.moment is not None:
        moment = carriers.moment.to(carriers.charge.dtype).clone()  # no other output's own tensor
    return {CARRIED_CHARGES: carriers.charge, CARRIED_MOMENTS: moment}


def read_carriers(output: Mapping[str, Tensor]) -> Carriers | None:
    """What carries the polarization of one structure, from what compiled code returned; None of files without it.

    Its charges add up to the structure's total charge. Fixed charges are not the charges of the atoms, of which a part
    is in the moments; where nothing is exchanged both are the same and so is their polarization.

    Args:
        output: latent_charges (N,) or (N, 1) among them.
    """
    if CARRIED_CHARGES not in output or CARRIED_MOMENTS not in output:
        return None
    charge, own = (output[name].detach().cpu().double().view(-1) for name in (CARRIED_CHARGES, LATENT_CHARGES))
    moment = output[CARRIED_MOMENTS].detach().cpu().double().view(-1, 3)
    batch = torch.zeros(len(charge), dtype=torch.long)
    of_atoms = charge_of_total(own, batch, 1, charge.sum().reshape(1))
    is_fixed = not torch.allclose(charge, of_atoms, rtol=0.0, atol=ROUNDING)
    return Carriers(charge, moment, is_fixed)
