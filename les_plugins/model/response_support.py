"""Which labels of response a section can be trained on: said of a config and its frames before a host trains.

Adapters' trainers call it. `response_prediction` decides the same for each batch, by what the model really returns.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from les_plugins.config import LongRangeConfig
from les_plugins.data.response_labels import LabelledFrame, label_counts
from les_plugins.errors import ConfigError, DataError
from les_plugins.model.response_config import RESPONSE_SECTION, ResponseLossConfig

FREE = (
    "periodic structures and slabs have a polarization only where charge moves between neighbours; set "
    "long_range.total_charge: conserved"
)
ON_SITE = (
    "periodic structures and slabs have no polarization with induced charges of atoms; leave response.charge out of "
    "long_range"
)
SCREENING = (
    "the electronic screening of periodic structures is that of epsilon_infinity and of induced dipoles, both unknown "
    "while they train; set long_range.screening: trained"
)
#: Heads of ours, which fixed charges and transfers are known of; what a plugin's return is seen when they run.
_OWN_HEADS = ("auto", "equivariant", "edge")


def unsupported(section: LongRangeConfig, quantity: str, pbc: ArrayLike) -> str | None:
    """Why a section's models have no such response of a structure, with what to set; None where they have.

    Args:
        section: of the model.
        quantity: of `response_config.QUANTITIES`.
        pbc: (3,) bool, of the structure.

    Source: theory 9.3.
    """
    periodic = np.asarray(pbc, dtype=bool)
    if not label_counts(quantity, periodic) or section.heads not in _OWN_HEADS:
        return None
    if quantity != "polarizability" and periodic.any():
        if section.response.charge == "onsite":
            return ON_SITE
        if section.total_charge != "conserved":
            return FREE
    induced = section.response.charge == "pairs" or section.response.dipole != "none"  # with a polarizability each
    return SCREENING if periodic.all() and induced and section.screening == "fixed" else None


def check_section(section: LongRangeConfig, response: ResponseLossConfig, source: str) -> None:
    """Raise ConfigError for a weight that no structure's label can serve; names the key and what to set.

    Args:
        section: `long_range:` beside it.
        response: the section.
        source: file or key that the sections came from, for the message.
    """
    if "polarization" in response.quantities:  # the one quantity that crystals alone have
        reason = unsupported(section, "polarization", [True, True, True])
        if reason is not None:
            raise ConfigError(f"{source}: {RESPONSE_SECTION}.polarization has a weight, but {reason}")


def check_frames(
    section: LongRangeConfig,
    response: ResponseLossConfig,
    frames: Iterable[LabelledFrame],
) -> None:
    """Raise DataError for a frame with a label that its weight counts and that the model has no such response of.

    Args:
        section: `long_range:` beside it.
        response: the section.
        frames: of a set.
    """
    for where, pbc, labels in frames:
        for quantity in response.quantities:
            if quantity in labels and (reason := unsupported(section, quantity, pbc)) is not None:
                name = quantity.replace("born_effective", "Born effective").replace("_", " ")
                raise DataError(f"{where}: has a label of its {name}, which {RESPONSE_SECTION} counts, but {reason}")
