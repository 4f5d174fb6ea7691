"""What ends a command from outside: Ctrl-C, SIGTERM, a full disk, no memory. One line each, and what it is about."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import pytest
from command_line import Done
from toy_calculator import Toy, molecule
from toy_host import BareHost

from les_plugins.cli import md, predict, shared
from les_plugins.dynamics import Trajectory
from les_plugins.hosting import registry

FACTS = {"weights_sha256": "0" * 64, "host": "toy", "epsilon_infinity": 1.78}


class Meddling(Toy):
    """Does something at one of its evaluations."""

    def __init__(self, when: int, deed: Callable[[], None]) -> None:
        super().__init__()
        self.left, self.deed = when, deed

    def calculate(self, *arguments: Any, **named: Any) -> None:
        super().calculate(*arguments, **named)
        self.left -= 1
        if self.left == 0:
            self.deed()


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell starts what it puts in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    """Run `les-plugins ARGUMENTS` with this calculator as the model."""

    def run(calculator: Toy, *arguments: object) -> Done:
        for module in (md, predict):
            monkeypatch.setattr(module, "open_model", lambda *given, **named: (calculator, FACTS))
        return les_plugins_command(*arguments)

    return run


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    ase.io.write("start.xyz", molecule(1, periodic=True))
    return "start.xyz"


def raising(error: BaseException) -> Callable[[], None]:
    def deed() -> None:
        raise error

    return deed


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_an_interrupted_run_says_what_it_kept_and_the_command_that_goes_on(
    command: Callable[..., Done], start: str, number: int, name: str
) -> None:
    arguments = ("md", "m.les", start, "-o", "my md.h5", "--temperature", 300, "--steps", 40, "--save-every", 0)
    done = command(Meddling(20, lambda: os.kill(os.getpid(), number)), *arguments)
    assert done.code == 128 + number
    kept = Trajectory.open("my md.h5").frames
    last = done.errors.splitlines()[-1]
    assert last == (
        f"stopped by {name}: my md.h5 keeps {kept} frames, to {(kept - 1) * 0.002:g} ps; to go on: les-plugins md "
        "m.les start.xyz -o 'my md.h5' --temperature 300 --steps 40 --save-every 0 --resume"
    )
    assert "Traceback" not in done.errors
    assert command(Toy(), *arguments, "--resume").code == 0
    assert Trajectory.open("my md.h5").frames == 11


def test_an_interrupted_prediction_leaves_nothing(command: Callable[..., Done], start: str, tmp_path: Path) -> None:
    done = command(Meddling(1, raising(KeyboardInterrupt())), "predict", "m.les", start, "-o", "p.xyz")
    assert done.code == 130
    assert done.errors.splitlines()[-1].startswith("stopped by Ctrl-C: files that were written are whole; to begin")
    assert [path.name for path in tmp_path.iterdir()] == [start]


def _as_lightning() -> None:
    """It shuts down gracefully, and then exits."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("interrupt", [raising(KeyboardInterrupt()), _as_lightning])
def test_an_interrupted_training_says_how_its_host_goes_on(
    monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done], interrupt: Callable[[], None]
) -> None:
    class Interrupted(BareHost):
        resume_options = ("--restart_latest",)

        def train(self, *arguments: Any) -> None:
            interrupt()

    monkeypatch.setattr(registry, "host", lambda name: Interrupted())
    done = les_plugins_command("train", "mace", "--config", "config.yaml", "--seed", 3)
    assert done.code == 130
    assert done.errors.splitlines()[-1] == (
        "stopped by Ctrl-C: the checkpoints that the host has saved stay; to go on from the last one: "
        "les-plugins train mace --config config.yaml --seed 3 --restart_latest"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x", "weights"), "error: weights: No space left on device"),
        (PermissionError(errno.EACCES, "x", "m.les/config.json"), "error: m.les/config.json: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "x", "here"), "error: here: Is a directory"),
        (OSError("HDF5 says errno = 28, and more"), "error: No space left on device"),
        (MemoryError("Unable to allocate 9.00 TiB"), "error: out of memory: Unable to allocate 9.00 TiB"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.\nmore"),
            "error: out of memory: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line(
    command: Callable[..., Done], start: str, error: Exception, message: str
) -> None:
    done = command(Meddling(3, raising(error)), "md", "m.les", start, "-o", "md.h5", "--temperature", 300)
    assert done.code == 1
    assert done.errors.splitlines()[-1] == message
    assert "Traceback" not in done.errors


def test_a_message_is_one_line_of_a_length_that_can_be_read(command: Callable[..., Done], start: str) -> None:
    error = OSError(errno.EIO, "x", "a\nb" * 10**6)
    done = command(Meddling(3, raising(error)), "md", "m.les", start, "-o", "md.h5", "--temperature", 300)
    assert len(done.errors.splitlines()[-1]) < 4100


def test_an_error_of_the_program_keeps_its_traceback(command: Callable[..., Done], start: str) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        command(Meddling(3, raising(RuntimeError("a bug"))), "md", "m", start, "-o", "a.h5", "--temperature", 300)


def test_a_log_file_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(shared.time, "monotonic", lambda: now[0])
    for _ in shared.progress(range(101, 201), 100, "steps", done=100):
        now[0] += 7.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "steps: 109 of 200, 0:10:37 left"
    assert len(lines) == 11
    for _ in shared.progress(iter("abc"), None, "frames"):
        now[0] += 61.0
    assert capsys.readouterr().err.splitlines() == ["frames: 1", "frames: 2", "frames: 3"]
