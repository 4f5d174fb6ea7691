"""Decides what total charge a structure has, and with what its polarization is made: transfers or phases (theory 8.6).

`model.physical`, calculators, the training on response and compiled targets ask here, and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.local import to_structures
from les_plugins.electrostatics.observables.carriers import Carriers, charge_of_total
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum
from les_plugins.model.long_range import LongRangeResult


def keeps_charge(part: nn.Module) -> bool:
    """Whether structures of a long-range part may be charged (`neutralize: keep`, `total_charge: given`).

    By attribute: a packaged model has a class of its own, and no section to look at.
    """
    return getattr(part, "neutralize", "background") == "keep"


def latent_total_charge(
    part: nn.Module,
    latent: LongRangeResult,
    batch: Tensor,
    n_structures: int,
    screening: float | Tensor | None = None,
    ranks: Ranks | None = None,
) -> Tensor | None:
    """(B,) e, latent, what the charges of each structure are made to add up to (`charge_of_total`); None for zero.

    What was given, where it is given; what the heads say, with its graph, where `neutralize: keep` asks for it.

    Args:
        part: the model's long-range part.
        latent: its result.
        batch: (N,) integer, the structure of each atom.
        n_structures: B.
        screening: ε_e, or (B,), of the material, which a charge that is given is over; None: the model's own.
        ranks: over which the atoms of each structure are spread, if they are; all of them call this.

    Source: theory 8.1.
    """
    given: Tensor | None = getattr(latent, "total_charge", None)  # packaged models have a class of before
    if given is not None and screening is not None:
        return given.double() / torch.as_tensor(screening, dtype=torch.float64, device=given.device).sqrt()
    if not keeps_charge(part):
        return None
    # not the induced charge: that of atoms adds up to no particular number; and transfers add up to zero
    charge = latent.permanent.charge.double()
    if latent.transfers is not None and latent.element_charges is not None:
        charge = latent.element_charges.double()
    charges = charge if charge.dim() == 1 else charge.sum(1)
    return reduce_sum(to_structures(charges, batch, n_structures), ranks)


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
        total_charge: (B,) e, of `latent_total_charge`.
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
