"""Checks of single values, and whether there are values to look at. `settings.py` and `inputs.py` call them."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch

try:
    from torch.fx.experimental.proxy_tensor import get_proxy_mode
except ImportError:  # torch 2.4 has one mode of this kind, under another name
    from torch.fx.experimental.proxy_tensor import get_innermost_proxy_mode as get_proxy_mode

from les_plugins.errors import ConfigError

#: A grid of more reciprocal-lattice points than this is refused rather than left to exhaust the memory …
MOST_GRID_POINTS = 50_000_000
#: … of which each takes so many bytes at the peak of an energy with forces, as measured.
BYTES_PER_POINT = 150


def is_traced() -> bool:
    """Whether a tracer or compiler records what is done, and values cannot be looked at."""
    return (
        torch.compiler.is_compiling() or get_proxy_mode() is not None or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def is_number(value: Any) -> bool:
    """A finite real number, of Python or NumPy; True and False are none, nor are integers beyond every float."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def one_of(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Refuse a setting outside `allowed`."""
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")


def number_in(name: str, value: Any, bounds: tuple[float, float], unit: str = "") -> None:
    """Refuse what is no number from `bounds`, both included."""
    if not (is_number(value) and bounds[0] <= value <= bounds[1]):
        raise ConfigError(f"{name} is {value!r}; allowed: {bounds[0]:g} … {bounds[1]:g}{unit and ' ' + unit}")
