"""Molecular dynamics: what is recorded, what is conserved, and that a killed run goes on as if it had not been."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from toy_calculator import CHARGES, Toy, molecule

from les_plugins.dynamics import Settings, Trajectory, run
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError

NVT = {"ensemble": "nvt", "temperature": 300.0, "thermostat_time": 20.0}
#: The ensembles whose continuation must be exact, thermostats with their noise among them.
ENSEMBLES = pytest.mark.parametrize(
    "chosen",
    [
        {"ensemble": "nve", "temperature": 300.0},
        {**NVT, "thermostat": "bussi"},
        {**NVT, "thermostat": "langevin"},
        {"ensemble": "npt", "temperature": 300.0, "pressure": 1.0},
    ],
    ids=["nve", "bussi", "langevin", "npt"],
)


def simulate(output: Path, start: Atoms | None = None, resume: bool = False, **settings: Any) -> Trajectory:
    chosen = Settings.of(**{"temperature": 300.0, "timestep": 0.5, "steps": 40, "every": 4} | settings)
    run(Toy(), start or molecule(1, periodic=True), output, chosen, {"model": "toy"}, resume=resume, save_every=0.0)
    return Trajectory.open(output)


def test_frames_are_recorded_at_the_stride_with_the_start_among_them(tmp_path: Path) -> None:
    found = simulate(tmp_path / "md.h5", steps=42)
    assert found.frames == 11
    np.testing.assert_allclose(found["time"], 2.0 * np.arange(11))
    assert found.interval == 2.0
    assert set(found.names) >= {"positions", "velocities", "current", "dipole", "polarizability", "cell"}
    described = json.loads((tmp_path / "md.h5.json").read_text())
    assert described["settings"]["seed"] == 0
    assert described["facts"] == {"model": "toy"}


def test_the_current_is_the_derivative_of_the_dipole(tmp_path: Path) -> None:
    found = simulate(tmp_path / "md.h5", steps=60, every=1, timestep=0.1, sum_rule=False)
    dipole, current = found["dipole"], found["current"]
    slope = (dipole[2:] - dipole[:-2]) / (2.0 * found.interval)
    # the third derivative of a 25 fs oscillation, times interval²/6
    np.testing.assert_allclose(current[1:-1], slope, atol=2e-4 * np.abs(current).max())


def test_the_sum_rule_takes_the_mean_charge_from_every_atom(tmp_path: Path) -> None:
    start = molecule(1, formula="OHHH", periodic=True)
    charges = np.array([CHARGES[z] for z in start.numbers])
    found = simulate(tmp_path / "md.h5", start)
    expected = np.einsum("n,tna->ta", charges - charges.mean(), found["velocities"])
    np.testing.assert_allclose(found["current"], expected, atol=1e-14)


@ENSEMBLES
def test_a_continued_run_has_the_frames_of_an_uninterrupted_one(tmp_path: Path, chosen: dict[str, Any]) -> None:
    whole = simulate(tmp_path / "whole.h5", **chosen)
    simulate(tmp_path / "parts.h5", **chosen, steps=12)
    simulate(tmp_path / "parts.h5", **chosen, steps=27, resume=True)
    parts = simulate(tmp_path / "parts.h5", **chosen, resume=True)
    assert parts.frames == whole.frames == 11
    for name in whole.names:
        np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)


class Slow(Toy):
    """Slow enough to be killed on the way."""

    def calculate(self, *arguments: Any, **named: Any) -> None:
        time.sleep(0.002)
        super().calculate(*arguments, **named)


def _start_and_kill(output: Path, settings: Settings, after: int) -> bool:
    """Run in a process of its own until a step beyond `after` is saved; whether it was still running when killed."""
    child = os.fork()  # a fresh interpreter would import torch for longer than the test takes
    if child == 0:
        run(Slow(), molecule(1, periodic=True), output, settings, {"model": "toy"}, resume=True, save_every=0.0)
        os._exit(0)
    deadline = time.monotonic() + 60
    while _saved_step(output) <= after and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_run_killed_again_and_again_loses_and_repeats_no_frame(tmp_path: Path) -> None:
    output = tmp_path / "killed.h5"
    settings = Settings.of(temperature=300.0, steps=400, every=2)
    states = []
    for after in (0, 60, 150):
        assert _start_and_kill(output, settings, after)
        states.append(_saved_step(output))
    assert 0 < states[0] < states[1] < states[2] < 400  # each sitting went on from the one before
    again = simulate(output, steps=400, every=2, resume=True)
    whole = simulate(tmp_path / "whole.h5", steps=400, every=2)
    np.testing.assert_array_equal(again["time"], np.arange(201.0))
    for name in whole.names:
        np.testing.assert_array_equal(again[name], whole[name], err_msg=name)


def _saved_step(output: Path) -> int:
    try:
        with np.load(output.with_name(f"{output.name}.restart.npz")) as state:
            return int(state["step"])
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize(
    ("chosen", "conserved"),
    [({"ensemble": "nve"}, 2e-4), ({**NVT, "thermostat": "bussi"}, 2e-4)],
    ids=["nve", "bussi"],
)
def test_what_should_be_conserved_is(tmp_path: Path, chosen: dict[str, Any], conserved: float) -> None:
    found = simulate(tmp_path / "md.h5", steps=400, timestep=0.2, **chosen)
    energy = found["conserved_energy"]
    assert np.ptp(found["potential_energy"]) > 0.01
    assert np.ptp(energy) < conserved


def test_velocity_verlet_errors_fall_with_the_square_of_the_step(tmp_path: Path) -> None:
    ranges = [
        np.ptp(simulate(tmp_path / f"{n}.h5", steps=100 * n, every=n, timestep=1.0 / n)["conserved_energy"])
        for n in (1, 2)
    ]
    assert ranges[0] / ranges[1] == pytest.approx(4.0, rel=0.3)


def test_the_start_has_exactly_the_temperature_and_no_motion_of_the_centre(tmp_path: Path) -> None:
    found = simulate(tmp_path / "md.h5")
    assert found["temperature"][0] == pytest.approx(300.0)
    assert found.degrees_of_freedom == 6
    momentum = np.einsum("n,tna->ta", found.masses, found["velocities"])
    assert np.abs(momentum).max() < 1e-12
    twin = simulate(tmp_path / "twin.h5")
    np.testing.assert_array_equal(twin["velocities"][0], found["velocities"][0])
    other = simulate(tmp_path / "other.h5", seed=7)
    assert np.abs(other["velocities"][0] - found["velocities"][0]).max() > 1e-4


@pytest.mark.parametrize("thermostat", ["bussi", "langevin"])
def test_thermostats_sample_their_temperature(tmp_path: Path, thermostat: str) -> None:
    start = molecule(3, formula="OHH" * 30, periodic=True)
    start.positions *= np.sqrt(units.kB * 500.0 / 0.3)  # in equilibrium with the springs from the start
    found = simulate(
        tmp_path / "md.h5", start, **{**NVT, "temperature": 500.0}, thermostat=thermostat, steps=800, current=False
    )
    late = found["temperature"][40:]
    # 267 degrees of freedom: one frame scatters by sqrt(2/267) = 9 %, and some ten of them are independent
    assert late.mean() == pytest.approx(500.0, rel=0.1)
    assert np.abs(found["velocities"]).mean() > 0


def test_velocities_of_the_start_are_kept_and_a_trajectory_can_be_a_start(tmp_path: Path) -> None:
    first = simulate(tmp_path / "first.h5", steps=20)
    second = simulate(tmp_path / "second.h5", first.atoms(), steps=20)
    whole = simulate(tmp_path / "whole.h5", steps=40)
    for name in ("positions", "velocities", "current"):
        np.testing.assert_allclose(second[name], whole[name][5:], rtol=1e-9, atol=1e-12)


def test_the_volume_moves_in_npt(tmp_path: Path) -> None:
    start = molecule(3, formula="OHH" * 4, periodic=True)
    found = simulate(
        tmp_path / "npt.h5", start, ensemble="npt", pressure=1.0, steps=300, timestep=0.2, barostat_time=50.0
    )
    volume = np.linalg.det(found["cell"])
    assert np.ptp(volume) > 1e-3
    assert found.degrees_of_freedom == 33


def test_npt_conserves_its_enthalpy_like_quantity(tmp_path: Path) -> None:
    argon = bulk("Ar", "fcc", a=5.4, cubic=True).repeat(2)
    calculator = LennardJones(epsilon=0.0104, sigma=3.4, rc=5.2, ro=4.0, smooth=True)
    settings = Settings.of(
        ensemble="npt",
        temperature=60.0,
        pressure=100.0,
        timestep=2.0,
        steps=120,
        thermostat_time=100.0,
        barostat_time=200.0,
        current=False,
    )
    run(calculator, argon, tmp_path / "npt.h5", settings)
    found = Trajectory.open(tmp_path / "npt.h5")
    assert np.ptp(np.linalg.det(found["cell"])) > 1.0
    total = found["potential_energy"] + found["kinetic_energy"]
    assert np.ptp(found["conserved_energy"]) < 0.02 * np.ptp(total)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"ensemble": "nph"}, r"ensemble is 'nph'.*'nve', 'nvt' or 'npt'"),
        ({"ensemble": "nvt", "thermostat": "nose"}, r"thermostat is 'nose'.*'bussi' or 'langevin'"),
        ({"thermostat": "bussi"}, "thermostats are for nvt"),
        ({"temperature": -10.0}, r"temperature is -10\.0.*greater than or equal to 0"),
        ({"ensemble": "nvt", "temperature": None}, "nvt needs a temperature above 0 K"),
        ({"ensemble": "npt"}, "npt needs a pressure in bar"),
        ({"pressure": 1.0}, "a pressure is for npt"),
        ({"timestep": 0.0}, "timestep is 0.0"),
        ({"every": 0}, "every is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"velocities": "draw", "temperature": None}, "draw needs a temperature"),
    ],
)
def test_impossible_settings_raise_an_error(tmp_path: Path, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(tmp_path / "md.h5", **chosen)
    assert list(tmp_path.iterdir()) == []


def test_npt_without_periodic_directions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="a pressure needs three periodic directions"):
        simulate(tmp_path / "md.h5", molecule(1), ensemble="npt", pressure=1.0)


def test_a_start_without_velocities_needs_a_temperature(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the start has no velocities: give --temperature"):
        simulate(tmp_path / "md.h5", temperature=None)
    with pytest.raises(ConfigError, match="velocities keep: the start has no velocities"):
        simulate(tmp_path / "md.h5", velocities="keep")


def test_an_output_is_never_overwritten(tmp_path: Path) -> None:
    simulate(tmp_path / "md.h5")
    with pytest.raises(DataError, match=r"md\.h5: exists; go on with it with --resume"):
        simulate(tmp_path / "md.h5")
    (tmp_path / "theirs.h5").write_text("a file of the user's")
    with pytest.raises(DataError, match=r"theirs\.h5: is not a trajectory .*not an HDF5 file"):
        simulate(tmp_path / "theirs.h5", resume=True)
    assert (tmp_path / "theirs.h5").read_text() == "a file of the user's"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"timestep": 1.0}, r"timestep was 0\.5 and is 1\.0"),
        ({"seed": 5}, "seed was 0 and is 5"),
        ({"steps": 8}, "has run 40 steps; --steps 8 is less"),
    ],
)
def test_resuming_with_other_settings_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    simulate(tmp_path / "md.h5")
    with pytest.raises(ConfigError, match=message):
        simulate(tmp_path / "md.h5", resume=True, **changed)


def test_resuming_with_another_model_is_refused(tmp_path: Path) -> None:
    simulate(tmp_path / "md.h5")
    settings = Settings.of(temperature=300.0, steps=40)
    with pytest.raises(ConfigError, match="model was 'toy' and is 'other'"):
        run(Toy(), molecule(1, periodic=True), tmp_path / "md.h5", settings, {"model": "other"}, resume=True)


def test_a_model_of_another_name_is_the_same_model(tmp_path: Path) -> None:
    """Its weights tell it from others; its folder may have been renamed."""
    for name, steps in (("one.les", 20), ("two.les", 40)):
        settings = Settings.of(temperature=300.0, steps=steps)
        facts = {"model_weights_sha256": "0" * 64, "model_name": name}
        run(Toy(), molecule(1, periodic=True), tmp_path / "md.h5", settings, facts, resume=steps > 20)
    found = Trajectory.open(tmp_path / "md.h5")
    assert (found.frames, found.facts["model_name"]) == (11, "one.les")  # every fourth step


@pytest.mark.parametrize(("before", "after"), [(None, "float64"), ("float64", None), ("float32", "float64")])
def test_resuming_in_another_precision_is_refused(tmp_path: Path, before: str | None, after: str | None) -> None:
    def facts(dtype: str | None) -> dict[str, str]:
        return {"model": "toy", **({} if dtype is None else {"dtype": dtype})}

    settings, start = Settings.of(temperature=300.0, steps=4), molecule(1, periodic=True)
    run(Toy(), start, tmp_path / "md.h5", settings, facts(before))
    with pytest.raises(ConfigError, match=f"dtype was {before!r} and is {after!r}"):
        run(Toy(), start, tmp_path / "md.h5", settings, facts(after), resume=True)


def test_a_model_without_born_charges_has_no_current(tmp_path: Path) -> None:
    class ShortRange(Toy):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

    start = molecule(1)
    with pytest.raises(HostError, match="use --no-current"):
        run(ShortRange(), start, tmp_path / "md.h5", Settings.of(temperature=10.0, steps=4))
    run(ShortRange(), start, tmp_path / "md.h5", Settings.of(temperature=10.0, steps=4, current=False))
    found = Trajectory.open(tmp_path / "md.h5")
    assert "current" not in found.names
    with pytest.raises(DataError, match="has no current; it has: time"):
        found["current"]


def test_a_simulation_that_comes_apart_is_stopped_in_words(tmp_path: Path) -> None:
    settings = Settings.of(temperature=300.0, timestep=10.0)
    with pytest.raises(DataError, match=r"step \d+: the simulation came apart .* try a shorter --timestep"):
        run(Toy(spring=500.0), molecule(1), tmp_path / "md.h5", settings)


def test_a_file_that_is_no_trajectory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.h5").write_text("no HDF5")
    with pytest.raises(DataError, match="not an HDF5 file"):
        Trajectory.open(tmp_path / "other.h5")
    with pytest.raises(DataError, match="no such file"):
        Trajectory.open(tmp_path / "none.h5")


def test_two_runs_never_write_to_one_file_and_readers_may_look(tmp_path: Path) -> None:
    output = tmp_path / "md.h5"
    simulate(output, steps=20)
    with output.open("rb") as another:
        fcntl.flock(another, fcntl.LOCK_EX)  # as HDF5 does in a process that writes
        assert Trajectory.open(output).frames == 6
        with pytest.raises(DataError, match=r"md\.h5: another run is writing to it"):
            simulate(output, steps=40, resume=True)
    assert simulate(output, steps=40, resume=True).frames == 11


def test_velocities_are_in_angstrom_per_femtosecond(tmp_path: Path) -> None:
    found = simulate(tmp_path / "md.h5", steps=20, every=1, timestep=0.05)
    slope = (found["positions"][2:] - found["positions"][:-2]) / (2.0 * found.interval)
    np.testing.assert_allclose(slope, found["velocities"][1:-1], rtol=1e-3, atol=1e-6)
    kinetic = 0.5 * np.einsum("n,tna->t", found.masses, (found["velocities"] / units.fs) ** 2)
    np.testing.assert_allclose(kinetic, found["kinetic_energy"])
