"""Trajectories in HDF5: the place of every frame is laid out when the file is made, so that a kill harms none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

import les_plugins
from les_plugins.errors import DataError
from les_plugins.metrics import Floats

FORMAT, FORMAT_VERSION = "les-plugins trajectory", 1
#: Name in the file: unit, and shape of one frame ("N" stands for the number of atoms).
SERIES: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "time": ("fs", ()),
    "potential_energy": ("eV", ()),
    "kinetic_energy": ("eV", ()),
    "conserved_energy": ("eV", ()),
    "field_work": ("eV", ()),
    "temperature": ("K", ()),
    "positions": ("Å", ("N", 3)),
    "velocities": ("Å/fs", ("N", 3)),
    "cell": ("Å", (3, 3)),
    "field": ("V/Å", (3,)),
    "dipole": ("e·Å", (3,)),
    "current": ("e·Å/fs", (3,)),
    "polarizability": ("e²·Å²/eV", (3, 3)),
}
#: Recorded in every run.
ALWAYS = tuple(list(SERIES)[:9])
_WRITTEN = "written"


@dataclass(frozen=True)
class Trajectory:
    """A trajectory as it lies on disk; series are read when asked for, so that long ones need little memory.

    Attributes:
        path: the file.
        numbers: (N,) atomic numbers.
        masses: (N,) u.
        pbc: (3,) bool.
        frames: number of frames.
        names: series that the file has.
        settings: the simulation's settings.
        facts: model, start and versions.
        degrees_of_freedom: that temperatures are counted with.
    """

    path: Path
    numbers: NDArray[np.int64]
    masses: Floats
    pbc: NDArray[np.bool_]
    frames: int
    names: tuple[str, ...]
    settings: dict[str, Any]
    facts: dict[str, Any]
    degrees_of_freedom: int

    @classmethod
    def open(cls, path: str | Path) -> Trajectory:
        """A trajectory of `les-plugins md`, also one that is still being written.

        Raises:
            DataError: no such file, not one of ours, of another version, or without frames.
        """
        file = Path(path)
        with _reading(file) as h5:
            if h5.attrs.get("format") != FORMAT:
                raise DataError(f"{file}: is not a trajectory of les-plugins md")
            if int(h5.attrs["format_version"]) != FORMAT_VERSION:
                raise DataError(
                    f"{file}: format version {h5.attrs['format_version']}; this version reads {FORMAT_VERSION}"
                )
            frames = int(h5[_WRITTEN][()])
            if frames < 1:
                raise DataError(f"{file}: holds no frame")
            return cls(
                file,
                np.array(h5["numbers"]),
                np.array(h5["masses"]),
                np.array(h5["pbc"], dtype=bool),
                frames,
                tuple(name for name in SERIES if name in h5),
                json.loads(h5.attrs["settings"]),
                json.loads(h5.attrs["facts"]),
                int(h5.attrs["degrees_of_freedom"]),
            )

    @property
    def interval(self) -> float:
        """Time between frames, fs."""
        return float(self.settings["timestep"] * self.settings["every"])

    def __getitem__(self, name: str) -> Floats:
        """All frames of a series, (frames, ...), in the unit of `SERIES`.

        Raises:
            DataError: the trajectory has no such series.
        """
        return self.part(name, 0, self.frames)

    def part(self, name: str, start: int, stop: int) -> Floats:
        """Frames start to stop of a series."""
        if name not in self.names:
            raise DataError(f"{self.path}: has no {name}; it has: {', '.join(self.names)}")
        with _reading(self.path) as h5:
            values: Floats = np.array(h5[name][start : min(stop, self.frames)])
        return values

    def atoms(self, index: int = -1) -> Atoms:
        """One frame with its velocities."""
        if not -self.frames <= index < self.frames:
            raise DataError(f"{self.path}: has no frame {index}; it has {self.frames}")
        place = index % self.frames
        positions, velocities, cell = (
            self.part(name, place, place + 1)[0] for name in ("positions", "velocities", "cell")
        )
        atoms = Atoms(self.numbers, positions, cell=cell, pbc=self.pbc, masses=self.masses)
        atoms.set_velocities(velocities / units.fs)
        return atoms


class Writer:
    """The file of a run: laid out once for all frames, then filled in place.

    Args:
        path: the file, made by `create`.

    A frame counts when `commit` has been called after it; what a killed run left behind the last commit is overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open_alone(path)

    @classmethod
    def create(
        cls,
        path: Path,
        atoms: Atoms,
        n_frames: int,
        names: tuple[str, ...],
        settings: Mapping[str, Any],
        facts: Mapping[str, Any],
        degrees_of_freedom: int,
    ) -> Writer:
        """Lay out a new file; it takes its name when that is done.

        Raises:
            DataError: the file cannot be written.
        """
        partial = path.with_name(f".{path.name}.partial")
        try:
            with h5py.File(partial, "w", locking=False) as h5:
                h5.attrs.update(
                    format=FORMAT,
                    format_version=FORMAT_VERSION,
                    les_plugins=les_plugins.__version__,
                    settings=json.dumps(dict(settings)),
                    facts=json.dumps(dict(facts)),
                    degrees_of_freedom=degrees_of_freedom,
                )
                for name, value in (("numbers", atoms.numbers), ("masses", atoms.get_masses()), ("pbc", atoms.pbc)):
                    h5.create_dataset(name, data=value)
                h5["masses"].attrs["unit"] = "u"
                h5.create_dataset(_WRITTEN, data=np.int64(0))
                for name in names:
                    _lay_out(h5, name, n_frames, len(atoms))
            _sync(partial)
            os.replace(partial, path)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)
        return cls(path)

    @property
    def n_frames(self) -> int:
        """Frames that there is room for."""
        return int(self._file["time"].shape[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Series that the file has."""
        return tuple(name for name in SERIES if name in self._file)

    def extend(self, n_frames: int) -> None:
        """Make room for more frames, in a copy that then takes the file's name."""
        partial = self._path.with_name(f".{self._path.name}.partial")
        with h5py.File(partial, "w", locking=False) as new:
            for key, value in self._file.attrs.items():
                new.attrs[key] = value
            for name, old in self._file.items():
                if name not in SERIES:
                    self._file.copy(name, new)
                    continue
                made = _lay_out(new, name, n_frames, len(self._file["numbers"]))
                for start in range(0, old.shape[0], 1000):
                    stop = min(start + 1000, old.shape[0])
                    made[start:stop] = old[start:stop]
        self._file.close()
        _sync(partial)
        os.replace(partial, self._path)
        self._file = _open_alone(self._path)

    def set_settings(self, settings: Mapping[str, Any]) -> None:
        """Replace the settings; before a run goes on, never during it."""
        self._file.attrs["settings"] = json.dumps(dict(settings))
        self.flush()

    def write(self, index: int, values: Mapping[str, Any]) -> None:
        """One frame into its place."""
        for name, value in values.items():
            self._file[name][index] = value

    def flush(self, durable: bool = True) -> None:
        """Everything written so far to the file; durable: to the disk itself, which outlives a power cut too."""
        self._file.flush()
        if durable:
            _sync(self._path)

    def commit(self, frames: int) -> None:
        """From now on the file has so many frames."""
        self._file[_WRITTEN][()] = frames
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _open_alone(path: Path) -> Any:
    """Open for writing; readers do not lock, another run does."""
    try:
        return h5py.File(path, "r+", locking="best-effort")
    except BlockingIOError:
        raise DataError(f"{path}: another run is writing to it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def is_empty(path: Path) -> bool:
    """Whether a file is a trajectory of ours in which no frame counts yet."""
    try:
        with _reading(path) as h5:
            return h5.attrs.get("format") == FORMAT and int(h5[_WRITTEN][()]) == 0
    except DataError:
        return False


def _lay_out(h5: Any, name: str, n_frames: int, n_atoms: int) -> Any:
    """A series whose place on disk is allocated now: filling it changes no metadata that a kill could leave torn."""
    unit, shape = SERIES[name]
    full = (n_frames, *(n_atoms if length == "N" else int(length) for length in shape))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(full)
    h5py.h5d.create(h5.id, name.encode(), h5py.h5t.IEEE_F64LE, space, dcpl=properties)
    h5[name].attrs["unit"] = unit
    return h5[name]


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise DataError(f"{path}: is not a file" if path.exists() else f"{path}: no such file")
    try:
        h5 = h5py.File(path, "r", locking=False)
    except OSError:
        raise DataError(f"{path}: is not a trajectory of les-plugins md: not an HDF5 file") from None
    with h5:
        yield h5
