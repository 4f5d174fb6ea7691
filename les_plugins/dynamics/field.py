"""The electric field of a simulation: static, a pulse, or any function of time. The run asks for it at every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixConstraint
from pydantic import PlainSerializer

from les_plugins.data.given_charge import charge_of_results
from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError
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


def pushed_against_sum_rule(calculator: Any) -> Floats | None:
    """(3,) eV/Å: mean of the field's forces less Q E/N, with which it pushes a total charge; None without a field.

    Args:
        calculator: after an evaluation in its `external_field`.

    Source: theory 8.1: Σ Z* = Q.
    """
    pushed = calculator.results.get("field_forces")
    if pushed is None:
        return None
    found: Floats = pushed.mean(0) - charge_of_results(calculator) * calculator.external_field / len(pushed)
    return found


class FieldSumRule(FixConstraint):
    """Takes off every atom what the field's forces have beyond those on the total charge, as the current does with Z*.

    Without it a periodic structure would be pushed by Z* that the current does not have, and the work of the field
    would not be ∫ E·J dt. ASE applies it to the forces of molecular dynamics; positions and momenta stay as they are.
    """

    def get_removed_dof(self, atoms: Atoms) -> int:
        """None: it holds nothing."""
        return 0

    def adjust_positions(self, atoms: Atoms, new: Floats) -> None:
        """Nothing."""

    def adjust_momenta(self, atoms: Atoms, momenta: Floats) -> None:
        """Nothing."""

    def adjust_forces(self, atoms: Atoms, forces: Floats) -> None:
        """Forces, eV/Å, with those of the field that the calculator returned."""
        pushed = pushed_against_sum_rule(atoms.calc)
        if pushed is not None:
            forces -= pushed

    redistribute_forces_md = adjust_forces


def _name_of(function: Callable[[float], Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__qualname__)}"


@dataclass(frozen=True)
class FieldFunction:
    """A uniform field that any function gives, from Python.

    Attributes:
        function: of the time in fs; returns three numbers in V/Å. A trajectory keeps its name and its values; a run
            that is resumed under the same name is trusted to have the same function.
    """

    function: Annotated[Callable[[float], Any], PlainSerializer(_name_of, return_type=str)]

    @property
    def is_static(self) -> bool:
        """Whether the field does not change with time: nobody knows."""
        return False

    def at(self, time: float) -> Floats:
        """E (3,) V/Å at a time in fs.

        Raises:
            ConfigError: the function returns something else than three finite numbers.
        """
        value: Floats = np.asarray(self.function(time), dtype=float)
        if value.shape != (3,) or not np.isfinite(value).all():
            raise ConfigError(
                f"the field {_name_of(self.function)} is {value.tolist()} at {time:g} fs; allowed: three finite "
                "numbers in V/Å"
            )
        return value
