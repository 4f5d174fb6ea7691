"""A total charge that is given: what the heads miss of it is spread over the atoms, at a price (theory 5.4).

`model.long_range` calls it between heads and layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum
from les_plugins.errors import GeometryError


class SpreadCharge(NamedTuple):
    """Charges with the total that was given, and what it costs.

    Attributes:
        charge: (N,) e.
        spread: (N,) e, the part of it that was spread.
        atomic_energy: (N,) eV; adds up to U_Q of every structure.
    """

    charge: Tensor
    spread: Tensor
    atomic_energy: Tensor


def spread_total_charge(
    charge: Tensor,
    total_charge: Tensor,
    softness: Tensor,
    electronegativity: Tensor,
    batch: Tensor,
    ranks: Ranks | None = None,
) -> SpreadCharge:
    """q_i + w_i Δ with Δ = Q − Σ q and w_i = κ_i/Σκ, and its energy U_Q = Δ Σ w χ + ½ Δ²/Σκ.

    Args:
        charge: (N,) e, of the heads.
        total_charge: (B,) e, Q in the units of `charge`.
        softness: (N,) κ > 0, e²/eV.
        electronegativity: (N,) χ, V: the energy of the next positive charge is χ, of a negative one −χ.
        batch: (N,) integer.
        ranks: over which the atoms of each structure are spread, if they are.

    Source: theory 5.4.
    """
    sums = reduce_sum(to_structures(torch.stack([charge, softness], 1), batch, len(total_charge)), ranks)
    net, whole = sums.unbind(1)
    missing, whole = total_charge - net, torch.where(whole > 0.0, whole, 1.0)  # a structure may have no atoms
    spread = softness * to_atoms(missing / whole, batch)
    energy = spread * (electronegativity + 0.5 * to_atoms(missing / whole, batch))
    return SpreadCharge(charge + spread, spread, energy)


def check_total_charge(
    total_charge: Tensor, n_structures: int, device: torch.device, ranks: Ranks | None = None
) -> None:
    """Refuse total charges that do not fit the structures; on every rank, what one rank refuses.

    Args:
        total_charge: (B,) e.
        n_structures: B.
        device: of the positions.
        ranks: over which the atoms of each structure are spread, if they are; each gives the charges of the whole.

    Raises:
        GeometryError: another shape, device or kind of tensor, NaN or infinity, or other values on another rank.
    """
    problem = _problem(total_charge, n_structures, device)
    if ranks is None:
        if problem:
            raise GeometryError(problem)
        return
    values = torch.zeros(n_structures, dtype=torch.float64, device=device)
    values = values if problem else total_charge.detach().to(torch.float64)
    largest = ranks.maximum(torch.cat([values, -values, values.new_tensor([float(problem is not None)])]))
    if problem:
        raise GeometryError(problem)
    if float(largest[-1]) > 0.0:
        raise GeometryError("another rank of the process group refuses its total_charge; its own message says why")
    if not torch.equal(largest[:n_structures], -largest[n_structures:-1]):
        raise GeometryError(
            f"total_charge: not the same on all {ranks.size} ranks of the process group; allowed: that of the whole "
            "structures on every rank"
        )


def _problem(total_charge: Tensor, n_structures: int, device: torch.device) -> str | None:
    if not isinstance(total_charge, Tensor) or total_charge.layout is not torch.strided:
        kind = total_charge.layout if isinstance(total_charge, Tensor) else type(total_charge).__name__
        return f"total_charge is a {kind}; allowed: a dense torch tensor, {(n_structures,)}"
    if tuple(total_charge.shape) != (n_structures,):
        return f"total_charge has shape {tuple(total_charge.shape)}; allowed: {(n_structures,)}, one for each structure"
    if total_charge.device != device:
        return f"total_charge is on {total_charge.device} and positions on {device}; allowed: one device"
    if total_charge.dtype is torch.bool or total_charge.is_complex():
        return f"total_charge has dtype {total_charge.dtype}; allowed: real numbers of e"
    if not is_traced() and not bool(torch.isfinite(total_charge).all()):
        return f"total_charge is {total_charge.tolist()}; allowed: finite numbers of e"
    return None
