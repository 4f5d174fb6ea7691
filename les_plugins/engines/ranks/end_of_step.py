"""Velocities and temperature when LAMMPS has done all of a step. `recorder.py` puts them into a file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from les_plugins.data.metrics import Floats
from les_plugins.errors import DataError

_DUMP = "les_frames"


class StepEnd(NamedTuple):
    """Of this rank's atoms.

    Attributes:
        velocities: (own, 3) in LAMMPS' unit, in the order of the ids asked for.
        temperature: K, of LAMMPS' `compute thermo_temp`; NaN on a rank without atoms.
    """

    velocities: Floats
    temperature: float


class EndOfStep:
    """What a step ends with on this rank, of a step after which LAMMPS writes dumps.

    No callback of LAMMPS comes after the last fix: at that of forces velocities are those of half a step before, and
    fixes change them later. Dumps are written after all of them: this is one, a file for each rank and frame.

    Args:
        lmp: LAMMPS with a box.
        every: steps between the frames.
    """

    def __init__(self, lmp: Any, every: int) -> None:
        self._held = tempfile.TemporaryDirectory(prefix="les-plugins-", ignore_cleanup_errors=True)
        self._folder, self._rank = Path(self._held.name), lmp.extract_setting("world_rank")
        lmp.commands_list(
            [
                "variable les_temperature equal c_thermo_temp",
                "variable les_temperature_of_atoms atom v_les_temperature",
                f'dump {_DUMP} all custom {every} "{self._folder}/*.%" id vx vy vz v_les_temperature_of_atoms',
                f"dump_modify {_DUMP} format float %.17g",
            ]
        )

    def take(self, step: int, ids: NDArray[Any]) -> StepEnd | None:
        """Of a step, once; None where LAMMPS has not written it, as in a step that was not finished.

        Raises:
            DataError: it is of other atoms.
        """
        file = self._folder / f"{step}.{self._rank}"
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        file.unlink()
        rows = text[text.index("ITEM: ATOMS") :].split("\n", 1)[1].split()
        values = np.array(rows, dtype=float).reshape(-1, 5)
        order, wanted = np.argsort(values[:, 0]), np.argsort(ids)
        if not np.array_equal(values[order, 0], ids[wanted]):
            raise DataError(f"LAMMPS: atoms came, went or moved to another rank after their forces in step {step}")
        velocities = np.empty((len(ids), 3))
        velocities[wanted] = values[order, 1:4]
        return StepEnd(velocities, float(values[0, 4]) if len(ids) else float("nan"))

    def close(self) -> None:
        """Remove the files."""
        self._held.cleanup()
