"""Linear response of the moments: what every response returns, and the one-shot one (theory 6.1). The layer calls it.

The self-consistent one is in `self_consistent.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.flow import Transfers

if TYPE_CHECKING:
    from les_plugins.electrostatics.response.interaction import Interaction


class Response(NamedTuple):
    """Induced charge (N,) e or None, induced dipole (N, 3) e·Å or None, and each atom's response energy (N,) eV.

    `energy` (B,) eV of the structures, where its derivatives are cheaper than those of the atoms' sum; else None.
    `flow`: how the induced charge went, where it flows between neighbours; else None.
    """

    charge: Tensor | None
    dipole: Tensor | None
    atomic_energy: Tensor
    energy: Tensor | None = None
    flow: Transfers | None = None


class InteractingResponse(ABC):
    """A response with mutual polarization: it asks for the interaction of induced moments.

    Attributes:
        takes_pairs: whether `respond` has one argument more, `flow`: the pairs over which charge flows (`PairFlow`).
    """

    takes_pairs = False

    @abstractmethod
    def respond(
        self,
        interaction: Interaction,
        potential: Tensor,
        field: Tensor,
        softness: Tensor | None,
        polarizability: Tensor | None,
    ) -> Response:
        """Induced moments and their energy.

        Args:
            interaction: energy and fields of any charges and dipoles at the atoms.
            potential, field, softness, polarizability: as for `one_shot_response`.
        """


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

    Source: theory 6.1; arXiv 2605.05746.
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
