"""Trajectories of one system gathered for an analysis: checked to belong together, the start of each left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from les_plugins.dynamics.trajectory import Trajectory
from les_plugins.errors import ConfigError, DataError
from les_plugins.metrics import Floats


@dataclass(frozen=True)
class Samples:
    """Trajectories of one system with one interval between frames.

    Attributes:
        trajectories: the files.
        first: first frame of each that is used.
    """

    trajectories: list[Trajectory]
    first: int

    @classmethod
    def open(cls, paths: Sequence[str | Path], skip: float = 0.0) -> Samples:
        """Open trajectories of `les-plugins md`.

        Args:
            paths: the files.
            skip: ps that are left out at the start of each.

        Raises:
            DataError: files that do not belong together, or are shorter than `skip`.
        """
        if not paths:
            raise ConfigError("no trajectory was given")
        if not 0 <= skip < float("inf"):
            raise ConfigError(f"skip is {skip} ps; allowed: 0 or more")
        found = [Trajectory.open(path) for path in paths]
        one = found[0]
        first = int(np.ceil(1000.0 * skip / one.interval - 1e-9))
        for other in found:
            if not np.array_equal(other.numbers, one.numbers):
                raise DataError(f"{other.path}: has other atoms than {one.path}; trajectories must be of one system")
            if other.interval != one.interval:
                raise DataError(
                    f"{other.path}: has frames {other.interval:g} fs apart and {one.path} {one.interval:g} fs; "
                    "trajectories must have one interval"
                )
            if other.frames <= first:
                raise DataError(
                    f"{other.path}: is {(other.frames - 1) * other.interval / 1000:g} ps long; nothing is left after "
                    f"--skip {skip:g}"
                )
        return cls(found, first)

    @property
    def interval(self) -> float:
        """Time between frames, fs."""
        return self.trajectories[0].interval

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.trajectories[0].numbers)

    @property
    def is_periodic(self) -> bool:
        """Whether the structures are periodic along three axes."""
        return bool(self.trajectories[0].pbc.all())

    @property
    def duration(self) -> float:
        """Time that is used, all trajectories together, ps."""
        return sum(each.frames - self.first for each in self.trajectories) * self.interval / 1000.0

    def series(self, name: str) -> list[Floats]:
        """A series of every trajectory, in the unit of `trajectory.SERIES`.

        Raises:
            DataError: a trajectory has no such series, with what would record it.
        """
        for each in self.trajectories:
            if name not in each.names:
                hint = {
                    "current": "simulate without --no-current, with a model that has a long-range part",
                    "polarizability": "simulate with a model that has a response",
                }.get(name, "")
                raise DataError(f"{each.path}: has no {name}" + (f": {hint}" if hint else ""))
        return [each.part(name, self.first, each.frames) for each in self.trajectories]

    def temperature(self) -> float:
        """Mean temperature of all frames, K."""
        return float(np.concatenate(self.series("temperature")).mean())

    def volume(self) -> float:
        """Mean volume, Å³.

        Raises:
            DataError: the structures are not periodic along three axes.
        """
        if not self.is_periodic:
            raise DataError(
                f"{self.trajectories[0].path}: pbc is {self.trajectories[0].pbc.tolist()}; this needs a volume, so "
                "three periodic directions"
            )
        return float(np.abs(np.linalg.det(np.concatenate(self.series("cell")))).mean())

    def frames(self, every: int = 1) -> Iterator[Atoms]:
        """The structures, one after the other."""
        for each in self.trajectories:
            for index in range(self.first, each.frames, every):
                yield each.atoms(index)

    def facts(self) -> dict[str, Any]:
        """What was analysed, for reports."""
        return {
            "trajectories": [str(each.path) for each in self.trajectories],
            "frames": sum(each.frames - self.first for each in self.trajectories),
            "duration_ps": self.duration,
            "interval_fs": self.interval,
            "skipped_ps": self.first * self.interval / 1000.0,
            "temperature_K": self.temperature(),
            "model": [each.facts for each in self.trajectories],
        }
