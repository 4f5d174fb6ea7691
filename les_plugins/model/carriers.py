"""Decides with what a model's polarization is made: transfers of charge between neighbours, or phases (theory 8.6).

`model.physical` and compiled targets ask here, and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.observables.carriers import Carriers, charge_of_total
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.model.long_range import LongRangeResult


def carriers_of(
    latent: LongRangeResult,
    batch: Tensor,
    n_structures: int,
    total_charge: Tensor | None = None,
    ranks: Ranks | None = None,
) -> Carriers:
    """What carries the polarization of a model's structures.

    The charges of elements are fixed where every other charge of the model is exchanged between neighbours; what was
    exchanged is a moment then, as is induced charge that flows on pairs. On-site induced charges and charges that
    heads leave free change with the positions and say not from where: they keep the phases.

    Args:
        latent: result of the long-range part.
        batch: (N,) integer, the structure of each atom.
        n_structures: B.
        total_charge: (B,) e, latent, as for `charge_of_total`.
        ranks: over which the atoms of each structure are spread, if they are; all of them call this.

    Source: theory 8.6.
    """
    charge = latent.charge if latent.charge.dim() == 1 else latent.charge.sum(1)
    n_atoms = charge.shape[0]  # not len(): a tracer follows this one
    moment = latent.dipole
    if latent.flow is not None:
        flow = latent.flow.moments(n_atoms)
        charge = charge - latent.flow.charges(n_atoms).to(charge.dtype)
        moment = flow if moment is None else moment + flow
    charges = charge_of_total(charge, batch, n_structures, total_charge, ranks)
    if latent.transfers is None or latent.element_charges is None or latent.softness is not None:
        return Carriers(charges, moment, False)
    of_elements = latent.element_charges.to(charge.dtype)
    fixed = charge_of_total(of_elements, batch, n_structures, total_charge, ranks)
    exchanged = latent.transfers.charges(n_atoms).to(charge.dtype)
    if not is_traced() and not _equal(charges, fixed + exchanged, latent.transfers.charge.dtype, ranks):
        return Carriers(charges, moment, False)  # somebody's layer or response changed the charges
    transferred = latent.transfers.moments(n_atoms)
    return Carriers(fixed, transferred if moment is None else moment + transferred, True)


def _equal(first: Tensor, second: Tensor, precision: torch.dtype, ranks: Ranks | None) -> bool:
    """Whether charges are the same up to the rounding of sums over neighbours in one precision."""
    largest = torch.maximum(first.detach().abs(), second.detach().abs())
    rounding = torch.finfo(precision).eps ** 0.75 * largest.amax().clamp(min=1e-3) if len(largest) else 0.0
    differs = ((first - second).detach().abs() > rounding).any()
    if ranks is not None:
        differs = ranks.maximum(differs.double()) > 0.0
    return not bool(differs)
