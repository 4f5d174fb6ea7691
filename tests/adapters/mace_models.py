"""Tiny MACE models and batches for the tests of the MACE adapter: those of the contract, and heads of natural size."""

from __future__ import annotations

import torch

from les_plugins.adapters.mace.contract import CUTOFF, batch_of, default_dtype, tiny_mace
from les_plugins.testing.structures import ELEMENTS, waters

SPECIES = list(ELEMENTS)
__all__ = ["CUTOFF", "SPECIES", "amplify", "batch_of", "default_dtype", "tiny_mace", "waters"]


def amplify(model: torch.nn.Module, factor: float = 20.0) -> torch.nn.Module:
    """Give fresh heads moments of natural size (some 0.1 e), so that the long-range part is seen in every test."""
    with torch.no_grad():
        for name, parameter in model.les_readouts.named_parameters():
            if name.endswith(("linear.0.weight", "linear.1.weight", "mix.weight", "left.weight", "right.weight")) or (
                name.endswith(("tensors.weight", "out.weight"))
            ):
                parameter.mul_(factor)
            if ".charge.network" in name:
                parameter.mul_(2.0)
    return model
