"""Ctrl-C and SIGTERM under a command: one line that says what was kept and how to go on, and an exit code."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import typer.core

from les_plugins.errors import InterruptionError

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which then unwinds a command as Ctrl-C does."""

    number = signal.SIGTERM


class Group(typer.core.TyperGroup):
    """The commands, each of which says what an interruption leaves."""

    def invoke(self, ctx: Any) -> Any:
        """As of typer."""
        with says_what_was_kept(lambda: f"files that were written are whole; to begin again: {command_line()}"):
            return super().invoke(ctx)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, as queues send before they kill, ends the block like Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def says_what_was_kept(kept: Callable[[], str]) -> Iterator[None]:
    """Turn an interruption of the block into words.

    Args:
        kept: says what there is now and how to go on; called when it is known that it is needed.

    Raises:
        InterruptionError: the block was interrupted, also one whose host has made an exit of that (Lightning).
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise _interrupted(stop, kept) from None
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise _interrupted(end.__context__, kept) from None
        raise


def command_line(*more: str) -> str:
    """The command that is running, with options that it does not have yet, to be typed again."""
    given = sys.argv[1:]
    return shlex.join(["les-plugins", *given, *(option for option in more if option not in given)])


def _interrupted(stop: KeyboardInterrupt, kept: Callable[[], str]) -> InterruptionError:
    number = getattr(stop, "number", signal.SIGINT)
    return InterruptionError(f"stopped by {_NAMES[number]}: {kept()}", 128 + number)
