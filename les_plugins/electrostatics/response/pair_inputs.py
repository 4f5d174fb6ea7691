"""Pairs that the layer refuses: no atoms, edges without their reverse, negative values. It calls this."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.electrostatics.ghosts import Ghosts
from les_plugins.electrostatics.parallel.reduction import AtomsOfRanks
from les_plugins.errors import GeometryError, LesPluginsError

#: Difference between an edge and its reverse, relative to the values of all edges of an atom: rounding in float64, and
#: below it, where a host makes the two of different sums.
ASYMMETRY = 1e-8
COARSE_ASYMMETRY = 1e-3
#: A direction in which no two vectors of a neighbour list are alike, 1/Å; the fraction that spreads atoms' numbers.
DIRECTION = (0.31, 0.23, 0.17)
GOLDEN = 0.6180339887498949


def check_pairs(pairs: PairSoftness, batch: Tensor, atoms: AtomsOfRanks | Ghosts | None) -> None:
    """Refuse pairs that have no meaning.

    Args:
        pairs: whose shapes and kinds fit.
        batch: (N,) integer, the structure of each atom of this rank.
        atoms: where these stand among those of all ranks; None in one process.

    Raises:
        GeometryError: on every rank, where one has such pairs.
    """
    refusal: LesPluginsError | None = None
    try:
        _check_places(pairs, len(batch), len(batch) if atoms is None else atoms.total)
    except GeometryError as error:
        refusal = error
    _agree(refusal, batch, atoms)
    with torch.no_grad():
        structure = batch if atoms is None else atoms.everywhere(batch.double()).long()
        asymmetry, largest = _asymmetry(pairs, len(batch), atoms)
        at_centre = batch.index_select(0, pairs.centre.long())
        crossing = structure.index_select(0, pairs.neighbor.long()) != at_centre
        worst = int((asymmetry - largest).argmax()) if len(batch) else 0
        facts = [crossing.any(), pairs.value.amin() if len(pairs.value) else 0.0]
        facts += [asymmetry[worst], largest[worst]] if len(batch) else [0.0, 0.0]
        across, least, found, limit = torch.stack(
            [torch.as_tensor(x, device=batch.device).double() for x in facts]
        ).tolist()
    if across:
        edge = int(crossing.nonzero()[0])
        refusal = GeometryError(
            f"pair_softness: edge {edge} goes from atom {int(pairs.centre[edge])} to atom {int(pairs.neighbor[edge])} "
            "of another structure; allowed: edges within a structure"
        )
    elif least < 0.0:
        refusal = GeometryError(f"pair_softness.value holds {least:.6g} e²/eV; allowed: ≥ 0")
    elif found > limit:
        refusal = GeometryError(
            f"pair_softness: the edges from and to atom {worst} are not the same pairs; allowed: every edge once "
            "in each direction, with the opposite vector and the same value"
        )
    _agree(refusal, batch, atoms)


def _check_places(pairs: PairSoftness, n_atoms: int, total: int) -> None:
    for name, places, count in (("centre", pairs.centre, n_atoms), ("neighbor", pairs.neighbor, total)):
        if not len(places):
            continue
        least, largest = torch.stack(torch.aminmax(places)).tolist()
        if least < 0 or largest >= count:
            allowed = f"0…{count - 1}, the atoms" if count else "no edges, for there are no atoms"
            raise GeometryError(f"pair_softness.{name} holds {least}…{largest}; allowed: {allowed}")


def _agree(refusal: LesPluginsError | None, batch: Tensor, atoms: AtomsOfRanks | Ghosts | None) -> None:
    if atoms is not None:
        refused = torch.tensor(float(refusal is not None), dtype=torch.float64, device=batch.device)
        if float(atoms.ranks.maximum(refused)) > 0.0 and refusal is None:
            raise GeometryError("another rank of the process group refuses its pairs; its own message says why")
    if refusal is not None:
        raise refusal


def _asymmetry(pairs: PairSoftness, n_atoms: int, atoms: AtomsOfRanks | Ghosts | None) -> tuple[Tensor, Tensor]:
    """(N,), (N,): a sum over the edges from each atom less the same over those to it, and what may be left of it.

    Each edge counts with its value times a number of the atom at its other end and of its vector as seen from here.
    """
    centre, neighbor = pairs.centre.long(), pairs.neighbor.long()
    value, vector = pairs.value.double(), pairs.vector.double()
    first, total = (0, n_atoms) if atoms is None else (atoms.first, atoms.total)
    n_numbered = total if atoms is None or isinstance(atoms, AtomsOfRanks) else n_atoms
    number = 0.5 + torch.frac(GOLDEN * torch.arange(1, n_numbered + 1, dtype=value.dtype, device=value.device))
    if not (atoms is None or isinstance(atoms, AtomsOfRanks)):  # a ghost has its owner's
        number = atoms.with_ghosts(number)
    along = vector @ vector.new_tensor(DIRECTION)
    tilted, placed = value * along, centre if atoms is None else first + centre
    leaving = value.new_zeros(total).index_add(0, placed, (value + tilted) * number.index_select(0, neighbor))
    balance = leaving.index_add(0, neighbor, (tilted - value) * number.index_select(0, placed))
    if atoms is not None:
        balance = atoms.here(balance)
    exact = pairs.value.dtype == pairs.vector.dtype == torch.float64
    tolerance = ASYMMETRY if exact else COARSE_ASYMMETRY
    size = value.new_zeros(n_atoms).index_add(0, centre, value.abs())
    if len(along):
        size = size * (1.0 + torch.stack(torch.aminmax(along)).abs().amax())
    return balance.abs(), tolerance * size + math.ulp(0.0)
