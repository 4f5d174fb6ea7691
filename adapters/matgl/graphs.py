"""From ASE structures to MatGL's graphs, in the precision of the model. Calculator, training and contract call it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import matgl
import torch


@contextlib.contextmanager
def host_dtype(dtype: torch.dtype) -> Iterator[None]:
    """MatGL's own float type inside the block: its converters round positions and lattice to it."""
    before = matgl.float_th
    matgl.float_th = dtype
    try:
        yield
    finally:
        matgl.float_th = before
