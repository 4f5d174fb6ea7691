"""Total charges that a structure brings and a model does not read (theory 5.2). Calculators and commands call this."""

from __future__ import annotations

import numpy as np
from ase import Atoms

#: Names under which files and programs keep the total charge of a structure.
NAMES = ("charge", "total_charge")
#: e, from which on a charge counts as given: rounded partial charges of a force field do not add up to zero exactly.
SMALLEST_CHARGE = 0.01


def given_charge(atoms: Atoms) -> str | None:
    """What in a structure says that it is charged, as `info['charge'] = -1`; None where nothing does.

    Initial charges count by their sum: partial charges of a neutral structure are no total charge.
    """
    for name in NAMES:
        value = _number(atoms.info.get(name))
        if value is not None and abs(value) >= SMALLEST_CHARGE:
            return f"info[{name!r}] = {value:g}"
    if atoms.has("initial_charges"):
        total = float(np.sum(atoms.get_initial_charges()))
        if abs(total) >= SMALLEST_CHARGE:
            return f"initial charges that add up to {total:g}"
    return None


def ignored_charge(given: str, where: str = "structure") -> str:
    """The line for a charge that this model does not read."""
    return (
        f"{where}: has {given} e, which this model does not read: energies, forces and moments are those that it has "
        "without; the total charge of its moments is zero"
    )


class ChargedFrames:
    """The frames of a file that say that they are charged, for the note of a command whose model does not read it."""

    def __init__(self) -> None:
        self._frames = self._charged = 0
        self._first = ""

    def add(self, atoms: Atoms) -> None:
        """The next frame."""
        if (given := given_charge(atoms)) is not None:
            self._first = self._first or f"frame {self._frames}: {given}"
            self._charged += 1
        self._frames += 1

    def note(self, calculator: object) -> str | None:
        """The line, or None where no frame is charged or the model reads it."""
        if not self._charged or getattr(calculator, "takes_total_charge", False):
            return None
        return (
            f"{self._charged} of {self._frames} frames have a total charge ({self._first} e), which the model does not "
            "read"
        )


def _number(value: object) -> float | None:
    try:
        number = float(np.asarray(value, dtype=float).reshape(-1)[0]) if np.size(np.asarray(value)) == 1 else None
    except (TypeError, ValueError):
        return None
    return number if number is not None and np.isfinite(number) else None
