"""Frequencies along a path of wave vectors: `phonons` computes them, files and figures show them."""

from __future__ import annotations

from dataclasses import dataclass

from les_plugins.data.metrics import Floats


@dataclass(frozen=True)
class Bands:
    """Frequencies along a path.

    Attributes:
        labels: ends of the segments, one for each kink and two for each jump.
        connected: for each segment, whether the next one starts where it ends.
        qpoints: for each segment, (points, 3) in the reciprocal basis of the primitive cell.
        distances: for each segment, (points,) 1/Å, without 2π.
        bare: for each segment, (points, branches) THz, without the term of Z*; negative numbers are imaginary.
        corrected: likewise with Z* and ε_∞, or None.
    """

    labels: list[str]
    connected: list[bool]
    qpoints: list[Floats]
    distances: list[Floats]
    bare: list[Floats]
    corrected: list[Floats] | None
