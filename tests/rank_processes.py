"""Processes that meet as ranks. A server that has imported torch starts them, for each import of it takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

#: What the ranks of all tests import.
PRELOADED = [
    "torch.distributed",
    "ase.md.verlet",
    "les_plugins.hosting.build",
    "les_plugins.engines.ranks.calculator",
    "pytest",
]


def run_ranks(work: Callable[..., None], size: int, *arguments: Any, patience: float = 600.0) -> None:
    """`work(rank, *arguments)` in `size` new processes, each of which has to end well within `patience` seconds.

    Seconds on an idle machine, minutes on a crowded one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    processes = [context.Process(target=work, args=(rank, *arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(patience)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * size
