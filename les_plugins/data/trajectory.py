"""Trajectories in HDF5 as they lie on disk. `writer` lays them out, spectra and analyses read them here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms, units
from ase.constraints import dict2constraint
from ase.io import jsonio
from numpy.typing import NDArray

from les_plugins.data.metrics import Floats
from les_plugins.data.trajectory_checks import check_storage, check_times, check_values
from les_plugins.errors import ConfigError, DataError, LesPluginsError
from les_plugins.io.documents import parse_json
from les_plugins.io.files import reason

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
    "polarizability_atoms": ("e²·Å²/eV", (3, 3)),
    "polarizability_did": ("e²·Å²/eV", (3, 3)),
    "polarizability_self_consistent": ("e²·Å²/eV", (3, 3)),
    "polarizability_atoms_flow": ("e²·Å²/eV", (3, 3)),
    "polarizability_did_flow": ("e²·Å²/eV", (3, 3)),
    "polarizability_self_consistent_flow": ("e²·Å²/eV", (3, 3)),
    "energy_std": ("eV", ()),
    "largest_forces_std": ("eV/Å", ()),
}
#: Recorded in every run.
ALWAYS = tuple(list(SERIES)[:9])
#: Of the facts, what people call the model; its weights tell it from others.
NAME = "model_name"
#: How many frames count.
WRITTEN = "written"


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
        constraints_text: constraints of the start, as `described_constraints` writes them.
        run: what the run that made the file is told by; "" in files of older versions.
        total_charge: e, that the calculator gave the start; None in files of older versions.
        polarization_source: "transfers" or "phases", what the dipole is made with; "" where the model does not say it.
        susceptibility: χ that fields inside the material were scaled with, where the model has one.
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
    constraints_text: str = "[]"
    run: str = ""
    susceptibility: float | None = None
    total_charge: float | None = None
    polarization_source: str = ""

    @classmethod
    def open(cls, path: str | Path) -> Trajectory:
        """A trajectory of `les-plugins md`, also one that is still being written.

        Raises:
            DataError: no such file, not one of ours, of another version, without frames, or with a gap in its times.
        """
        found = cls.with_any_frames(path)
        if found.frames < 1:
            raise DataError(f"{found.path}: holds no frame")
        return found

    @classmethod
    def with_any_frames(cls, path: str | Path) -> Trajectory:
        """As `open`, also where no frame counts yet."""
        file = Path(path)
        with reading(file) as h5:
            check_layout(h5, file)
            attributes = h5.attrs
            found = cls(
                file,
                np.array(h5["numbers"]),
                np.array(h5["masses"]),
                np.array(h5["pbc"], dtype=bool),
                int(h5[WRITTEN][()]),
                tuple(name for name in SERIES if name in h5),
                parse_json(attributes["settings"]),
                parse_json(attributes["facts"]),
                int(attributes["degrees_of_freedom"]),
                str(attributes.get("constraints", "[]")),
                str(attributes.get("run", "")),
                float(attributes["susceptibility"]) if "susceptibility" in attributes else None,
                float(attributes["total_charge"]) if "total_charge" in attributes else None,
                str(attributes.get("polarization_source", "")),
            )
        check_values(found)
        check_times(found)
        return found

    @property
    def interval(self) -> float:
        """Time between frames, fs."""
        return float(self.settings["timestep"] * self.settings["every"])

    @property
    def static_field(self) -> Floats | None:
        """(3,) V/Å, the field of the run, zero where there was none; None of one that changes with time."""
        field = self.settings.get("field")
        if field is None:
            return np.zeros(3)
        if not isinstance(field, dict) or field.get("center") is not None:
            return None
        return np.array(field["vector"], dtype=float)

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
        with reading(self.path) as h5:
            values: Floats = np.array(h5[name][start : min(stop, self.frames)])
        return values

    def atoms(self, index: int = -1) -> Atoms:
        """One frame with its velocities and the constraints of the start."""
        if not -self.frames <= index < self.frames:
            raise DataError(f"{self.path}: has no frame {index}; it has {self.frames}")
        place = index % self.frames
        positions, velocities, cell = (
            self.part(name, place, place + 1)[0] for name in ("positions", "velocities", "cell")
        )
        atoms = Atoms(self.numbers, positions, cell=cell, pbc=self.pbc, masses=self.masses)
        if self.total_charge:
            atoms.info["charge"] = self.total_charge
        atoms.set_velocities(velocities / units.fs)
        atoms.set_constraint([dict2constraint(described) for described in jsonio.decode(self.constraints_text)])
        return atoms

    def frame(self, name: str, index: int) -> Floats:
        """One frame of a series, also one that was written and does not count yet.

        Raises:
            DataError: the file has no room for so many.
        """
        with reading(self.path) as h5:
            if not 0 <= index < h5[name].shape[0]:
                raise DataError(f"{self.path}: is damaged: it has room for {h5[name].shape[0]} frames, not {index + 1}")
            values: Floats = np.array(h5[name][index])
        return values


def described_constraints(atoms: Atoms) -> str:
    """Constraints as text that a file keeps and `Trajectory.atoms` makes them from again.

    Raises:
        ConfigError: a constraint that ASE cannot write down.
    """
    described = []
    for constraint in atoms.constraints:
        try:
            one = constraint.todict()
            jsonio.encode(dict2constraint(jsonio.decode(jsonio.encode(one))).todict())
        except Exception as error:  # each constraint of ASE has its own ways to fail
            raise ConfigError(
                f"the start has the constraint {type(constraint).__name__}, which ASE cannot write down for the "
                f"trajectory ({type(error).__name__}): remove it, or use one such as FixAtoms or FixCartesian"
            ) from None
        described.append(one)
    return str(jsonio.encode(described))


def check_layout(h5: Any, file: Path) -> None:
    """Raise DataError for an HDF5 file that is not a trajectory of ours, or not a whole one."""
    if h5.attrs.get("format") != FORMAT:
        raise DataError(f"{file}: is not a trajectory of les-plugins md")
    if int(h5.attrs["format_version"]) != FORMAT_VERSION:
        raise DataError(f"{file}: format version {h5.attrs['format_version']}; this version reads {FORMAT_VERSION}")
    check_storage(h5, file)
    missing = [name for name in ("numbers", "masses", "pbc", WRITTEN, *ALWAYS) if name not in h5]
    missing += [name for name in ("settings", "facts", "degrees_of_freedom") if name not in h5.attrs]
    if missing:
        raise DataError(f"{file}: is damaged: {', '.join(missing)} missing")
    n_atoms, room = len(h5["numbers"]), h5["time"].shape[0]
    shapes = {"masses": (n_atoms,), "pbc": (3,), WRITTEN: ()}
    shapes |= {name: (room, *frame_shape(name, n_atoms)) for name in SERIES if name in h5}
    for name, shape in shapes.items():
        if h5[name].shape != shape:
            raise DataError(f"{file}: is damaged: {name} has the shape {h5[name].shape}, not {shape}")
    if not 0 <= int(h5[WRITTEN][()]) <= room:
        raise DataError(f"{file}: is damaged: it says {int(h5[WRITTEN][()])} frames and has room for {room}")


def frame_shape(name: str, n_atoms: int) -> tuple[int, ...]:
    """Shape of one frame of a series."""
    return tuple(n_atoms if length == "N" else int(length) for length in SERIES[name][1])


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The HDF5 file, open for reading; whatever HDF5 says of a damaged one becomes a DataError."""
    if not path.is_file():
        raise DataError(f"{path}: is not a file" if path.exists() else f"{path}: no such file")
    try:
        h5 = h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path}: cannot be read: {reason(error)}") from None
        why = "it is cut short" if "truncated" in str(error) else "not an HDF5 file"
        raise DataError(f"{path}: is not a trajectory of les-plugins md, or a damaged one: {why}") from None
    with h5:
        try:
            yield h5
        except LesPluginsError:
            raise
        except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: is damaged: {reason(error)}") from None
