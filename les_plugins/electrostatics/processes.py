"""One structure on several ranks: what all ranks must agree on. The layer calls it.

A rank that refuses its input must not leave the others waiting in a sum: every call starts with one small exchange, in
which a refusal reaches all ranks and what has to be equal on all is compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from les_plugins.electrostatics.reduction import Ranks
from les_plugins.errors import GeometryError, LesPluginsError
from les_plugins.multipoles import Multipoles

#: What one call compares, beside whether any rank refuses.
FACTS = ("cell", "pbc", "settings", "multipole order", "softness", "polarizability", "external_field", "requires_grad")


def check_on_all_ranks(
    ranks: Ranks,
    check: Callable[[], None],
    settings: tuple[object, ...],
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    multipoles: Multipoles,
    softness: Tensor | None,
    polarizability: Tensor | None,
    external_field: Tensor | None,
) -> None:
    """Refuse on every rank what one rank refuses, or what is not the same on all.

    Args:
        ranks: the ranks.
        check: raises what this rank alone has to say against its input.
        settings: of the layer.
        positions, cell, pbc, batch, multipoles, softness, polarizability, external_field: this rank's input.

    Raises:
        GeometryError: another rank refuses its input, or the ranks do not agree.
    """
    refusal: LesPluginsError | None = None
    own = [0.0] * len(FACTS)
    try:
        check()
        inputs = (positions, cell, *multipoles, softness, polarizability, external_field)
        own = [
            float(_checksum(value))
            for value in (
                cell,
                pbc,
                settings,
                (multipoles.order, multipoles.charge.shape[1:]),
                softness is None,
                None if polarizability is None else polarizability.dim(),
                external_field,
                (torch.is_grad_enabled(), *(None if value is None else value.requires_grad for value in inputs)),
            )
        ]
    except LesPluginsError as error:
        refusal = error
    sent = torch.tensor(
        [float(refusal is not None), *own, *(-x for x in own)], dtype=torch.float64, device=positions.device
    )
    largest = ranks.maximum(sent).tolist()
    if refusal is not None:
        raise refusal
    if largest[0] > 0.0:
        raise GeometryError("another rank of the process group refuses its input; its own message says why")
    highest, lowest = largest[1 : len(FACTS) + 1], largest[len(FACTS) + 1 :]
    differing = [name for name, high, low in zip(FACTS, highest, lowest, strict=True) if high != -low]
    if differing:
        raise GeometryError(
            f"{', '.join(differing)}: not the same on all {ranks.size} ranks of the process group; allowed: cell "
            "and pbc of the whole structures, equal to the last bit (broadcast them from one rank), the same settings, "
            "moments of the same kinds and requires_grad of the same inputs on every rank, one without atoms too"
        )


def check_boundaries(pbc: Tensor) -> None:
    """Refuse what needs atoms of other ranks: pairs of an open structure.

    Raises:
        GeometryError: names the structure and its pbc.
    """
    if not bool(pbc.all()):
        first = int((~pbc.all(1)).nonzero()[0])
        raise GeometryError(
            f"process_group with pbc {pbc[first].tolist()} of structure {first}: its pairs need the atoms of all "
            "ranks; allowed: periodic structures; evaluate others on one rank"
        )


def _checksum(value: object) -> int:
    data = value.detach().cpu().contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
    return zlib.crc32(data)
