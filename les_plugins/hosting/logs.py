"""What hosts print and log beside the output of our commands. Adapters call it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path


@contextmanager
def quiet() -> Iterator[None]:
    """For hosts that print when a model or a calculator is made: the output of our commands is read by programs."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """For hosts whose own command sets logging up: messages from INFO on go to standard error and to a train.log.

    Args:
        folder: for the file; it exists.
    """
    root = logging.getLogger()
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.FileHandler(folder / "train.log", "w")]
    before = root.level
    root.setLevel(logging.INFO)
    root.handlers += handlers
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
