"""`ElectrostaticsSettings`: what the sums need to know, checked once. Config, layer and solvers share it.

Its annotations are evaluated: for those that are strings dataclasses look in sys.modules, where torch.package has none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from les_plugins.electrostatics.checks import MOST_GRID_POINTS, is_number, number_in, one_of
from les_plugins.errors import ConfigError

#: Å. Below, no `dl` resolves the Gaussians; above, they are wider than the structures that they are in.
SIGMA_RANGE = (0.1, 10.0)
#: Å. The number of wave vectors grows as dl⁻³; few are left of a molecule's size beyond the other end.
DL_RANGE = (0.3, 6.0)
#: Of the mesh: the estimate of its error is of no use above, and rounding is near below.
MESH_TOLERANCE_RANGE = (1e-9, 1e-2)
Method = Literal["auto", "direct", "mesh"]
#: "background" takes the net charge off where there is no background, "shift" everywhere, "keep" nowhere; "refuse" does
#: as "background" for open structures and raises for the others.
Neutralize = Literal["background", "shift", "keep", "refuse"]
#: Energy of the net charge, meV an atom, above which there is a warning.
WARNING_ENERGY = 1.0
#: What `net_charge_warning` was when it counted in e an atom: read as WARNING_ENERGY.
FORMER_WARNING = 0.1
#: MiB of intermediate arrays held at once, unless told otherwise: what stays in a processor's cache.
WORKSPACE = 4.0
MEBIBYTE = 1 << 20
Precision = Literal["double", "single"]
METHODS, NEUTRALIZE, PRECISIONS = get_args(Method), get_args(Neutralize), get_args(Precision)


@dataclass(frozen=True)
class ElectrostaticsSettings:
    """Settings of the electrostatic sums.

    Attributes:
        sigma: Gaussian smearing width, Å.
        dl: resolution of the reciprocal sum, Å.
        remove_self_interaction: leave each atom's interaction with itself out.
        method: of periodic structures, "direct", "mesh" or "auto".
        static_cell: longest lattice vectors, Å, that traced and compiled code has to cover, or None.
        neutralize: what is done about the net charge, one of `NEUTRALIZE`.
        net_charge_warning: energy of the net charge, meV an atom, above which a warning is given, or None.
        mesh_tolerance: root mean square error of the mesh's forces over the root mean square force.
        workspace: MiB of intermediate arrays that a reciprocal sum holds at once on the CPU; 64 times that elsewhere.
        precision: of the matrix products of the direct sum, "double" or "single".

    Raises:
        ConfigError: a setting outside what is allowed, or settings that do not go together.
    """

    sigma: float = 1.0
    dl: float = 1.2
    remove_self_interaction: bool = True
    method: str = "auto"
    static_cell: tuple[float, float, float] | None = None
    neutralize: str = "keep"
    net_charge_warning: float | None = WARNING_ENERGY
    mesh_tolerance: float = 1e-5
    workspace: float = WORKSPACE
    precision: str = "double"

    def __post_init__(self) -> None:
        for name in CHECKS:
            check_setting(name, getattr(self, name))
        if self.precision != "double" and self.method == "mesh":
            raise ConfigError(
                f"precision is {self.precision!r} with method='mesh'; allowed: 'double', or the direct sum"
            )
        _check_static_grid(self.static_cell, self.dl)

    @property
    def cutoff(self) -> float:
        """k_c = 2π/dl, Å⁻¹."""
        return 2.0 * math.pi / self.dl

    @property
    def workspace_bytes(self) -> int:
        """The workspace in bytes."""
        return int(self.workspace * MEBIBYTE)

    @property
    def products(self) -> torch.dtype:
        """Type of the direct sum's matrix products."""
        return torch.float32 if self.precision == "single" else torch.float64


def check_setting(name: str, value: Any) -> None:
    """Check one setting by itself.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    CHECKS[name](name, value)


def _in_range(bounds: tuple[float, float], unit: str = "") -> Callable[[str, Any], None]:
    return lambda name, value: number_in(name, value, bounds, unit)


def _of(allowed: Sequence[str]) -> Callable[[str, Any], None]:
    return lambda name, value: one_of(name, value, tuple(allowed))


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; allowed: True, False")


def _check_workspace(name: str, value: Any) -> None:
    if not (is_number(value) and value > 0.0):
        raise ConfigError(f"{name} is {value!r}; allowed: a positive number of MiB")


def _check_warning(name: str, value: Any) -> None:
    if value is not None and not (is_number(value) and value > 0.0):
        raise ConfigError(f"{name} is {value!r}; allowed: a positive energy in meV an atom, or None")


def _check_static_cell(name: str, value: Any) -> None:
    if value is None:
        return
    if not (isinstance(value, Sequence) and len(value) == 3 and all(is_number(x) and x > 0.0 for x in value)):
        shown = list(value) if isinstance(value, tuple) else value
        raise ConfigError(f"{name} is {shown!r}; allowed: three positive lengths in Å, or none")


def _check_static_grid(lengths: tuple[float, float, float] | None, dl: float) -> None:
    if lengths is None:
        return
    points = math.prod(2.0 * math.floor(length / dl) + 1.0 for length in lengths) / 2.0
    if points > MOST_GRID_POINTS:
        raise ConfigError(
            f"static_cell is {list(lengths)!r} Å, a grid of {points:.3g} reciprocal vectors at dl = {dl:g} Å; allowed: "
            f"{MOST_GRID_POINTS}"
        )


#: What each setting may be, by itself.
CHECKS: dict[str, Callable[[str, Any], None]] = {
    "sigma": _in_range(SIGMA_RANGE, "Å"),
    "dl": _in_range(DL_RANGE, "Å"),
    "remove_self_interaction": _check_flag,
    "method": _of(METHODS),
    "static_cell": _check_static_cell,
    "neutralize": _of(NEUTRALIZE),
    "net_charge_warning": _check_warning,
    "mesh_tolerance": _in_range(MESH_TOLERANCE_RANGE),
    "workspace": _check_workspace,
    "precision": _of(PRECISIONS),
}
