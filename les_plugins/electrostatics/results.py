"""What the sums return, and how the results of independent charges add up. Solvers, layer and responses share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.flow import Transfers
from les_plugins.errors import GeometryError


class PermanentResult(NamedTuple):
    """What a solver returns: energy (B,) eV, atomic_energy (N,) eV, potential (N,) V, field (N, 3) V/Å.

    In a process group, the energy is the share of this rank's atoms; the layer adds up.
    """

    energy: Tensor
    atomic_energy: Tensor
    potential: Tensor
    field: Tensor


class ElectrostaticsResult(NamedTuple):
    """Result of `LatentElectrostatics`, in the dtype of the positions.

    Attributes:
        energy: (B,) eV, long-range energy of every structure.
        atomic_energy: (N,) eV; sums to `energy`.
        potential: (N,) V, of the permanent moments at the atoms; (N, channels) for charge channels.
        field: (N, 3) V/Å, of the permanent moments at the atoms.
        charge: (N,) e, induced part included; (N, channels) for charge channels.
        dipole: (N, 3) e·Å, induced part included; None when there is neither a permanent nor an induced one.
        flow: induced charge that flowed between neighbours, edge by edge, or None; `charge` includes it.
    """

    energy: Tensor
    atomic_energy: Tensor
    potential: Tensor
    field: Tensor
    charge: Tensor
    dipole: Tensor | None
    flow: Transfers | None = None


def sum_channels(parts: Sequence[PermanentResult]) -> PermanentResult:
    """Energies and fields of all channels added up; the potential is one column a channel, (N, channels).

    Args:
        parts: the result of each channel alone.

    Raises:
        GeometryError: no channel.
    """
    if not parts:
        raise GeometryError("charge has no channel; allowed: (N,) or (N, channels) with at least one channel")
    energy, atomic, field = (
        torch.stack([getattr(part, name) for part in parts]).sum(0) for name in ("energy", "atomic_energy", "field")
    )
    return parts[0]._replace(
        energy=energy, atomic_energy=atomic, field=field, potential=torch.stack([part.potential for part in parts], 1)
    )
