"""What `Host.pretrained` gives. Imports no host and no plugin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from les_plugins.errors import HostError, did_you_mean


def is_packaged(host: str, name: str, packaged: Sequence[str], file: str) -> bool:
    """Whether a name is one of the models in a host's package, and not that of a file.

    Args:
        host: name of the host.
        name: what the user typed.
        packaged: names in the package, in small letters.
        file: what a file would be, for the message: "a checkpoint of SevenNet".

    Raises:
        HostError: neither one nor the other.
    """
    inside = name.lower() in packaged
    if not inside and not Path(name).is_file():
        raise HostError(
            f"{host} has no model {name!r}{did_you_mean(name, packaged)}; allowed: {', '.join(packaged)}, or the path "
            f"of {file}; nothing is downloaded"
        )
    return inside


def check_one_level(host: str, modality: str | None) -> None:
    """Raise HostError for a level of theory that is asked of a host whose models have one each."""
    if modality is not None:
        raise HostError(f"--modality is {modality!r}, but models of {host} have one level of theory")


@dataclass(frozen=True)
class Pretrained:
    """A model of a host's own that is there already and labels frames: `Host.pretrained`.

    Attributes:
        calculator: ASE calculator with energy, forces and stress; `known_elements` of it, where it has that, are the
            atomic numbers that the model knows.
        weights: the file that the weights were read from.
        licence: of the weights, where the host's package states one; None otherwise.
    """

    calculator: Any
    weights: Path
    licence: str | None = None
