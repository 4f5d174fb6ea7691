"""Trajectories of one system gathered for an analysis: checked to belong together, the start of each left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from les_plugins.data.metrics import Floats
from les_plugins.data.trajectory import NAME, Trajectory
from les_plugins.errors import ConfigError, DataError
from les_plugins.model.polarizability_parts import NAMES, result_name
from les_plugins.spectra.belonging import check_together
from les_plugins.spectra.sampling import unresolved_share
from les_plugins.storage.zoo import name_of_weights

#: Frames times atoms in which motion too fast for the frames is looked for.
_ENOUGH = 2_000_000


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
        check_together(found)
        first = int(np.ceil(1000.0 * skip / found[0].interval - 1e-9))
        for other in found:
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

    @property
    def field(self) -> Floats:
        """(3,) V/Å, the static field of the trajectories; zero without one, and of one that changes with time."""
        found = self.trajectories[0].static_field
        return np.zeros(3) if found is None else found

    @property
    def model_name(self) -> str:
        """The model by its name in the zoo, else that of its folder, else host and hash as older files have them."""
        facts = self.trajectories[0].facts
        weights = str(facts.get("model_weights_sha256", ""))
        name = name_of_weights(weights) or facts.get(NAME)
        return str(name or f"{facts.get('host', 'model')} {weights[:8]}".strip())

    @property
    def title(self) -> str:
        """Model, size, temperature, field and time, for figures."""
        strength = float(np.linalg.norm(self.field))
        field = f", {strength:.3g} V/Å" if strength else ""
        return f"{self.model_name}: {self.n_atoms} atoms, {self.temperature():.0f} K{field}, {self.duration:.3g} ps"

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
                    **{series: f"give --polarizability {kind} to md" for series, kind in NAMES.items()},
                }.get(name, "")
                raise DataError(f"{each.path}: has no {name}" + (f": {hint}" if hint else ""))
        found = []
        for each in self.trajectories:
            values = each.part(name, self.first, each.frames)
            bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
            if name != "conserved_energy" and bad.any():  # with Langevin nothing is conserved, and the file says NaN
                frame = self.first + int(np.argmax(bad))
                raise DataError(f"{each.path}: {name} of frame {frame} holds a value that is not finite")
            found.append(values)
        return found

    def currents(self, epsilon_infinity: float | None = None) -> list[Floats]:
        """J of every trajectory, e·Å/fs, scaled with one ε_e.

        Trajectories whose model took its susceptibility χ from their own starts are brought to the mean of 1 + χ.

        Args:
            epsilon_infinity: ε_∞ in the place of the one that the trajectories were made with, or None.

        Raises:
            ConfigError: ε_∞ below 1.
            DataError: no current, or ε_∞ given for a trajectory that does not say which one it was made with.
        """
        return [
            np.sqrt(scale) * values
            for scale, values in zip(self._screening(epsilon_infinity), self.series("current"), strict=True)
        ]

    def polarizabilities(self, kind: str | None = None) -> list[Floats]:
        """α of every trajectory, e²·Å²/eV, scaled with one ε_e.

        Args:
            kind: of `model.polarizability_parts.KINDS`, such as "did"; the model's own when None.

        Raises:
            ConfigError: another kind.
            DataError: it was not recorded.
        """
        name = "polarizability" if kind is None else result_name(kind)
        return [scale * values for scale, values in zip(self._screening(None), self.series(name), strict=True)]

    @property
    def epsilon_infinity(self) -> float | None:
        """ε_∞ that the trajectories were made with, where they say it."""
        found = next((each.facts.get("epsilon_infinity") for each in self.trajectories), None)
        return None if found is None else float(found)

    def _screening(self, epsilon_infinity: float | None) -> list[float]:
        """ε_e that a trajectory is to have over the one that it has."""
        known = [each.susceptibility for each in self.trajectories]
        kept = [1.0 + (0.0 if value is None else value) for value in known]
        common = sum(kept) / len(kept)
        scales = [value / common if self.is_periodic and None not in known else 1.0 for value in kept]
        if epsilon_infinity is None:
            return scales
        if not 1.0 <= epsilon_infinity <= 1e6:
            raise ConfigError(f"--epsilon-infinity is {epsilon_infinity}; allowed: a number of at least 1, at most 1e6")
        if not self.is_periodic:
            raise ConfigError("--epsilon-infinity: the structures are not periodic, nothing screens their charges")
        if self.epsilon_infinity is None:
            raise DataError(
                f"{self.trajectories[0].path}: does not say with which ε_∞ it was made, so that its current cannot be "
                "rescaled: give --epsilon-infinity to md"
            )
        return [scale * epsilon_infinity / self.epsilon_infinity for scale in scales]

    def unresolved_share(self) -> float:
        """Share of an atom's motion that is faster than the frames show, of any atom (`sampling.unresolved_share`).

        It is looked for at the beginning of each trajectory, in up to a thousand frames.
        """
        found, enough = [], self.first + min(1000, max(_ENOUGH // self.n_atoms, 64))
        for each in self.trajectories:
            positions, velocities, cells = (
                each.part(name, self.first, enough) for name in ("positions", "velocities", "cell")
            )
            found.append(unresolved_share(displacements(positions, cells), velocities, self.interval))
        return max(found)

    def cell(self) -> Floats:
        """Mean cell of all frames, (3, 3) Å; DataError as `volumes`."""
        self.volumes()
        mean: Floats = np.concatenate(self.series("cell")).mean(0)
        return mean

    def positions(self) -> list[Floats]:
        """Unwrapped positions of every trajectory, (T, N, 3) Å, in the trajectory's mean cell (`in_mean_cell`)."""
        both = zip(self.series("positions"), self.series("cell"), strict=True)
        return [in_mean_cell(values, cells) for values, cells in both]

    def temperatures(self) -> list[float]:
        """Mean temperature of each trajectory, K.

        Raises:
            DataError: one that is not above 0.
        """
        found = [float(values.mean()) for values in self.series("temperature")]
        for each, value in zip(self.trajectories, found, strict=True):
            if not value > 0:
                raise DataError(f"{each.path}: its mean temperature is {value:g} K; this needs one above 0")
        return found

    def temperature(self) -> float:
        """Mean temperature of all frames, K."""
        return float(np.concatenate(self.series("temperature")).mean())

    def volumes(self) -> list[float]:
        """Mean volume of each trajectory, Å³.

        Raises:
            DataError: the structures are not periodic along three axes.
        """
        if not self.is_periodic:
            raise DataError(
                f"{self.trajectories[0].path}: pbc is {self.trajectories[0].pbc.tolist()}; this needs a volume, so "
                "three periodic directions"
            )
        return [float(np.abs(np.linalg.det(cells)).mean()) for cells in self.series("cell")]

    def volume(self) -> float:
        """Mean volume of all frames, Å³."""
        weights = [each.frames - self.first for each in self.trajectories]
        return float(np.average(self.volumes(), weights=weights))

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
            "field_V/A": self.field.tolist() if self.field.any() else None,
            "model": [each.facts for each in self.trajectories],
        }


def in_mean_cell(positions: Floats, cells: Floats) -> Floats:
    """Positions (T, N, 3) Å without what a cell (T, 3, 3) that changes does to them.

    It carries all atoms with it, the farther they are from the origin the more: it moves them without diffusion. Their
    fractional coordinates are taken, and given lengths by the mean cell.
    """
    if not np.ptp(cells, axis=0).max() > 0:
        return positions
    found: Floats = positions @ np.linalg.inv(cells) @ cells.mean(0)
    return found


def displacements(positions: Floats, cells: Floats) -> Floats:
    """From frame to frame, (T − 1, N, 3) Å, without what a cell that changes does: what velocities add up to."""
    if not np.ptp(cells, axis=0).max() > 0:
        return np.diff(positions, axis=0)
    found: Floats = np.diff(positions @ np.linalg.inv(cells), axis=0) @ (0.5 * (cells[1:] + cells[:-1]))
    return found
