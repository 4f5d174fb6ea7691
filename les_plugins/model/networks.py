"""Small networks of a host's scalars that several heads are made of. `heads.py` and `pair_softness.py` call them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from les_plugins.model.features import NodeFeatures

RADIAL_FUNCTIONS = 8


class ScalarHead(nn.Module):
    """One scalar an atom: a linear map plus a small network of each layer's scalars, summed over layers."""

    def __init__(self, scalars: list[int], hidden: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList([nn.Linear(channels, 1, bias=False) for channels in scalars])
        self.network = nn.ModuleList([small_network(channels, hidden, 1) for channels in scalars])

    def forward(self, features: NodeFeatures) -> Tensor:
        """(N,)."""
        total = torch.zeros_like(features.layers[0].scalars[:, :1])
        for layer, linear, network in zip(features.layers, self.linear, self.network, strict=True):
            total = total + linear(layer.scalars) + network(layer.scalars)
        return total.squeeze(1)


def radial_functions(length: Tensor, cutoff: float) -> Tensor:
    """(E, 8) Bessel functions of (E, 1) lengths, times an envelope with two vanishing derivatives at the cutoff."""
    x = length / cutoff
    order = torch.arange(1, RADIAL_FUNCTIONS + 1, dtype=length.dtype, device=length.device)
    envelope = torch.where(x < 1.0, 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8, torch.zeros_like(x))
    return math.sqrt(2.0) * torch.sinc(order * x) * order * envelope


def small_network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
