"""Long-range electrostatics for machine-learning interatomic potentials, as a plugin for the frameworks in use.

Importing this package imports torch and no host framework.
"""

from les_plugins.electrostatics import ElectrostaticsResult, LatentElectrostatics
from les_plugins.errors import LesPluginsError
from les_plugins.multipoles import Multipoles

__version__ = "0.1.0"

__all__ = ["ElectrostaticsResult", "LatentElectrostatics", "LesPluginsError", "Multipoles"]
