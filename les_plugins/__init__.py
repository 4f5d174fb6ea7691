"""Long-range electrostatics for machine-learning interatomic potentials, as a plugin for the frameworks in use.

Importing this package imports torch and no host framework.
"""

__version__ = "0.1.0"

from les_plugins.checkpoint import load, save
from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics import ElectrostaticsResult, LatentElectrostatics
from les_plugins.errors import LesPluginsError
from les_plugins.multipoles import Multipoles
from les_plugins.plugins import attach

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
