"""Kill a process at the n-th thing that it does to a file: before it, after it, or halfway through a write."""

from __future__ import annotations

import builtins
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pytest

#: s, after which a sitting counts as hanging.
PATIENCE = 20.0
#: How a sitting ends.
FINISHED, KILLED, FAILED, HUNG = "finished", "killed", "failed", "hung"
_CALLS = ("replace", "rename", "link", "unlink", "rmdir", "mkdir", "fsync", "open", "close")


class _Clock:
    """Counts operations, and kills this process at one of them."""

    def __init__(self, at: int, after: bool) -> None:
        self.count, self.at, self.after = 0, at, after

    def now(self) -> bool:
        self.count += 1
        return self.count - 1 == self.at

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            due = self.now()
            if due and not self.after:
                _die()
            try:
                return function(*arguments, **named)
            finally:
                if due:
                    _die()

        return counted


class _File:
    """A file open for writing whose writes may be the last thing that its process does, all of it or half."""

    def __init__(self, file: Any, clock: _Clock) -> None:
        self._file, self._clock = file, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        if not self._clock.now():
            return int(self._file.write(data))
        if not self._clock.after:
            data = data[: len(data) // 2]
        self._file.write(data)
        self._file.flush()
        _die()
        raise AssertionError


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _watched(clock: _Clock) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        open_path, open_name = pathlib.Path.open, builtins.open

        def opened(self: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if mode in ("r", "rb"):
                return open_path(self, mode, *arguments, **named)
            return _File(clock.around(open_path)(self, mode, *arguments, **named), clock)

        def opened_by_name(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if mode in ("r", "rb"):
                return open_name(file, mode, *arguments, **named)
            return _File(clock.around(open_name)(file, mode, *arguments, **named), clock)

        for name in _CALLS:
            patch.setattr(os, name, clock.around(getattr(os, name)))
        patch.setattr(pathlib.Path, "open", opened)
        patch.setattr(builtins, "open", opened_by_name)
        patch.setattr(h5py.File, "__init__", clock.around(h5py.File.__init__))
        patch.setattr(h5py.File, "close", clock.around(h5py.File.close))
        patch.setattr(h5py.Group, "create_dataset", clock.around(h5py.Group.create_dataset))
        yield


def sitting(work: Callable[[], Any], at: int = -1, after: bool = False, log: Path | None = None) -> tuple[str, int]:
    """Do some work in a process of its own that is killed at one of its operations on files.

    Args:
        work: what is done.
        at: number of the operation, from 0; −1 for none.
        after: kill after it, not before; of a write, after all of it, not half.
        log: file for the traceback of work that fails.

    Returns:
        How it ended, and the number of operations that there were, where it got to its end.
    """
    reader, writer = os.pipe()
    child = os.fork()  # a fresh interpreter would import torch for longer than the work takes
    if child == 0:
        clock, code = _Clock(at, after), 1
        try:
            with _watched(clock):
                work()
            os.write(writer, str(clock.count).encode())
            code = 0
        except BaseException:
            if log is not None:
                with open(log, "w") as file:
                    traceback.print_exc(file=file)
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    os.close(writer)
    ended = _ended(child)
    with os.fdopen(reader) as pipe:
        count = int(pipe.read() or 0)
    return ended, count


def _ended(child: int) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return {0: FINISHED, -signal.SIGKILL: KILLED}.get(code, FAILED)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HUNG
