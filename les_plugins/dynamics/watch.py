"""How far the members of a committee may disagree on the forces in a simulation. `run` looks at it at every step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from les_plugins.data.given_charge import charge_to_keep
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsWarning
from les_plugins.io.files import whole_file

#: Result of a committee that is watched.
FORCES_STD = "forces_std"
#: eV/Å from which on a warning is given where the user named no threshold: far above the errors of a trained model.
WARN_ABOVE = 0.5


class Watch:
    """Thresholds for the largest spread of an atom's force, eV/Å: the root of its three components' variances.

    Args:
        warn_above: a warning, once, when it is exceeded.
        stop_above: the run ends there; None for never.

    Raises:
        ConfigError: a threshold that is not a number above 0.
    """

    def __init__(self, warn_above: float = WARN_ABOVE, stop_above: float | None = None) -> None:
        for name, value in (("--warn-above", warn_above), ("--stop-above", stop_above)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; allowed: eV/Å above 0")
        self.warn_above, self.stop_above, self._warned = warn_above, stop_above, False

    def look(self, atoms: Atoms, step: int) -> str | None:
        """Warn where the members differ much; the reason to stop, or None."""
        found = spread_of_forces(atoms.calc.results)
        largest, atom = float(found.max()), int(found.argmax())
        where = f"step {step}: the members of the committee differ by {largest:.3g} eV/Å (standard deviation) on the "
        where += f"force of atom {atom} ({atoms.symbols[atom]})"
        if self.stop_above is not None and largest > self.stop_above:
            return f"{where}, above --stop-above {self.stop_above:g}"
        if largest > self.warn_above and not self._warned:
            self._warned = True
            warnings.warn(
                f"{where}, above {self.warn_above:g}: they have left what they were trained on", LesPluginsWarning, 2
            )
        return None


def check_committee(calculator: Any) -> None:
    """HostError for a calculator whose results have no spread."""
    if FORCES_STD not in calculator.implemented_properties:
        raise HostError("--stop-above and --warn-above: the model is no committee: les-plugins committee makes one")


def spread_of_forces(results: Mapping[str, Any]) -> Any:
    """(N,) eV/Å, root of the variances of each atom's three components."""
    return np.sqrt((np.asarray(results[FORCES_STD]) ** 2).sum(1))


def stopped(output: Path, atoms: Atoms, why: str) -> DataError:
    """The error that ends a run, after its last structure was written to `<output stem>-stopped.xyz`."""
    place = output.with_name(f"{output.stem}-stopped.xyz")
    info = charge_to_keep(atoms.calc, atoms)
    last = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
    last.set_array("forces_std", np.asarray(atoms.calc.results[FORCES_STD]))
    with whole_file(place) as file:
        ase.io.write(file, last, format="extxyz")
    return DataError(f"{why}; the structure is in {place}, frames and state up to it are kept")
