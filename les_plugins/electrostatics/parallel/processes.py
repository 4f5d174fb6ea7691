"""One structure on several ranks: what all ranks must agree on. The layer calls it.

A rank that refuses its input must not leave the others waiting in a sum: every call starts with one small exchange, in
which a refusal reaches all ranks and what has to be equal on all is compared.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from les_plugins.electrostatics.inputs import LayerInputs
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.errors import GeometryError, LesPluginsError

#: What one call compares, beside whether any rank refuses.
FACTS = (
    "cell",
    "pbc",
    "settings",
    "multipole order",
    "softness",
    "polarizability",
    "external_field",
    "pair_softness",
    "requires_grad",
)


def check_on_all_ranks(ranks: Ranks, inputs: LayerInputs, settings: tuple[object, ...]) -> None:
    """Refuse on every rank what one rank refuses, or what is not the same on all.

    Args:
        ranks: the ranks.
        inputs: of this rank.
        settings: of the layer.

    Raises:
        GeometryError: this rank or another refuses its input, or the ranks do not agree.
    """
    refusal: LesPluginsError | None = None
    own = [0.0] * len(FACTS)
    try:
        inputs.check()
        check_boundaries(inputs.pbc)
        positions, cell, pbc, _, multipoles, softness, polarizability, external_field, pairs = inputs
        tensors: tuple[Tensor | None, ...] = (positions, cell, *multipoles, softness, polarizability, external_field)
        tensors += () if pairs is None else (pairs.vector, pairs.value)
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
                pairs is None,
                (torch.is_grad_enabled(), *(None if value is None else value.requires_grad for value in tensors)),
            )
        ]
    except LesPluginsError as error:
        refusal = error
    device = getattr(inputs.positions, "device", None)  # there is none where positions are no tensor
    sent = torch.tensor([float(refusal is not None), *own, *(-x for x in own)], dtype=torch.float64, device=device)
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
