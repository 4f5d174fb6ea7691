"""Charge that flows between neighbours when a potential or a field drives it, and is conserved (theory 6.4).

The layer makes a `PairFlow` of its `PairSoftness`; both responses call it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from les_plugins.electrostatics.flow import PairSoftness, Transfers
from les_plugins.electrostatics.ghosts import Ghosts
from les_plugins.electrostatics.parallel.reduction import AtomsOfRanks, Ranks
from les_plugins.electrostatics.response.one_shot import Response


class PairFlow(NamedTuple):
    """The pairs of one call. An edge and its reverse are one pair: each of the two moves half of the charge.

    Attributes:
        pairs: float64; `centre` counts the atoms of this rank, `neighbor` those of `atoms`.
        applied: (E,) V, E·d of the external field along each edge, or None.
        n_atoms: of this rank.
        atoms: where they stand among those of all ranks or of a domain with its ghosts; None in one process.
    """

    pairs: PairSoftness
    applied: Tensor | None
    n_atoms: int
    atoms: AtomsOfRanks | Ghosts | None = None

    def differences(self, potential: Tensor) -> Tensor:
        """(E,) V: Φ at the centre less Φ at the neighbour.

        Args:
            potential: (N,) V.
        """
        everywhere = potential if self.atoms is None else self.atoms.everywhere(potential)
        at_centre = potential.index_select(0, self.pairs.centre)
        return at_centre - everywhere.index_select(0, self.pairs.neighbor)

    def drops(self, potential: Tensor) -> Tensor:
        """(E,) V: D = Φ_i − Φ_j + E·d_ij, what drives charge along each edge.

        Args:
            potential: (N,) V, without the external field's.
        """
        difference = self.differences(potential)
        return difference if self.applied is None else difference + self.applied

    def transfers(self, drops: Tensor, value: Tensor | None = None) -> Transfers:
        """½ κ D over every edge.

        Args:
            drops: (E,) V.
            value: (E,) κ, e²/eV; that of the pairs when None.
        """
        centre, neighbor, vector, own, halo = self.pairs
        return Transfers(centre, neighbor, vector, 0.5 * (own if value is None else value) * drops, halo)

    def gained(self, transfers: Transfers) -> Tensor:
        """(N,) e: what each atom of this rank gets less what it gives; the sum over all is zero."""
        if self.atoms is None or transfers.halo is not None:
            return transfers.charges(self.n_atoms)
        placed = transfers._replace(centre=transfers.centre + self.atoms.first)
        return self.atoms.here(placed.charges(self.atoms.total))

    def energy(self, transfers: Transfers, drops: Tensor) -> Tensor:
        """(N,) eV: −¼ Σ κ D² over the edges from each atom, half of that of its pairs."""
        each = -0.5 * transfers.charge * drops
        return each.new_zeros(self.n_atoms).index_add(0, self.pairs.centre, each)


def pair_flow(
    pairs: PairSoftness, batch: Tensor, external_field: Tensor | None = None, ranks: Ranks | None = None
) -> PairFlow:
    """The pairs of a call of the layer, in float64.

    Args:
        pairs: of the call.
        batch: (N,) integer, the structure of each atom.
        external_field: (3,) or (B, 3) V/Å, or None.
        ranks: over which the atoms of each structure are spread, or None.
    """
    pairs = PairSoftness(
        pairs.centre.long(), pairs.neighbor.long(), pairs.vector.double(), pairs.value.double(), pairs.halo
    )
    applied = None
    if external_field is not None:
        field = external_field.double()
        along = field if field.dim() == 1 else field[batch[pairs.centre]]
        applied = (along * pairs.vector).sum(1)
    n_atoms = batch.shape[0]
    atoms: AtomsOfRanks | Ghosts | None = pairs.halo
    if atoms is None and ranks is not None:
        atoms = AtomsOfRanks.of(ranks, n_atoms, batch.device)
    return PairFlow(pairs, applied, n_atoms, atoms)


def with_flow(induced: Response, flow: PairFlow, potential: Tensor) -> Response:
    """One-shot response with what flows over pairs.

    Args:
        induced: of the dipoles.
        flow: the pairs.
        potential: (N,) V, of the permanent moments alone.

    Source: theory 6.4.
    """
    drops = flow.drops(potential)
    transfers = flow.transfers(drops)
    energy = induced.atomic_energy + flow.energy(transfers, drops)
    return Response(flow.gained(transfers), induced.dipole, energy, None, transfers)
