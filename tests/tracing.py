"""Tracing with torch.fx as NequIP does it, in half of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx


def trace(function: Callable[..., Any]) -> Callable[..., Any]:
    """`make_fx` of a function; without the decompositions outputs that autograd saved come back detached."""
    traced = make_fx(function, decomposition_table=core_aten_decompositions())

    def run(*inputs: Any) -> Any:
        # torch keeps one for each tensor, for its own messages
        with mock.patch("traceback.extract_stack", return_value=[]):
            return traced(*inputs)

    return run
