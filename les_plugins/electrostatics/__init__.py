"""Electrostatics of latent multipoles: tensors in, tensors out; no atoms object, no host, no config."""

from les_plugins.electrostatics.layer import ElectrostaticsResult, LatentElectrostatics
from les_plugins.electrostatics.solver import PermanentResult

__all__ = ["ElectrostaticsResult", "LatentElectrostatics", "PermanentResult"]
