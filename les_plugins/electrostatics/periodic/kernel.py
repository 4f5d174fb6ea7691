"""The interaction of smeared charges in reciprocal space, the one formula that every periodic sum has in common.

`reciprocal.py`, `mesh.py`, `static.py` and `long_waves.py` call it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from les_plugins.units import RECIPROCAL_PREFACTOR


def smeared_coulomb_kernel(k_squared: Tensor, volume: Tensor, sigma: float) -> Tensor:
    """(C / V) exp(−σ²k²/2)/k², what |S(k)|² of one wave vector is multiplied by.

    Args:
        k_squared: Å⁻², above zero.
        volume: Å³ of the cell, of a shape that broadcasts.
        sigma: smearing width, Å.

    Returns:
        eV/e², of the shape of `k_squared`.

    Source: theory 2.1.
    """
    return (RECIPROCAL_PREFACTOR / volume) * torch.exp(-0.5 * sigma**2 * k_squared) / k_squared
