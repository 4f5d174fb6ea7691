"""torch's default dtype, which is one for the whole process: hosts build graphs and models in it. Adapters use this."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within it, torch makes tensors of this dtype where none is named; one thread at a time, others wait.

    Without the wait a thread that leaves would put the former dtype back under another that is still inside, and the
    graph of that one would be rounded to single precision.

    Args:
        dtype: a floating-point dtype.
    """
    with _ONE_AT_A_TIME:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
