"""Electrostatics of latent multipoles: tensors in, tensors out; no atoms object, no host, no config."""

from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.electrostatics.layer import LatentElectrostatics
from les_plugins.electrostatics.results import ElectrostaticsResult, PermanentResult
from les_plugins.electrostatics.settings import ElectrostaticsSettings

__all__ = ["ElectrostaticsResult", "ElectrostaticsSettings", "LatentElectrostatics", "PairSoftness", "PermanentResult"]
