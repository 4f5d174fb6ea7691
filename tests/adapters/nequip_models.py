"""Tiny NequIP and Allegro models and batches for the tests of that adapter; imported by them, never by the package."""

from __future__ import annotations

from typing import Any

import torch
from nequip.utils.global_state import set_global_state

from les_plugins.adapters.nequip import LongRangeModel
from les_plugins.adapters.nequip.contract import CUTOFF, HOST_SECTIONS, SPECIES, batch_of, training_settings
from les_plugins.testing.structures import waters

__all__ = [
    "CUTOFF",
    "HOST_SECTIONS",
    "SPECIES",
    "amplify",
    "batch_of",
    "part",
    "tiny_host",
    "tiny_long_range",
    "training_settings",
    "waters",
]


def tiny_host(architecture: str = "nequip", **changes: Any) -> torch.nn.Module:
    """A bare model with random weights, through the host's own builder, in evaluation mode."""
    set_global_state()
    return LongRangeModel({**HOST_SECTIONS[architecture], **changes}).eval()


def tiny_long_range(architecture: str = "nequip", config: Any = None, **changes: Any) -> torch.nn.Module:
    """The same with a long-range part, as the YAML of a user builds it, moments of natural size."""
    section = {**HOST_SECTIONS[architecture], **changes}
    return amplify(LongRangeModel(model=section, long_range=config or {}).eval())


def part(model: torch.nn.Module) -> Any:
    from les_plugins.model.outputs import long_range_part

    found = long_range_part(model)
    assert found is not None
    return found


def amplify(model: torch.nn.Module, factor: float = 20.0) -> torch.nn.Module:
    """Give fresh heads moments of natural size (some 0.1 e), so that the long-range part is seen in every test."""
    with torch.no_grad():
        for name, parameter in part(model).named_parameters():
            if name.endswith(("mix.weight", "left.weight", "right.weight", "tensors.weight", "out.weight")) or (
                ".linear." in name
            ):
                parameter.mul_(factor)
            if ".charge.network" in name:
                parameter.mul_(2.0)
    return model
