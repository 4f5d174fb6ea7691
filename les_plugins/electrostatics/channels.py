"""Charges in independent channels, which do not see each other: energies add. The layer calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from les_plugins.errors import GeometryError

if TYPE_CHECKING:
    from les_plugins.electrostatics.solver import PermanentResult


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
