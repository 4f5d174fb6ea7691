"""How an HDF5 file stores what it says it holds: nothing that lies elsewhere, unfolds, or is larger than the file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from les_plugins.errors import DataError, quoted

#: Relative difference of intervals that is rounding.
_SAME_INTERVAL = 1e-4


def check_storage(h5: Any, file: Path) -> None:
    """Look at every member of a trajectory's file before any is read.

    Args:
        h5: the open file.
        file: its path, for messages.

    Raises:
        DataError: a link to another file, data in another file, data that are compressed or not there (trajectories
            are contiguous, so that a few bytes cannot stand for terabytes), or no array of numbers.
    """
    size = file.stat().st_size
    for name in h5:
        where = f"{file}: {quoted(name)}"
        if not isinstance(h5.get(name, getlink=True), h5py.HardLink):
            raise DataError(f"{where} is a link, which is not followed; a trajectory holds its own data")
        dataset = h5[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "biuf" or dataset.shape is None:
            raise DataError(f"{where} is no array of numbers")
        if dataset.external is not None or dataset.is_virtual:
            raise DataError(f"{where} has its data in other files, which are not opened")
        if dataset.chunks is not None:
            raise DataError(f"{where} is stored in chunks; a trajectory of les-plugins md is contiguous")
        if math.prod(dataset.shape) * dataset.dtype.itemsize > min(dataset.id.get_storage_size(), size):
            raise DataError(f"{where} has the shape {dataset.shape}, which the file has no data for")


def check_values(trajectory: Any) -> None:
    """Refuse atoms, times and settings of an opened trajectory that no run has.

    Raises:
        DataError: names the file and what is wrong.
    """
    where, settings = trajectory.path, trajectory.settings
    if not isinstance(settings, Mapping) or not isinstance(trajectory.facts, Mapping):
        raise DataError(f"{where}: is damaged: settings and facts must be JSON objects")
    for key in ("timestep", "every"):
        value = settings.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1e9:
            raise DataError(f"{where}: is damaged: {key} of its settings is {quoted(value)}")
    numbers = trajectory.numbers
    if (
        numbers.ndim != 1
        or not len(numbers)
        or numbers.dtype.kind not in "iu"
        or not ((numbers > 0) & (numbers < 119)).all()
    ):
        raise DataError(f"{where}: is damaged: numbers are not atomic numbers, 1 … 118")
    if not (np.isfinite(trajectory.masses) & (trajectory.masses > 0.0)).all():
        raise DataError(f"{where}: is damaged: masses are not above zero")


def check_times(trajectory: Any) -> None:
    """Refuse a trajectory whose frames do not stand as far apart as its settings say: one is missing, or comes twice.

    Raises:
        DataError: names the file, the frame and both intervals.
    """
    steps, interval = np.diff(trajectory["time"]), trajectory.interval
    wrong = ~(np.abs(steps - interval) <= _SAME_INTERVAL * interval)
    if wrong.any():
        frame = int(np.argmax(wrong))
        raise DataError(
            f"{trajectory.path}: time of frame {frame + 1} is {steps[frame]:.6g} fs after that of frame {frame}, and "
            f"timestep × every of its settings is {interval:.6g} fs: frames are missing or come twice, or the settings "
            "are those of another run"
        )
