"""Constraints of the start: kept in the trajectory, obeyed by its velocities, counted off the degrees of freedom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixCom, FixedPlane
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, Trajectory, run
from les_plugins.errors import ConfigError


def simulate(output: Path, start: Atoms, resume: bool = False, **settings: Any) -> Trajectory:
    chosen = Settings.of(**{"temperature": 300.0, "timestep": 0.5, "steps": 40, "every": 4} | settings)
    run(Toy(), start, output, chosen, {"model": "toy"}, resume=resume, save_every=0.0)
    return Trajectory.open(output)


@pytest.mark.parametrize(
    "constraint",
    [FixAtoms([0]), FixCartesian(1, (True, False, True)), FixBondLengths([[0, 1]]), FixedPlane(0, (0, 0, 1))],
    ids=lambda constraint: type(constraint).__name__,
)
def test_constraints_of_the_start_come_back_from_the_trajectory(tmp_path: Path, constraint: Any) -> None:
    start = molecule(1, periodic=True)
    start.set_constraint(constraint)
    found = simulate(tmp_path / "first.h5", start, steps=20)
    (again,) = found.atoms().constraints
    assert again.todict() == constraint.todict()
    assert found.degrees_of_freedom == start.get_number_of_degrees_of_freedom()
    whole = simulate(tmp_path / "whole.h5", start)
    second = simulate(tmp_path / "second.h5", found.atoms(), steps=20)
    np.testing.assert_allclose(second["positions"], whole["positions"][5:], atol=1e-8)
    free = molecule(1, periodic=True)
    with pytest.raises(ConfigError, match="constraints of the start are others than before"):
        simulate(tmp_path / "first.h5", free, resume=True)


def test_constraints_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    class Mine(FixAtoms):
        def todict(self) -> Any:
            raise NotImplementedError

    start = molecule(1, periodic=True)
    start.set_constraint(Mine([0]))
    with pytest.raises(ConfigError, match="has the constraint Mine, which ASE cannot write down"):
        simulate(tmp_path / "md.h5", start)
    assert list(tmp_path.iterdir()) == []


def test_kept_velocities_obey_constraints_and_count_in_the_first_temperature(tmp_path: Path) -> None:
    start = molecule(1, periodic=True)
    start.set_velocities(np.full((3, 3), 0.01) / units.fs)
    start.set_constraint(FixAtoms([0]))
    found = simulate(tmp_path / "md.h5", start, velocities="keep")
    np.testing.assert_allclose(found["velocities"][0], [[0.0] * 3, [0.01] * 3, [0.01] * 3], rtol=1e-12)
    kinetic = 0.5 * 2 * start.get_masses()[1] * 3e-4 / units.fs**2
    assert found["temperature"][0] == pytest.approx(2 * kinetic / (6 * units.kB), rel=1e-12)


@pytest.mark.parametrize(
    "second", [FixAtoms([0, 1]), FixCartesian([0], (True, False, False)), FixCom()], ids=lambda one: type(one).__name__
)
def test_an_atom_that_two_constraints_hold_is_named(tmp_path: Path, second: Any) -> None:
    """ASE counts its degrees of freedom off twice, and the temperature is wrong by that."""
    start = molecule(1, periodic=True)
    start.set_constraint([FixAtoms([0]), second])
    settings = Settings.of(temperature=300.0, steps=2)
    with pytest.raises(ConfigError, match=f"the constraints FixAtoms and {type(second).__name__} on atom 0"):
        run(Toy(), start, tmp_path / "twice.h5", settings)


def test_one_atom_may_be_held_along_each_axis_by_its_own_constraint(tmp_path: Path) -> None:
    start = molecule(1, periodic=True, formula="OHHOHH")
    start.set_constraint([FixCartesian([0], (True, False, False)), FixCartesian([0], (False, True, False))])
    run(Toy(), start, tmp_path / "axes.h5", Settings.of(temperature=300.0, steps=2, every=1))
    found = Trajectory.open(tmp_path / "axes.h5")
    assert found.degrees_of_freedom == 16
    assert found["temperature"][0] == pytest.approx(300.0)
