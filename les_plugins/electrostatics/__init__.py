"""Electrostatics of latent multipoles: tensors in, tensors out; no atoms object, no host, no config."""

from les_plugins.electrostatics.layer import ElectrostaticsResult, LatentElectrostatics
from les_plugins.electrostatics.results import PermanentResult
from les_plugins.electrostatics.settings import ElectrostaticsSettings

__all__ = ["ElectrostaticsResult", "ElectrostaticsSettings", "LatentElectrostatics", "PermanentResult"]
