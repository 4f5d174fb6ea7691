"""Tiny MatGL models for the tests of that adapter; imported by them, never by the package."""

from __future__ import annotations

from typing import Any

import torch

import les_plugins
from les_plugins.adapters.matgl.contract import M3GNetContract, TensorNetContract, batch_of, tiny_model, tiny_potential
from les_plugins.testing import long_range_part
from les_plugins.testing.structures import waters

__all__ = [
    "ARCHITECTURES",
    "FULL",
    "batch_of",
    "energy",
    "long_range_part",
    "tiny_long_range",
    "tiny_model",
    "tiny_potential",
    "waters",
]

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}
ARCHITECTURES = ("TensorNet", "M3GNet")
_CONTRACTS = {"TensorNet": TensorNetContract, "M3GNet": M3GNetContract}


def tiny_long_range(architecture: str = "TensorNet", config: Any = FULL, **changes: Any) -> Any:
    """A Potential with a long-range part whose moments are of natural size."""
    torch.manual_seed(0)
    return _CONTRACTS[architecture]().amplify(les_plugins.attach(tiny_potential(architecture, **changes), config))


def energy(potential: Any, atoms: Any) -> float:
    return potential(*batch_of([atoms], potential.data_mean.dtype))[0].item()
