"""A uniform external field: one energy, where positions are defined along it (theory 7). The layer calls it.

Positions are defined in all directions of an open structure, along the normal of a slab, in none of a periodic one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from les_plugins.electrostatics.lattice import open_directions
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.errors import GeometryError

PERIODIC_FIELD = ("refuse", "dipoles")
#: A field leans out of the directions that positions are defined along when more than this fraction of it does:
#: the normal of a cell in float32 is that far from the one in float64.
LEANING = 1e-6


def in_external_field(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    potential: Tensor,
    field: Tensor,
    softness: Tensor | None,
    external_field: Tensor,
    periodic_field: str = "refuse",
) -> tuple[Tensor, Tensor, Tensor]:
    """Potential and field that the response sees, and the work on the permanent moments, in a uniform field.

    Args:
        positions: (N, 3) Å, float64.
        cell: (B, 3, 3) Å.
        pbc: (B, 3) bool.
        batch: (N,) integer.
        multipoles: permanent moments.
        potential: (N,) V and field: (N, 3) V/Å, of the permanent moments.
        softness: (N,) κ, e²/eV, or None.
        external_field: (3,) or (B, 3) V/Å.
        periodic_field: where positions are not defined, "refuse", or "dipoles": let it act on dipoles alone, permanent
            and induced.

    Returns:
        Φ − E·(r − r̄) (N,), E_i + E (N, 3) and −q E·r − u·E (N,), the terms with positions along the directions that
        have them.

    Raises:
        GeometryError: a field of another shape, or one along periodic directions that is not asked for.
    """
    expected = (len(pbc), 3)
    if external_field.shape not in ((3,), expected):
        raise GeometryError(f"external_field has shape {tuple(external_field.shape)}; allowed: (3,) or {expected}")
    applied = external_field.double().expand(expected)
    on_charges = torch.einsum("bij,bj->bi", open_directions(cell, pbc), applied)
    if periodic_field == "refuse":
        _refuse_along_periodic_directions(applied.detach(), on_charges.detach(), pbc)
    at_atoms, along = applied[batch], on_charges[batch]
    work = -multipoles.charge * (along * positions).sum(1)
    if multipoles.dipole is not None:
        work = work - (multipoles.dipole * at_atoms).sum(1)
    relative = positions
    if softness is not None:
        weight = softness.double()
        norm = weight.new_zeros(len(pbc)).index_add(0, batch, weight)
        centre = weight.new_zeros(len(pbc), 3).index_add(0, batch, weight[:, None] * positions)
        relative = positions - (centre / torch.where(norm > 0, norm, 1.0)[:, None])[batch]
    return potential - (along * relative).sum(1), field + at_atoms, work


def _refuse_along_periodic_directions(applied: Tensor, on_charges: Tensor, pbc: Tensor) -> None:
    leaning = (applied - on_charges).norm(dim=1) > LEANING * applied.norm(dim=1)
    if bool(leaning.any()):
        first = int(leaning.nonzero()[0])
        raise GeometryError(
            f"external_field {applied[first].tolist()} V/Å of structure {first}, pbc {pbc[first].tolist()}: along "
            "periodic directions the positions of charges are not defined and the field has no energy; allowed: any "
            "field on open structures, one along the normal on slabs; periodic_field='dipoles' lets it act on dipoles "
            "alone, and observables.field_forces gives the forces on everything"
        )
