"""What `Host.pretrained` gives. Imports no host and no plugin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
