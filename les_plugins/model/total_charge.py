"""`TotalCharge`: the charge that a structure brings, in the model's latent units, put on its atoms (theory 5.4).

`LongRange` has one where its section says `total_charge: given`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.observables import electronic_susceptibility
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.total_charge import SpreadCharge, spread_total_charge
from les_plugins.errors import ConfigError
from les_plugins.model.heads import LatentVariables

#: Steps of a training over which the mean susceptibility forgets.
MEMORY = 1000.0


class TotalCharge(nn.Module):
    """Spreads what the heads miss of a total charge.

    Latent charge is physical charge over sqrt(ε_e) in periodic structures, and physical charge in slabs and open ones
    (theory 8.3). ε_e = ε_∞/(1 + ⟨χ⟩) is one number of the model: ε_∞ of its section, and ⟨χ⟩ the mean over the periodic
    structures of its training, which is kept in its weights. It starts in evaluation mode: a trainer that calls
    `train()`, or its adapter, says when a training sees a structure.

    Args:
        epsilon_infinity: ε_∞ of the section.
    """

    mean_susceptibility: Tensor
    seen: Tensor

    def __init__(self, epsilon_infinity: float) -> None:
        super().__init__()
        self.train(False)
        self.epsilon_infinity = epsilon_infinity
        self.register_buffer("mean_susceptibility", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(
        self,
        latent: LatentVariables,
        total_charge: Tensor,
        gauge: Tensor,
        pbc: Tensor,
        batch: Tensor,
        ranks: Ranks | None = None,
    ) -> SpreadCharge:
        """Charges of a batch, their sign by `gauge`.

        Args:
            latent: of the heads.
            total_charge: (B,) e, physical.
            gauge: ±1, or 0 where the long-range part is turned off: then nothing is spread.
            pbc: (B, 3) bool.
            batch: (N,) integer.
            ranks: over which the atoms of each structure are spread, if they are.

        Raises:
            ConfigError: heads that say nothing of it.
        """
        if latent.electronegativity is None or latent.charge_softness is None:
            raise ConfigError(
                "total_charge: given needs heads that return electronegativity and charge_softness; allowed with "
                "these heads: free, conserved"
            )
        sign = gauge.double()
        return spread_total_charge(
            sign * latent.multipoles.charge.double(),
            sign.square() * total_charge.double() / self.screening(pbc).sqrt(),
            latent.charge_softness.double(),
            sign * latent.electronegativity.double(),
            batch,
            ranks,
        )

    def screening(self, pbc: Tensor) -> Tensor:
        """(B,) ε_e of structures with the flags (B, 3)."""
        inside = self.epsilon_infinity / (1.0 + self.mean_susceptibility.double())
        return torch.where(pbc.all(1), inside, torch.ones_like(inside))

    def remember(
        self,
        polarizability: Tensor | None,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        ranks: Ranks | None = None,
    ) -> None:
        """Take the periodic structures of a step of training into ⟨χ⟩; called in training mode alone.

        Args:
            polarizability: (N,) or (N, 3, 3) e²·Å²/eV, or None.
            cell: (B, 3, 3) Å.
            pbc: (B, 3) bool.
            batch: (N,) integer.
            ranks: over which the atoms of each structure are spread, if they are.
        """
        if polarizability is None or is_traced() or not bool((periodic := pbc.all(1)).any()):
            return
        found = electronic_susceptibility(polarizability.detach().double(), cell.detach().double(), pbc, batch)
        found = found if ranks is None else ranks.sum(found)
        self.seen.add_(1.0)
        step = (found[periodic].mean() - self.mean_susceptibility) / self.seen.clamp(max=MEMORY)
        self.mean_susceptibility.add_(step.to(self.mean_susceptibility.dtype))
