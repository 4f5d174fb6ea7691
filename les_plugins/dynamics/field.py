"""The electric field of a simulation: static, or a pulse. The run asks for its value at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from les_plugins.errors import ConfigError
from les_plugins.metrics import Floats
from les_plugins.units import SPEED_OF_LIGHT


@dataclass(frozen=True)
class Field:
    """A uniform field E(t) = E0 f(t), f = 1 or a Gaussian pulse exp(−(t − c)²/(2 w²)) cos(2π c_light ν (t − c)).

    Attributes:
        vector: (3,) V/Å, E0.
        center: fs, c, of the pulse; None for a static field.
        width: fs, w, the standard deviation in time.
        wavenumber: cm⁻¹, ν, of the carrier; 0 for a pulse of one sign.

    Raises:
        ConfigError: a field that is not finite, a pulse without width.
    """

    vector: tuple[float, float, float]
    center: float | None = None
    width: float | None = None
    wavenumber: float = 0.0

    def __post_init__(self) -> None:
        numbers = [*self.vector, self.wavenumber, self.center or 0.0, self.width or 0.0]
        if not all(math.isfinite(number) for number in numbers):
            raise ConfigError(f"field {self.vector}: every number of a field must be finite")
        if (self.center is None) != (self.width is None):
            raise ConfigError("a pulse needs both its center and its width in fs; a static field neither")
        if self.width is not None and self.width <= 0:
            raise ConfigError(f"the width of the pulse is {self.width} fs; allowed: above 0")
        if self.wavenumber and self.center is None:
            raise ConfigError("a wavenumber belongs to a pulse: give its center and width in fs")

    @property
    def is_static(self) -> bool:
        """Whether the field does not change with time."""
        return self.center is None

    def at(self, time: float) -> Floats:
        """E (3,) V/Å at a time in fs."""
        vector = np.array(self.vector, dtype=float)
        if self.center is None or self.width is None:
            return vector
        elapsed = time - self.center
        phase = 2.0 * math.pi * SPEED_OF_LIGHT * self.wavenumber * elapsed
        value: Floats = vector * (math.exp(-0.5 * (elapsed / self.width) ** 2) * math.cos(phase))
        return value
