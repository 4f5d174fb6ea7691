"""Long-range electrostatics for machine-learning interatomic potentials, as a plugin for the frameworks in use.

Importing this package imports torch and no host framework.
"""

__version__ = "0.1.0"

from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics import ElectrostaticsResult, LatentElectrostatics
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.errors import LesPluginsError
from les_plugins.hosting.registry import attach
from les_plugins.moved import install
from les_plugins.storage.checkpoint import load, save

install()

__all__ = [
    "ElectrostaticsResult",
    "LatentElectrostatics",
    "LesPluginsError",
    "LongRangeConfig",
    "Multipoles",
    "attach",
    "load",
    "save",
]
