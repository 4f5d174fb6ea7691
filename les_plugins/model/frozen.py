"""Which parameters of a model a training moves: `run: {train_only: ...}`. Adapters call `freeze` before they train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from les_plugins.model.outputs import long_range_part

TrainOnly = Literal["all", "last_layer", "long_range"]


def freeze(
    model: nn.Module, train_only: TrainOnly, last_layer: Iterable[nn.Module], beside: Iterable[nn.Module] = ()
) -> None:
    """Take the gradient from every parameter that a training is not to move; no optimizer changes such a parameter.

    Parameters that the host itself does not train stay so.

    Args:
        model: with a long-range part.
        train_only: "all", everything; "last_layer", the long-range part and the host's last layer with its readout;
            "long_range", the long-range part alone.
        last_layer: the host's modules that count as its last layer.
        beside: modules of the adapter's that feed the long-range part.
    """
    if train_only == "all":
        return
    part = long_range_part(model)
    trained = [*beside, *(last_layer if train_only == "last_layer" else ()), *(() if part is None else (part,))]
    moved = {id(parameter) for module in trained for parameter in module.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in moved:
            parameter.requires_grad_(False)
