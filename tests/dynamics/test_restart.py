"""Files of a run: two runs never share one, damaged ones are named and kept, a full disk costs nothing saved."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from charged_toys import ChargedToy, toy_energy
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, Trajectory, run
from les_plugins.errors import ConfigError, DataError

SETTINGS: dict[str, Any] = {"temperature": 300.0, "timestep": 0.5, "every": 2}


def simulate(output: Path, steps: int, resume: bool = False, calculator: Any = None, **settings: Any) -> Trajectory:
    chosen = Settings.of(steps=steps, **{**SETTINGS, **settings})
    run(calculator or Toy(), molecule(1, periodic=True), output, chosen, {"model": "toy"}, resume, save_every=0.0)
    return Trajectory.open(output)


def assert_same(one: Trajectory, other: Trajectory) -> None:
    assert one.frames == other.frames
    for name in other.names:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


class Meddling(Toy):
    """Does something in the middle of a run."""

    def __init__(self, when: int, deed: Any) -> None:
        super().__init__()
        self.left, self.deed = when, deed

    def calculate(self, *arguments: Any, **named: Any) -> None:
        super().calculate(*arguments, **named)
        self.left -= 1
        if self.left == 0:
            self.deed()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("when", [1, 8])
def test_a_second_run_on_an_output_is_refused_before_its_first_step(tmp_path: Path, resume: bool, when: int) -> None:
    output, second = tmp_path / "md.h5", Toy()
    refusals = []

    def intrude() -> None:
        with pytest.raises(DataError, match=r"md\.h5: another run is writing to it") as caught:
            simulate(output, 40, resume, second, seed=7)
        refusals.append(caught)

    found = simulate(output, 20, calculator=Meddling(when, intrude))
    assert len(refusals) == 1
    assert second.asked == []
    assert_same(found, simulate(tmp_path / "alone.h5", 20))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    output = tmp_path / "md.h5"
    child = os.fork()
    if child == 0:
        simulate(output, 400, calculator=Meddling(60, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert_same(simulate(output, 400, resume=True), simulate(tmp_path / "whole.h5", 400))
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


@pytest.mark.parametrize("steps", [20, 21])
def test_frames_of_a_run_killed_between_its_state_and_their_count_are_counted(tmp_path: Path, steps: int) -> None:
    output = tmp_path / "md.h5"
    whole = simulate(tmp_path / "whole.h5", 30)
    found = simulate(output, steps)
    with h5py.File(output, "r+") as h5:  # as it is then: the last state is there, its frames are not yet counted
        h5["written"][()] = found.frames - 3
    assert simulate(output, steps, resume=True).frames == found.frames == 11
    with h5py.File(output, "r+") as h5:
        h5["written"][()] = found.frames - 3
    assert_same(simulate(output, 30, resume=True), whole)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": _cut,
    "text": lambda path: path.write_text("x\n"),
    "other JSON": lambda path: path.write_text("{}"),
    "list": lambda path: path.write_text("[1, 2]"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", ["", ".json", ".restart.npz"])
def test_a_damaged_file_is_named_and_nothing_is_destroyed(tmp_path: Path, suffix: str, damage: str) -> None:
    output, path = tmp_path / "md.h5", tmp_path / f"md.h5{suffix}"
    simulate(output, 20)
    DAMAGE[damage](path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(DataError) as caught:
        simulate(output, 40, resume=True)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["numbers", "written", "positions", "time"])
def test_a_trajectory_without_one_of_its_parts_is_refused(tmp_path: Path, name: str) -> None:
    output = tmp_path / "md.h5"
    simulate(output, 20)
    with h5py.File(output, "r+") as h5:
        del h5[name]
    for attempt in (Trajectory.open, lambda path: simulate(path, 40, resume=True)):
        with pytest.raises(DataError, match=rf"md\.h5: is damaged: {name} missing"):
            attempt(output)


def test_the_description_is_made_anew_when_it_was_removed(tmp_path: Path) -> None:
    output = tmp_path / "md.h5"
    simulate(output, 20)
    described = output.with_name("md.h5.json")
    before = described.read_text()
    described.unlink()
    simulate(output, 20, resume=True)
    assert described.read_text() == before


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        simulate(tmp_path / f"{name}.h5", 20, seed=seed)
    shutil.copy(tmp_path / "b.h5.restart.npz", tmp_path / "a.h5.restart.npz")
    with pytest.raises(DataError, match=r"a\.h5\.restart\.npz: is not the state of .*a\.h5, but of another run"):
        simulate(tmp_path / "a.h5", 40, resume=True)
    shutil.copy(tmp_path / "b.h5.json", tmp_path / "a.h5.json")
    (tmp_path / "a.h5.restart.npz").unlink()
    with pytest.raises(DataError, match=r"a\.h5: cannot be resumed: .*a\.h5\.restart\.npz is missing"):
        simulate(tmp_path / "a.h5", 40, resume=True)


def test_a_state_that_is_not_that_of_the_last_frame_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "md.h5"
    simulate(output, 20)
    with h5py.File(output, "r+") as h5:
        h5["positions"][10, 0, 0] += 1e-9
    with pytest.raises(DataError, match=r"is not the state of frame 10 of .* which differs in its positions"):
        simulate(output, 40, resume=True)


def test_what_a_removed_trajectory_left_behind_is_not_gone_on_from(tmp_path: Path) -> None:
    output = tmp_path / "md.h5"
    simulate(output, 20, seed=5)
    output.unlink()
    with pytest.raises(DataError, match=r"it is missing, and .*restart\.npz is there"):
        simulate(output, 20, resume=True)

    def end() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        simulate(output, 20, calculator=Meddling(1, end))
    assert_same(simulate(output, 20), simulate(tmp_path / "new.h5", 20))


@pytest.mark.parametrize("change", ["masses", "pbc", "numbers"])
def test_resuming_from_another_start_is_refused(tmp_path: Path, change: str) -> None:
    output, start = tmp_path / "md.h5", molecule(1, periodic=True)
    simulate(output, 20)
    if change == "masses":
        start.set_masses([16.0, 2.0, 2.0])
    elif change == "pbc":
        start.pbc = False
    else:
        start.symbols = "OOH"
    with pytest.raises(ConfigError, match=f"{change} of the start are others than before"):
        run(Toy(), start, output, Settings.of(steps=40, **SETTINGS), {"model": "toy"}, resume=True)


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    link = tmp_path / "md.h5"
    link.symlink_to(tmp_path / "scratch" / "real.h5")
    simulate(link, 20)
    assert_same(simulate(link, 30, resume=True), simulate(tmp_path / "whole.h5", 30))
    assert link.is_symlink()


def test_more_steps_without_more_frames_are_kept_in_the_file(tmp_path: Path) -> None:
    output = tmp_path / "md.h5"
    simulate(output, 20)
    found = simulate(output, 21, resume=True)
    assert (found.settings["steps"], found.frames) == (21, 11)
    assert_same(simulate(output, 30, resume=True), simulate(tmp_path / "whole.h5", 30))


def _full_after(monkeypatch: pytest.MonkeyPatch, name: str, calls: int) -> None:
    """The disk is full from the n-th call of a function on."""
    original, left = getattr(os, name), [calls]

    def failing(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **named)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize("calls", range(8))
@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_full_disk_is_said_in_words_and_costs_nothing_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, calls: int
) -> None:
    output = tmp_path / "md.h5"
    settings = Settings.of(steps=40, **SETTINGS)
    with monkeypatch.context() as patch:
        _full_after(patch, name, calls)
        with pytest.raises(DataError, match=r"md\.h5[a-z.]*: cannot be written: No space left on device"):
            run(Toy(), molecule(1, periodic=True), output, settings, {"model": "toy"}, save_every=1e-9)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"md.h5", "md.h5.json", "md.h5.restart.npz"}
    assert_same(simulate(output, 40, resume=True), simulate(tmp_path / "whole.h5", 40))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "t", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("only root can make a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_without_room_for_the_run_is_said_before_its_first_step(small_disk: Path) -> None:
    with pytest.raises(DataError, match=r"md\.h5: cannot be written: its 1001 frames take .* MB and the disk has"):
        simulate(small_disk / "md.h5", 2000)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("left", [0, 4, 8])
def test_a_disk_that_gets_full_on_the_way_costs_nothing_that_was_saved(small_disk: Path, left: int) -> None:
    output, filler = small_disk / "md.h5", small_disk / "filler"

    def fill() -> None:
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 1024 * left))

    # 201 frames of 450 bytes take 88 kB, 22 pages of the disk, a few of which are there when it is filled
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        simulate(output, 400, calculator=Meddling(30, fill))
    assert {path.name for path in small_disk.iterdir()} == {"filler", "md.h5", "md.h5.json", "md.h5.restart.npz"}
    saved = Trajectory.open(output)
    whole = simulate(small_disk.parent / "whole.h5", 400)
    np.testing.assert_array_equal(saved["positions"], whole["positions"][: saved.frames])
    filler.unlink()
    assert_same(simulate(output, 400, resume=True), whole)


def test_a_read_only_folder_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: Any, **named: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), arguments[0])

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(DataError, match=r"md\.h5: cannot be written: Read-only file system"):
        simulate(tmp_path / "md.h5", 20)


def test_a_trajectory_keeps_the_total_charge_of_its_start_and_is_not_resumed_with_another(tmp_path: Path) -> None:
    output, ion = tmp_path / "md.h5", molecule(1, periodic=True)
    ion.info["charge"] = 1
    settings = Settings.of(steps=4, **SETTINGS)
    run(Toy(), ion, output, settings, {"model": "toy"}, save_every=0.0)
    assert Trajectory.open(output).atoms().info == {"charge": 1.0}
    with pytest.raises(ConfigError, match="the total charge was 1 and is 0 e"):
        simulate(output, 8, resume=True)
    ion = molecule(1, periodic=True)
    ion.info["charge"] = 1
    run(Toy(), ion, output, Settings.of(steps=8, **SETTINGS), {"model": "toy"}, resume=True, save_every=0.0)
    assert simulate(tmp_path / "neutral.h5", 4).atoms().info == {}


def test_a_trajectory_keeps_the_calculator_s_own_charge_and_is_not_resumed_with_another(tmp_path: Path) -> None:
    output, calculator = tmp_path / "md.h5", ChargedToy()
    calculator.total_charge = 1.0
    assert simulate(output, 4, calculator=calculator).atoms().info == {"charge": 1.0}
    for other in (-1.0, None):
        calculator.total_charge = other
        with pytest.raises(ConfigError, match=f"the total charge was 1 and is {other or 0:g} e"):
            simulate(output, 8, resume=True, calculator=calculator)
    calculator.total_charge = 1.0
    found = simulate(output, 8, resume=True, calculator=calculator)
    atoms = found.atoms()
    # of what ChargedToy says of the frame with its charge
    assert found["potential_energy"][-1] == pytest.approx(toy_energy(atoms, 1.0), rel=1e-12)
