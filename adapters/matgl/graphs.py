"""From ASE structures to MatGL's graphs, in the precision of the model. Calculator, training and contract call it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import matgl
import torch

_ONE_THREAD = threading.RLock()


@contextlib.contextmanager
def host_dtype(dtype: torch.dtype) -> Iterator[None]:
    """MatGL's own float type inside the block: its converters round positions and lattice to it.

    It is one of the whole process, and MatGL's models keep the features of their last evaluation: one thread at a time.
    """
    with _ONE_THREAD:
        before = matgl.float_th
        matgl.float_th = dtype
        try:
            yield
        finally:
            matgl.float_th = before
