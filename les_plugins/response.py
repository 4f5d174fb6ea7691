"""Linear response of the moments to the permanent potential and field, one shot (PHYSICS 4, 5). The layer calls it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Response(NamedTuple):
    """Induced charge (N,) e or None, induced dipole (N, 3) e·Å or None, and each atom's response energy (N,) eV."""

    charge: Tensor | None
    dipole: Tensor | None
    atomic_energy: Tensor


def one_shot_response(
    potential: Tensor, field: Tensor, softness: Tensor | None, polarizability: Tensor | None
) -> Response:
    """Moments induced by a potential and a field, and the energy that goes with them.

    Args:
        potential: (N,) V. With an external field, already Φ_i − E·(r_i − r̄).
        field: (N, 3) V/Å, the external one included.
        softness: (N,) κ ≥ 0, e²/eV, or None.
        polarizability: (N,) or (N, 3, 3) α, e²·Å²/eV, or None.

    Returns:
        Δq = −κ Φ, Δu = α·E, and −½ κ Φ² − ½ E·α·E of each atom.

    Source: PHYSICS 4; arXiv 2605.05746.
    """
    energy = torch.zeros_like(potential)
    charge = dipole = None
    if softness is not None:
        charge = -softness * potential
        energy = energy + 0.5 * charge * potential
    if polarizability is not None:
        if polarizability.dim() == 1:
            dipole = polarizability[:, None] * field
        else:
            dipole = torch.einsum("nab,nb->na", polarizability, field)
        energy = energy - 0.5 * (dipole * field).sum(1)
    return Response(charge, dipole, energy)
