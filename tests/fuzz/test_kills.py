"""`md` killed at everything that it does to files, again and again: no frame is lost, repeated or another number."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from killing import FAILED, FINISHED, HUNG, KILLED, sitting  # isort: skip
from torch import nn
from toy_calculator import Toy, molecule
from toy_host import ToyHost

import les_plugins
from les_plugins import api
from les_plugins.dynamics import Settings, Trajectory, run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]

ENSEMBLES: dict[str, dict[str, Any]] = {
    "nve": {"ensemble": "nve", "temperature": 300.0},
    "bussi": {"ensemble": "nvt", "thermostat": "bussi", "temperature": 300.0, "thermostat_time": 20.0},
    "langevin": {"ensemble": "nvt", "thermostat": "langevin", "temperature": 300.0, "thermostat_time": 20.0},
    "npt": {"ensemble": "npt", "temperature": 300.0, "pressure": 1.0},
}
#: A run of six steps, asked for in sittings of growing length; the last state of one of them lies beyond a frame.
LENGTHS, EVERY = (2, 5, 6), 2
KILLS = 300


def simulate(output: Path, ensemble: str, steps: int, save_every: float = 0.0) -> None:
    settings = Settings.of(timestep=0.5, steps=steps, every=EVERY, **ENSEMBLES[ensemble])
    run(Toy(), molecule(1, periodic=True), output, settings, {"model": "toy"}, resume=True, save_every=save_every)


def assert_whole(output: Path, expected: Trajectory, steps: int) -> None:
    found = Trajectory.open(output)
    assert (found.frames, found.settings) == (steps // EVERY + 1, {**expected.settings, "steps": steps})
    for name in expected.names:
        np.testing.assert_array_equal(found[name], expected[name][: found.frames], err_msg=name)
    names = {path.name for path in output.parent.iterdir()}
    assert names == {output.name, f"{output.name}.json", f"{output.name}.restart.npz"}


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trajectory]:
    folder = tmp_path_factory.mktemp("whole")
    for name in ENSEMBLES:
        simulate(folder / f"{name}.h5", name, LENGTHS[-1])
    return {name: Trajectory.open(folder / f"{name}.h5") for name in ENSEMBLES}


def test_runs_that_are_killed_at_every_operation_and_again_when_they_go_on(
    tmp_path: Path, never_killed: dict[str, Trajectory]
) -> None:
    """Operations are taken from a shuffled pack until each was the last one of some run, and then again."""
    chance = random.Random(18)
    counts = {}
    for name in ENSEMBLES:
        folder = tmp_path / f"count-{name}"
        folder.mkdir()
        ended, counts[name] = sitting(lambda to=folder / "md.h5", chosen=name: simulate(to, chosen, LENGTHS[-1], 1e-9))
        assert ended == FINISHED
    assert min(counts.values()) > 100, counts
    pack: dict[str, list[int]] = {name: [] for name in ENSEMBLES}
    kills = number = 0
    while kills < KILLS:
        name = list(ENSEMBLES)[number % len(ENSEMBLES)]
        folder = tmp_path / f"{number}-{name}"
        folder.mkdir()
        output, log = folder / "md.h5", tmp_path / "log"
        lengths = list(LENGTHS)
        for attempt in range(3):
            steps = lengths[0] if len(lengths) > 1 and chance.random() < 0.5 else lengths[-1]
            pack[name] = pack[name] or chance.sample(range(counts[name]), counts[name])
            after, durable = bool((number + attempt) % 2), chance.choice((0.0, 1e-9))
            ended, _ = sitting(lambda: simulate(output, name, steps, durable), pack[name].pop(), after, log)  # noqa: B023
            assert ended not in (FAILED, HUNG), f"run {number}, attempt {attempt}: {ended}\n{log.read_text()}"
            kills += ended == KILLED
            lengths = [length for length in lengths if length > steps] or [LENGTHS[-1]]
        for length in (steps, LENGTHS[-1]):  # the first of them may have nothing left to do but to count
            ended, _ = sitting(lambda: simulate(output, name, length), log=log)  # noqa: B023
            assert ended == FINISHED, f"run {number}: {ended}\n{log.read_text() if log.exists() else ''}"
            assert_whole(output, never_killed[name], length)
        number += 1


def test_a_checkpoint_that_is_saved_over_is_the_old_or_the_new_one_whenever_the_process_is_killed(
    tmp_path: Path, with_plugins: Callable[..., None]
) -> None:
    with_plugins(toy=ToyHost())
    old, new = nn.Linear(3, 1), nn.Linear(3, 1)
    folder, log, seen = tmp_path / "model.les", tmp_path / "log", set()
    les_plugins.save(old, folder, "toy")
    for after in (False, True):
        at, ended = 0, KILLED
        while ended == KILLED:
            ended, _ = sitting(lambda: les_plugins.save(new, folder, "toy"), at, after, log)
            assert ended in (KILLED, FINISHED), f"operation {at}: {ended}\n{log.read_text()}"
            found, _ = api.load_model(folder)
            (weights,) = [
                name
                for name, model in (("old", old), ("new", new))
                if all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())
            ]
            seen.add(weights)
            les_plugins.save(old, folder, "toy")  # what was left behind is in nobody's way
            assert torch.equal(api.load_model(folder)[0].state_dict()["weight"], old.weight)
            at += 1
        assert at > 5
    assert seen == {"old", "new"}
