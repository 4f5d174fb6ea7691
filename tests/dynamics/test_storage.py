"""Trajectory files that somebody else made: links, data elsewhere, and shapes of terabytes are not followed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms

from les_plugins.data.trajectory import ALWAYS, Trajectory
from les_plugins.dynamics.writer import Writer
from les_plugins.errors import DataError
from les_plugins.spectra.samples import Samples

SETTINGS = {"timestep": 0.5, "every": 2}


@pytest.fixture
def trajectory(tmp_path: Path) -> Path:
    atoms = Atoms("OH2", np.arange(9.0).reshape(3, 3), cell=[9.0, 9.0, 9.0], pbc=True)
    path = tmp_path / "md.h5"
    writer = Writer.create(path, atoms, 4, ALWAYS, SETTINGS, {"model": "toy"}, degrees_of_freedom=6)
    for index in range(4):
        writer.write(index, {"time": float(index), "positions": atoms.positions, "cell": atoms.cell.array})
    writer.commit(4)
    writer.close()
    return path


def _replace(h5: Any, name: str, *args: Any, **kwargs: Any) -> None:
    del h5[name]
    h5.create_dataset(name, *args, **kwargs)


def _chunks(h5: Any) -> None:
    _replace(h5, "time", (10**12,), "f8", chunks=(10**6,), compression="gzip")


def _external_link(h5: Any) -> None:
    del h5["positions"]
    h5["positions"] = h5py.ExternalLink("secret.h5", "/positions")


def _soft_link(h5: Any) -> None:
    del h5["velocities"]
    h5["velocities"] = h5py.SoftLink("/positions")


def _external_data(h5: Any) -> None:
    _replace(h5, "time", (4,), "f8", external=[("/etc/passwd", 0, 32)])


def _virtual(h5: Any) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("secret.h5", "time", shape=(4,))
    del h5["time"]
    h5.create_virtual_dataset("time", layout)


def _attribute(name: str, value: Any) -> Callable[[Any], None]:
    return lambda h5: h5.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_external_link, "'positions' is a link"),
        (_soft_link, "'velocities' is a link"),
        (_external_data, "'time' has its data in other files"),
        (_virtual, "'time' has its data in other files"),
        (_chunks, "'time' is stored in chunks"),
        (lambda h5: _replace(h5, "time", (2**40,), "f8"), "'time' has the shape"),
        (lambda h5: _replace(h5, "numbers", (2**40,), "i8"), "'numbers' has the shape"),
        (lambda h5: h5.create_group("more"), "'more' is no array"),
        (lambda h5: _replace(h5, "time", data=["a", "b", "c", "d"]), "'time' is no array"),
        (lambda h5: _replace(h5, "time", data=np.zeros(4, dtype="c16")), "'time' is no array"),
        (lambda h5: _replace(h5, "numbers", data=np.array([1, 1, 0])), "numbers are not atomic numbers"),
        (lambda h5: _replace(h5, "numbers", data=np.array([1, 1, 2**40])), "numbers are not atomic numbers"),
        (lambda h5: _replace(h5, "numbers", data=np.array([1.0, 1.0, 8.0])), "numbers are not atomic numbers"),
        (lambda h5: _replace(h5, "masses", data=np.array([1.0, np.nan, 16.0])), "masses"),
        (lambda h5: _replace(h5, "written", data=np.int64(10**12)), "frames and has room for 4"),
        (_attribute("settings", "3"), "settings and facts must be JSON objects"),
        (_attribute("settings", "{"), "damaged"),
        (_attribute("settings", "[" * 10_000), "damaged"),
        (_attribute("settings", json.dumps({**SETTINGS, "timestep": 0.0})), "timestep of its settings is 0.0"),
        (_attribute("settings", json.dumps({**SETTINGS, "every": "2"})), "every of its settings is '2'"),
        (_attribute("facts", "null"), "settings and facts must be JSON objects"),
        (_attribute("format_version", "x"), "damaged"),
        (_attribute("degrees_of_freedom", "x"), "damaged"),
    ],
)
def test_a_trajectory_that_is_not_what_it_says_is_refused_by_name(
    trajectory: Path, damage: Callable[[Any], None], named: str
) -> None:
    with h5py.File(trajectory, "r+") as h5:
        damage(h5)
    start = time.monotonic()
    for use in (Trajectory.open, lambda path: Samples.open([path])):
        with pytest.raises(DataError) as caught:
            use(trajectory)
        assert str(caught.value).startswith(str(trajectory))
        assert named in str(caught.value)
    assert time.monotonic() - start < 2.0


def test_a_trajectory_of_ours_is_read(trajectory: Path) -> None:
    assert Trajectory.open(trajectory)["positions"].shape == (4, 3, 3)
