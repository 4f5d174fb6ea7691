"""A simulation with a committee: what it records, when it warns, where it stops and how it goes on."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from charged_toys import ChargedToy
from toy_calculator import Toy

from les_plugins.committee import Committee
from les_plugins.dynamics import Settings, Trajectory, run
from les_plugins.dynamics.watch import Watch
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsWarning

#: The force of an atom at distance r differs by this times r, eV/Å².
STD = float(np.std([0.2, 0.4], ddof=1))
STEPS = Settings.of(timestep=1.0, steps=40, every=2)


def committee() -> Committee:
    return Committee([Toy(spring=0.2), Toy(spring=0.4)])


def leaving() -> Atoms:
    """Two atoms that fly away from the origin: their springs are too soft to hold them for the length of the run."""
    atoms = Atoms("OH", [[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    atoms.set_velocities([[0.3, 0.0, 0.0], [-0.3, 0.0, 0.0]])
    return atoms


def test_spread_is_recorded_with_every_frame(tmp_path: Path) -> None:
    run(committee(), leaving(), tmp_path / "md.h5", STEPS, watch=Watch(warn_above=100.0))
    found = Trajectory.open(tmp_path / "md.h5")
    farthest = np.linalg.norm(found["positions"], axis=2).max(1)
    np.testing.assert_allclose(found["largest_forces_std"], STD * farthest, rtol=1e-12)
    squares = 0.5 * (found["positions"] ** 2).sum((1, 2))
    np.testing.assert_allclose(found["energy_std"], STD * squares, rtol=1e-12)


def test_one_warning_where_the_members_differ(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(committee(), leaving(), tmp_path / "md.h5", STEPS, watch=Watch(warn_above=0.1))
    assert [each.category for each in caught].count(LesPluginsWarning) == 1


def test_run_stops_at_the_first_step_above_and_goes_on_above_it(tmp_path: Path) -> None:
    limit, output = 0.15, tmp_path / "md.h5"
    reference = tmp_path / "reference.h5"
    run(committee(), leaving(), reference, Settings.of(timestep=1.0, steps=40, every=1), watch=Watch(100.0))
    above = int(np.argmax(Trajectory.open(reference)["largest_forces_std"] > limit))
    with pytest.raises(DataError, match=f"step {above}:"):
        run(committee(), leaving(), output, STEPS, watch=Watch(100.0, limit))
    assert Trajectory.open(output).frames == above // 2 + 1
    last = ase.io.read(tmp_path / "md-stopped.xyz")
    # the file has eight decimals
    np.testing.assert_allclose(last.positions, Trajectory.open(reference)["positions"][above], atol=1e-8)
    np.testing.assert_allclose(last.arrays["forces_std"], STD * np.abs(last.positions), atol=1e-8)
    run(committee(), leaving(), output, STEPS, resume=True, watch=Watch(100.0))
    whole = Trajectory.open(reference)["positions"][::2]
    # the state of the last step is kept to the last bit
    np.testing.assert_allclose(Trajectory.open(output)["positions"], whole, rtol=1e-13)


def test_the_start_is_looked_at_too(tmp_path: Path) -> None:
    output, start = tmp_path / "md.h5", leaving()
    with pytest.raises(DataError, match=f"step 0: .* differ by {STD * 0.5:.3g} eV"):
        run(committee(), start, output, STEPS, watch=Watch(100.0, 0.99 * STD * 0.5))
    assert Trajectory.open(output).frames == 1
    np.testing.assert_allclose(ase.io.read(tmp_path / "md-stopped.xyz").positions, start.positions, atol=1e-8)
    with pytest.raises(DataError, match="step 0:"):  # as long as the threshold is the same
        run(committee(), start, output, STEPS, resume=True, watch=Watch(100.0, 0.99 * STD * 0.5))
    assert run(committee(), start, output, STEPS, resume=True, watch=Watch(100.0)).frames == 21


def test_the_structure_that_a_run_stopped_at_has_its_total_charge(tmp_path: Path) -> None:
    committee = Committee([ChargedToy(spring=0.2), ChargedToy(spring=0.4)])
    start, settings = leaving(), Settings.of(timestep=1.0, steps=40, every=2, current=False)
    for number, (brought, own) in enumerate(((-1, None), (None, 0.5))):
        committee.total_charge = own
        start.info = {} if brought is None else {"charge": brought}
        with pytest.raises(DataError, match=r"stopped\.xyz"):
            run(committee, start, tmp_path / f"{number}.h5", settings, watch=Watch(100.0, 0.15))
        last = ase.io.read(tmp_path / f"{number}-stopped.xyz")
        assert last.info["charge"] == (own if brought is None else brought)


def test_only_committees_are_watched(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no committee"):
        run(Toy(), leaving(), tmp_path / "md.h5", STEPS, watch=Watch(stop_above=1.0))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_thresholds_are_above_zero(value: float) -> None:
    with pytest.raises(ConfigError, match="--stop-above"):
        Watch(stop_above=value)
    with pytest.raises(ConfigError, match="--warn-above"):
        Watch(warn_above=value)
