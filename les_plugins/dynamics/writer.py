"""The file of a run: the place of every frame is laid out when it is made, so that a kill harms none. `run` writes it.

Frames are written into their places directly: HDF5 itself has the file open only while it is laid out, so that neither
a kill nor a full disk can leave its own tables half written.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from ase import Atoms

from les_plugins.data.trajectory import (
    FORMAT,
    FORMAT_VERSION,
    SERIES,
    WRITTEN,
    Trajectory,
    check_layout,
    frame_shape,
    reading,
)
from les_plugins.dynamics.lock import lock
from les_plugins.errors import DataError
from les_plugins.io.files import remove, sync_folder, unwritable
from les_plugins.version import __version__

#: Bytes copied at a time when a file is made longer.
_CHUNK = 16 * 2**20


class _Place(NamedTuple):
    """Where a series lies in the file: byte of its first frame, shape and type of one frame, number of frames."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    room: int

    @property
    def frame_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


class Writer:
    """The file of a run, laid out once for all frames, then filled in place.

    Args:
        path: the file, made by `create`.

    A frame counts when `commit` has been called after it; what a killed run left behind the last commit is overwritten.

    Raises:
        DataError: the file is damaged, cannot be written, or another run is writing to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    @classmethod
    def create(
        cls,
        path: Path,
        atoms: Atoms,
        n_frames: int,
        names: tuple[str, ...],
        settings: Mapping[str, Any],
        facts: Mapping[str, Any],
        **attributes: Any,
    ) -> Writer:
        """Lay out a new file; it takes its name when that is done, and never that of another.

        Args:
            path: the file.
            atoms: the start.
            n_frames: frames to make room for.
            names: series.
            settings, facts: of the run.
            **attributes: others of the file: degrees_of_freedom, constraints, run, susceptibility, polarization_source.

        Raises:
            DataError: the file exists or cannot be written, the disk has no room for it.
        """
        attributes |= {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "les_plugins": __version__,
            "settings": json.dumps(dict(settings)),
            "facts": json.dumps(dict(facts)),
        }
        fixed = {"numbers": atoms.numbers, "masses": atoms.get_masses(), "pbc": atoms.pbc}
        partial = _partial(path)
        try:
            _lay_out(partial, attributes, fixed, names, n_frames)
            _take_new_name(partial, path)
            sync_folder(path.parent)
        except OSError as error:
            raise unwritable(path, error) from None
        finally:
            remove(partial)
        return cls(path)

    @property
    def n_frames(self) -> int:
        """Frames that there is room for."""
        return self._places["time"].room

    @property
    def names(self) -> tuple[str, ...]:
        """Series that the file has."""
        return tuple(name for name in SERIES if name in self._places)

    def extend(self, n_frames: int, settings: Mapping[str, Any]) -> None:
        """Make room for more frames of a run with other settings, in a copy that then takes the file's name."""
        partial, room = _partial(self._path), max(n_frames, self.n_frames)
        try:
            with reading(self._path) as old:
                attributes = {**old.attrs, "settings": json.dumps(dict(settings))}
                fixed = {name: old[name][()] for name in ("numbers", "masses", "pbc")}
            _lay_out(partial, attributes, fixed, self.names, room)
            with partial.open("r+b", buffering=0) as copy:
                self._copy_frames(copy, _places(partial))
                os.fsync(copy.fileno())
            os.replace(partial, self._path)
            sync_folder(self._path.parent)
        except OSError as error:
            raise unwritable(self._path, error) from None
        finally:
            remove(partial)
        self.close()
        self._open()

    def write(self, index: int, values: Mapping[str, Any]) -> None:
        """One frame into its place.

        Raises:
            DataError: a value of another shape than the first one, or the disk is full.
        """
        for name, value in values.items():
            self._put(name, index, value)

    def flush(self, durable: bool = True) -> None:
        """Where durable, wait until everything written so far is on the disk itself, which outlives a power cut too."""
        try:
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(self._path, error) from None

    def commit(self, frames: int) -> None:
        """From now on the file has so many frames."""
        self._put(WRITTEN, 0, frames)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = self._path.open("r+b", buffering=0)
        except OSError as error:
            raise unwritable(self._path, error) from None
        try:
            lock(self._file.fileno(), self._path)
            self._places = _places(self._path)
        except BaseException:
            self._file.close()
            raise

    def _put(self, name: str, index: int, value: Any) -> None:
        place = self._places[name]
        data = np.asarray(value, dtype=place.dtype)
        if data.shape != place.shape:
            raise DataError(f"{self._path}: {name} of a frame has the shape {data.shape}; the file has {place.shape}")
        try:
            _write_all(self._file, place.offset + index * place.frame_bytes, data.tobytes())
        except OSError as error:
            raise unwritable(self._path, error) from None

    def _copy_frames(self, copy: Any, places: Mapping[str, _Place]) -> None:
        for name, old in self._places.items():
            new, length = places[name], old.frame_bytes * old.room
            for start in range(0, length, _CHUNK):
                self._file.seek(old.offset + start)
                _write_all(copy, new.offset + start, self._file.read(min(_CHUNK, length - start)))


def is_empty(path: Path) -> bool:
    """Whether a file is a trajectory of ours in which no frame counts yet."""
    try:
        return Trajectory.with_any_frames(path).frames == 0
    except DataError:
        return False


def _write_all(file: Any, offset: int, data: bytes) -> None:
    file.seek(offset)
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _places(path: Path) -> dict[str, _Place]:
    found = {}
    with reading(path) as h5:
        check_layout(h5, path)
        n_atoms = len(h5["numbers"])
        for name in (*SERIES, WRITTEN):
            if name not in h5:
                continue
            series = h5[name]
            shape, room = ((), 1) if name == WRITTEN else (frame_shape(name, n_atoms), series.shape[0])
            offset = series.id.get_offset()
            if offset is None:
                raise DataError(f"{path}: is damaged: {name} has no place in the file")
            found[name] = _Place(int(offset), shape, series.dtype, room)
    return found


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _take_new_name(partial: Path, path: Path) -> None:
    """Rename, but never over a file that is there."""
    if path.exists() or path.is_symlink():
        raise DataError(f"{path}: exists; go on with it with --resume, or choose another output")
    try:
        os.link(partial, path)
    except FileExistsError:
        raise DataError(f"{path}: exists; another run has made it in the meantime") from None
    except OSError:  # a file system without links
        os.replace(partial, path)


def _lay_out(
    path: Path, attributes: Mapping[str, Any], fixed: Mapping[str, Any], names: tuple[str, ...], n_frames: int
) -> None:
    """A file with the place of every series allocated: filling it changes no table that a kill could leave torn."""
    n_atoms = len(fixed["numbers"])
    _check_room(path, 8 * n_frames * sum(math.prod(frame_shape(name, n_atoms)) for name in names), n_frames)
    remove(path)  # a killed run's may have two names, one of them that of the trajectory
    with h5py.File(path, "w", locking=False) as h5:
        h5.attrs.update(attributes)
        for name, value in fixed.items():
            h5.create_dataset(name, data=value)
        h5["masses"].attrs["unit"] = "u"
        h5.create_dataset(WRITTEN, data=np.int64(0))
        for name in names:
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_layout(h5py.h5d.CONTIGUOUS)
            properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple((n_frames, *frame_shape(name, n_atoms)))
            h5py.h5d.create(h5.id, name.encode(), h5py.h5t.IEEE_F64LE, space, dcpl=properties)
            h5[name].attrs["unit"] = SERIES[name][0]
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _check_room(path: Path, size: int, n_frames: int) -> None:
    """Raise DataError where the disk has less room than the frames will take."""
    try:
        usage = shutil.disk_usage(path.parent)
    except OSError:
        return
    if usage.total and usage.free < size:
        raise DataError(
            f"{path.with_name(path.name[1 : -len('.partial')])}: cannot be written: its {n_frames} frames take "
            f"{size / 1e6:.3g} MB and the disk has {usage.free / 1e6:.3g} MB left; record fewer (--steps, --every) or "
            "choose another place"
        )
