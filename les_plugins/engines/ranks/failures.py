"""The end of a run on many ranks that one of them cannot go on with: one line, and no rank is left waiting.

An exception cannot pass through LAMMPS' C++ code, and ranks that wait for each other in MPI or gloo cannot be woken:
the rank that fails says why and ends its process, and `mpirun` ends the others, as it does when one is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from les_plugins.errors import LesPluginsError, in_one_line

#: Environment variable; any value: print the traceback too.
TRACEBACK = "LES_PLUGINS_TRACEBACK"
_FAILED = "les-plugins failed"
#: s between the line and the end of the process: `mpirun` passes on what it has read by then.
_GRACE = 0.2


def end_all(error: BaseException, store: Any, rank: int, where: str = "") -> NoReturn:
    """Say why, once among all ranks, and end this process with status 1, or that of the signal that stopped it.

    Args:
        error: what happened here; on ranks that only lost another one it is not said.
        store: of the meeting, or None before there is one.
        rank: this one.
        where: what was done, in front of the line.
    """
    stop = _signal_of(error)
    text = str(error) if isinstance(error, LesPluginsError) else in_one_line(error)
    if stop is not None:
        text = f"stopped by {'Ctrl-C' if stop == signal.SIGINT else stop.name}: frames that were written count"
    line = f"{'' if stop else 'error: '}{where}{': ' if where else ''}{' '.join(text.split())} (rank {rank})"
    if _is_first(store, rank):
        print(line, file=sys.stderr, flush=True)  # noqa: T201
        if os.environ.get(TRACEBACK):
            import traceback

            traceback.print_exception(error)
    sys.stdout.flush()
    time.sleep(_GRACE)
    os._exit(1 if stop is None else 128 + stop)  # as shells have it


@contextmanager
def ending_all(store: Any, rank: int) -> Iterator[None]:
    """Whatever is raised inside ends all ranks."""
    try:
        yield
    except BaseException as error:
        end_all(error, store, rank)


def _signal_of(error: BaseException) -> signal.Signals | None:
    """What interrupted: SIGINT unless the interruption says which signal it is of."""
    if not isinstance(error, KeyboardInterrupt):
        return None
    return signal.Signals(getattr(error, "number", signal.SIGINT))


def _is_first(store: Any, rank: int) -> bool:
    """Whether no other rank has said what happened; a store that is gone went with a rank that did."""
    if store is None:
        return True
    try:
        return int(store.add(_FAILED, 1)) == 1
    except Exception:
        return rank == 0
