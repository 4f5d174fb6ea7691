"""Long-range electrostatics for machine-learning interatomic potentials, as a plugin for the frameworks in use.

Importing this package imports neither torch nor a host framework: what it offers is imported when first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from les_plugins.moved import MOVED, install
from les_plugins.version import __version__ as __version__

if TYPE_CHECKING:
    from les_plugins.api import attach, load, save
    from les_plugins.config import LongRangeConfig
    from les_plugins.electrostatics import ElectrostaticsResult, LatentElectrostatics, PairSoftness
    from les_plugins.electrostatics.multipoles import Multipoles
    from les_plugins.errors import LesPluginsError

install()

__all__ = [
    "ElectrostaticsResult",
    "LatentElectrostatics",
    "LesPluginsError",
    "LongRangeConfig",
    "Multipoles",
    "PairSoftness",
    "attach",
    "load",
    "save",
]

#: Module of each name.
_PLACES = {
    "ElectrostaticsResult": "electrostatics",
    "LatentElectrostatics": "electrostatics",
    "LesPluginsError": "errors",
    "LongRangeConfig": "config",
    "Multipoles": "electrostatics.multipoles",
    "PairSoftness": "electrostatics.flow",
    "attach": "api",
    "load": "api",
    "save": "api",
}
#: Modules that `import les_plugins` alone gives.
_MODULES = (
    "api",
    "committee",
    "config",
    "data",
    "electrostatics",
    "errors",
    "hosting",
    "io",
    "model",
    "storage",
    "units",
)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        found = getattr(importlib.import_module(f"les_plugins.{_PLACES[name]}"), name)
        globals()[name] = found
        return found
    if name in _MODULES or name in MOVED:
        return importlib.import_module(f"les_plugins.{name}")
    raise AttributeError(f"module 'les_plugins' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
