"""Settings that the layer refuses, and whether there are values to look at. Its tensors are checked in `inputs.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch

try:
    from torch.fx.experimental.proxy_tensor import get_proxy_mode
except ImportError:  # torch 2.4 has one mode of this kind, under another name
    from torch.fx.experimental.proxy_tensor import get_innermost_proxy_mode as get_proxy_mode

from les_plugins.electrostatics.periodic.mesh_size import TOLERANCES
from les_plugins.errors import ConfigError

#: A grid of more reciprocal-lattice points than this is refused rather than left to exhaust the memory …
MOST_GRID_POINTS = 50_000_000
#: … of which each takes so many bytes at the peak of an energy with forces, as measured.
BYTES_PER_POINT = 150
PRECISIONS = {"double": torch.float64, "single": torch.float32}
#: Å. The number of wave vectors grows as dl⁻³; few are left of a molecule's size beyond the other end.
DL_RANGE = (0.3, 6.0)
#: Å. Below, no `dl` resolves the Gaussians; above, they are wider than the structures that they are in.
SIGMA_RANGE = (0.1, 10.0)


def is_traced() -> bool:
    """Whether a tracer or compiler records what is done, and values cannot be looked at."""
    return (
        torch.compiler.is_compiling() or get_proxy_mode() is not None or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def is_number(value: Any) -> bool:
    """A finite real number, of Python or NumPy; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def one_of(name: str, value: Any, allowed: tuple[str | None, ...]) -> None:
    """Refuse a setting outside `allowed`."""
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")


def number_in(name: str, value: Any, bounds: tuple[float, float], unit: str = "") -> None:
    """Refuse what is no number from `bounds`, both included."""
    if not (is_number(value) and bounds[0] <= value <= bounds[1]):
        raise ConfigError(f"{name} is {value!r}; allowed: {bounds[0]:g} … {bounds[1]:g}{unit and ' ' + unit}")


def check_settings(
    sigma: Any,
    dl: Any,
    remove_self_interaction: Any,
    method: Any,
    response: Any,
    static_cell: Any,
    net_charge_warning: Any,
    total_charge: Any,
    mesh_tolerance: Any,
    workspace: Any,
    precision: Any,
) -> None:
    """Refuse settings of `LatentElectrostatics` that are outside what is allowed, or do not go together; see there."""
    number_in("sigma", sigma, SIGMA_RANGE, "Å")
    number_in("dl", dl, DL_RANGE, "Å")
    number_in("mesh_tolerance", mesh_tolerance, TOLERANCES)
    if not isinstance(remove_self_interaction, bool):
        raise ConfigError(f"remove_self_interaction is {remove_self_interaction!r}; allowed: True, False")
    if not (is_number(workspace) and workspace > 0.0):
        raise ConfigError(f"workspace is {workspace!r}; allowed: a positive number of MiB")
    if net_charge_warning is not None and not (is_number(net_charge_warning) and net_charge_warning > 0.0):
        raise ConfigError(
            f"net_charge_warning is {net_charge_warning!r}; allowed: a positive energy in meV an atom, or None"
        )
    check_static_cell(static_cell, dl)
    one_of("method", method, ("auto", "direct", "mesh"))
    one_of("response", response, ("one_shot", "self_consistent", None))
    one_of("precision", precision, tuple(PRECISIONS))
    if precision != "double" and method == "mesh":
        raise ConfigError(f"precision is {precision!r} with method='mesh'; allowed: 'double', or the direct sum")
    if total_charge != "free" and response != "self_consistent":
        raise ConfigError(f"total_charge is {total_charge!r}; allowed: 'free', or response='self_consistent'")


def check_static_cell(lengths: Any, dl: float) -> None:
    """Refuse a `static_cell` that is not three positive lengths, or None, or that needs too large a grid at `dl`."""
    if lengths is None:
        return
    if not (isinstance(lengths, Sequence) and len(lengths) == 3 and all(is_number(x) and x > 0.0 for x in lengths)):
        shown = list(lengths) if isinstance(lengths, tuple) else lengths
        raise ConfigError(f"static_cell is {shown!r}; allowed: three positive lengths in Å, or none")
    points = math.prod(2.0 * math.floor(length / dl) + 1.0 for length in lengths) / 2.0
    if points > MOST_GRID_POINTS:
        raise ConfigError(
            f"static_cell is {list(lengths)!r} Å, a grid of {points:.3g} reciprocal vectors at dl = {dl:g} Å; allowed: "
            f"{MOST_GRID_POINTS}"
        )
