"""A uniform external field on structures whose positions are defined along it (PHYSICS 5). The layer calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from les_plugins.errors import GeometryError
from les_plugins.multipoles import Multipoles


def in_external_field(
    positions: Tensor,
    pbc: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    potential: Tensor,
    field: Tensor,
    softness: Tensor | None,
    external_field: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Potential and field that the response sees, and the work (N,) on the permanent moments, in a uniform field."""
    if bool(pbc.any()):
        raise GeometryError(
            "external_field with a periodic structure: its position operator is not defined and the finite-field "
            "driver is not built yet; give the field to open structures only"
        )
    expected = (len(pbc), 3)
    if external_field.shape not in ((3,), expected):
        raise GeometryError(f"external_field has shape {tuple(external_field.shape)}; allowed: (3,) or {expected}")
    at_atoms = external_field.double().expand(expected)[batch]
    work = -multipoles.charge * (at_atoms * positions).sum(1)
    if multipoles.dipole is not None:
        work = work - (multipoles.dipole * at_atoms).sum(1)
    lever = positions
    if softness is not None:
        weight = softness.double()
        norm = weight.new_zeros(len(pbc)).index_add(0, batch, weight)
        centre = weight.new_zeros(len(pbc), 3).index_add(0, batch, weight[:, None] * positions)
        lever = positions - (centre / torch.where(norm > 0, norm, 1.0)[:, None])[batch]
    return potential - (at_atoms * lever).sum(1), field + at_atoms, work
