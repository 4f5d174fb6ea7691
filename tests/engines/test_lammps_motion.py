"""Velocities, temperature and currents that a run on ranks records: those that LAMMPS has when a step is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from motion_on_ranks import MOTIONS, STEPS, bonded
from test_lammps_ranks import LAMMPS_UNITS, TOTAL_CHARGE, mpirun
from tiny_domains import SECTIONS, TinyDomain, Whole, water

from les_plugins.data.trajectory import Trajectory
from les_plugins.model.physical import born_results

#: Of LAMMPS' units, Å/ps, to the file's.
ROUNDING = 1e-14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("motion")


@pytest.fixture(scope="module")
def sizes(folder: Path) -> dict[int, dict[str, Any]]:
    """What one and two ranks found."""
    found = {}
    for size in (1, 2):
        done = mpirun(size, folder, script="motion_on_ranks.py")
        assert done.returncode == 0, done.stderr
        with np.load(folder / f"{size}.npz") as file:
            found[size] = dict(file)
    return found


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", MOTIONS)
def test_velocities_and_temperature_are_those_of_lammps(
    name: str, size: int, sizes: dict[int, dict[str, Any]], folder: Path
) -> None:
    trajectory, of_lammps = Trajectory.open(folder / f"{name}-{size}.h5"), sizes[size]
    assert trajectory.frames == STEPS + 1
    for step in (0, STEPS - 1, STEPS):
        velocities = of_lammps[f"{name}/{step}/v"]
        np.testing.assert_allclose(trajectory["velocities"][step], velocities, rtol=0, atol=ROUNDING)
        temperature, kinetic = (float(of_lammps[f"{name}/{step}/{key}"]) for key in ("temp", "ke"))
        assert trajectory["temperature"][step] == pytest.approx(temperature, rel=1e-10)
        assert trajectory["kinetic_energy"][step] == pytest.approx(kinetic, rel=LAMMPS_UNITS)
    assert np.abs(trajectory["velocities"][-1] - trajectory["velocities"][0]).max() > 1e-5


@pytest.mark.parametrize("name", MOTIONS)
def test_currents_are_those_of_the_velocities_at_the_end_of_the_step(
    name: str, sizes: dict[int, dict[str, Any]], folder: Path
) -> None:
    trajectory = Trajectory.open(folder / f"{name}-2.h5")
    for step in (0, STEPS):
        atoms = trajectory.atoms(step)
        velocities = sizes[2][f"{name}/{step}/v"]
        born = born_results(Whole(TinyDomain(SECTIONS["given"]), atoms, TOTAL_CHARGE).structure)
        born = born - born.mean(0) + TOTAL_CHARGE / len(atoms) * np.eye(3)
        expected = np.einsum("nab,nb->a", born, velocities)
        np.testing.assert_allclose(trajectory["current"][step], expected, rtol=0, atol=1e-12)  # some 1e-2 e·Å/fs


@pytest.mark.parametrize("name", [name for name in MOTIONS if name != "langevin"])  # random numbers of each rank
def test_one_and_two_ranks_record_the_same(name: str, sizes: dict[int, dict[str, Any]], folder: Path) -> None:
    one, two = (Trajectory.open(folder / f"{name}-{size}.h5") for size in (1, 2))
    assert one.degrees_of_freedom == two.degrees_of_freedom
    for series in ("velocities", "current", "temperature", "dipole", "positions"):
        # velocities are added up over ranks in another order, and the motion follows
        np.testing.assert_allclose(two[series], one[series], rtol=1e-9, atol=1e-9, err_msg=series)


def test_degrees_of_freedom_are_those_that_lammps_counts(sizes: dict[int, dict[str, Any]], folder: Path) -> None:
    free = 3 * len(water()) - 3
    assert Trajectory.open(folder / "nve-2.h5").degrees_of_freedom == free
    shaken = Trajectory.open(folder / "shake-2.h5")
    assert shaken.degrees_of_freedom == free - 1
    one, other, length = bonded()
    last = shaken.atoms(STEPS)
    assert last.get_distance(one, other, mic=True) == pytest.approx(length, abs=1e-6)  # of 1e-8 that shake was given
    kinetic = shaken["kinetic_energy"][STEPS]
    assert shaken["temperature"][STEPS] == pytest.approx(2.0 * kinetic / ((free - 1) * units.kB), rel=1e-5)


def test_frozen_atoms_have_no_velocity(sizes: dict[int, dict[str, Any]], folder: Path) -> None:
    trajectory = Trajectory.open(folder / "frozen-2.h5")
    np.testing.assert_array_equal(trajectory["velocities"][:, 12:], 0.0)
    assert np.abs(trajectory["velocities"][:, :12]).min() > 0.0
    np.testing.assert_allclose(trajectory["positions"][-1][12:], trajectory["positions"][0][12:], atol=1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_a_rerun_has_what_the_run_had(size: int, sizes: dict[int, dict[str, Any]], folder: Path) -> None:
    ran, again = (Trajectory.open(folder / f"{name}-{size}.h5") for name in ("run", "rerun"))
    assert again.frames == ran.frames == STEPS + 1
    np.testing.assert_allclose(again["velocities"], ran["velocities"], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(again["current"], ran["current"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(again["temperature"], ran["temperature"], rtol=1e-10)


@pytest.mark.parametrize("size", [1, 2])
def test_minimizations_are_not_recorded(size: int, sizes: dict[int, dict[str, Any]], folder: Path) -> None:
    first = int(sizes[size]["minimized"])
    assert first > 0
    found = Trajectory.open(folder / f"minimized-{size}.h5")
    np.testing.assert_allclose(found["time"], 0.5 * (first + np.arange(3)), rtol=1e-12)
    total = found["conserved_energy"]
    assert np.ptp(total) < 0.02 * np.ptp(found["potential_energy"]) + 1e-6  # Verlet's error


@pytest.mark.parametrize("size", [1, 2])
def test_frames_begin_with_velocities_that_were_made_last(
    size: int, sizes: dict[int, dict[str, Any]], folder: Path
) -> None:
    found = Trajectory.open(folder / f"new-{size}.h5")
    np.testing.assert_allclose(found["time"], [0.5, 1.0], rtol=1e-12)
    np.testing.assert_allclose(found["velocities"][0], sizes[size]["new/v"], rtol=0, atol=ROUNDING)
