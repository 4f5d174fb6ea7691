"""The interaction of moments at fixed positions, as a linear operator. Responses with mutual polarization call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.couplings import Coupling, couplings
from les_plugins.electrostatics.groups import Facts
from les_plugins.electrostatics.lattice import open_directions
from les_plugins.electrostatics.local import self_slopes, to_structures
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum
from les_plugins.electrostatics.results import PermanentResult
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.errors import ConfigError


def check_interaction(precision: str) -> None:
    """Refuse iterations where they cannot be done.

    Args:
        precision: of the solver's matrix products, one of `settings.PRECISIONS`.

    Raises:
        ConfigError: traced or compiled code, or products that are too coarse.
    """
    if is_traced():
        raise ConfigError(
            "response: self_consistent cannot be traced or compiled, for the number of its iterations depends on "
            "values; allowed: one_shot, or the model as it is"
        )
    if precision != "double":
        raise ConfigError(
            f"precision is {precision!r} with response='self_consistent', whose iterations converge below it; "
            "allowed: 'double'"
        )


class Interaction(NamedTuple):
    """The solver of one call of the layer, with everything but the moments.

    Attributes:
        solver: from (positions, cell, pbc, batch, moments) to energy, potential and field, as the layer's own.
        positions: (N, 3) Å, float64, with their graph; cell: (B, 3, 3) Å likewise.
        pbc: (B, 3) bool.
        batch: (N,) integer.
        sigma: smearing width, Å.
        remove_self_interaction: whether the solver leaves each atom's interaction with itself out.
        training: whether the layer is in training mode.
        ranks: over which the atoms of each structure are spread, or None.
        known: settings and facts of the batch of a solver that is the layer's own in one process; else None.
    """

    solver: Callable[[Tensor, Tensor, Tensor, Tensor, Multipoles], PermanentResult]
    positions: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    sigma: float
    remove_self_interaction: bool
    training: bool
    ranks: Ranks | None = None
    known: tuple[ElectrostaticsSettings, Facts | None] | None = None

    def of(self, moments: Tensor, positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of charges and dipoles with each other, and its slope in every moment.

        Args:
            moments: (N, 1) charges, (N, 3) dipoles or (N, 4) both.
            positions: (N, 3) Å; cell: (B, 3, 3) Å: those of the call, with the graph that is wanted.

        Returns:
            Energy (B,) eV (the share of this rank's atoms), and potential and minus field in the order of `moments`;
            every atom's interaction with itself left out of the slope, whatever the solver does.
        """
        with_dipole = moments.shape[1] > 1
        charge = moments[:, 0] if moments.shape[1] != 3 else torch.zeros_like(moments[:, 0])
        multipoles = Multipoles(charge, moments[:, -3:] if with_dipole else None)
        result = self.solver(positions, cell, self.pbc, self.batch, multipoles)
        parts = [result.potential[:, None]] if moments.shape[1] != 3 else []
        if with_dipole:
            parts.append(-result.field)
        slope = torch.cat(parts, 1)
        if not self.remove_self_interaction:
            slope = slope - self.own_slope(moments.shape[1]) * moments
        return result.energy, slope

    def couplings(self, moments: slice) -> list[Coupling]:
        """T of the structures that are small enough, where the solver is known; on a CPU without graph."""
        settings, facts = self.known or (None, None)
        if settings is None or facts is None:
            return []
        positions, cell = self.positions, self.cell
        if positions.device.type == "cpu":
            positions, cell = positions.detach(), cell.detach()
        return couplings(positions, cell, moments, int(moments.stop > 1), self.batch, settings, facts)

    def total(self, values: Tensor) -> Tensor:
        """(B, …): sums of values (N, …) over the atoms of each structure, on whatever rank they are."""
        return reduce_sum(to_structures(values, self.batch, len(self.cell)), self.ranks)

    def relative_positions(self, weight: Tensor) -> Tensor:
        """(N, 3) Å: positions from the centre of their structure, by `weight` (N,), along its open directions."""
        norm, moment = self.total(weight), self.total(weight[:, None] * self.positions)
        centre = moment / torch.where(norm > 0.0, norm, 1.0)[:, None]
        along = open_directions(self.cell, self.pbc)[self.batch]
        return (along * (self.positions - centre[self.batch])[:, None, :]).sum(2)

    def own_slope(self, width: int) -> Tensor:
        """(width,): slope of an atom's self-energy per unit moment, in the order of the moments (theory 2.2)."""
        own = self_slopes(self.sigma, self.positions.device)
        return own if width == 4 else own[:1] if width == 1 else own[1:]
