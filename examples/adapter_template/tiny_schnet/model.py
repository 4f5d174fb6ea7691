"""`TinySchNet`: an invariant message-passing potential after SchNet (J. Chem. Phys. 148, 241722 (2018))."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class TinySchNet(nn.Module):
    """Per-atom energies from continuous-filter convolutions over neighbours.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: radius of the neighbourhood, Å.
        channels: width of the atoms' features.
        layers: number of interaction blocks.
        mean_neighbors: mean number of neighbours, which normalises the messages.
    """

    def __init__(
        self,
        elements: Sequence[int] = (1, 8),
        cutoff: float = 3.5,
        channels: int = 8,
        layers: int = 2,
        mean_neighbors: float = 4.0,
    ) -> None:
        super().__init__()
        self.config = {
            "elements": list(elements),
            "cutoff": cutoff,
            "channels": channels,
            "layers": layers,
            "mean_neighbors": mean_neighbors,
        }
        self.register_buffer("element_index", torch.full((119,), -1))
        self.element_index[torch.tensor(list(elements))] = torch.arange(len(elements))
        self.embedding = nn.Embedding(len(elements), channels)
        self.blocks = nn.ModuleList([Interaction(channels, cutoff, mean_neighbors) for _ in range(layers)])
        self.readout = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Energy (B,) and atomic_energy (N,) in eV, and node_features: (N, channels) of every layer, concatenated."""
        vector = edge_vectors(batch)
        length = torch.linalg.norm(vector, dim=1, keepdim=True)
        features = self.embedding(self.element_index[batch["numbers"]])
        layers = []
        for block in self.blocks:
            features = features + block(features, batch["edge_index"], length)
            layers.append(features)
        atomic = self.readout(features).squeeze(1)
        energy = atomic.new_zeros(len(batch["cell"])).index_add(0, batch["batch"], atomic)
        return {"energy": energy, "atomic_energy": atomic, "node_features": torch.cat(layers, 1)}


class Interaction(nn.Module):
    """Neighbours' features, each filtered by its distance, summed, and passed through a small network."""

    def __init__(self, channels: int, cutoff: float, mean_neighbors: float) -> None:
        super().__init__()
        self.cutoff, self.norm = cutoff, math.sqrt(mean_neighbors)
        self.filter = nn.Sequential(nn.Linear(8, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.before = nn.Linear(channels, channels, bias=False)
        self.after = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, features: Tensor, edge_index: Tensor, length: Tensor) -> Tensor:
        """(N, channels)."""
        centre, neighbor = edge_index
        centres = torch.linspace(0.0, self.cutoff, 8, dtype=length.dtype, device=length.device)
        gaussians = torch.exp(-((length - centres) ** 2) * (4.0 / self.cutoff))
        smooth = (1.0 - (length / self.cutoff) ** 2).clamp(min=0.0) ** 3
        message = self.before(features)[neighbor] * self.filter(gaussians) * smooth / self.norm
        return self.after(torch.zeros_like(features).index_add(0, centre, message))


def edge_vectors(batch: Mapping[str, Tensor]) -> Tensor:
    """(E, 3) Å, from centre to neighbour, with the graph to positions and cell."""
    centre, neighbor = batch["edge_index"]
    positions, cell = batch["positions"], batch["cell"][batch["batch"][centre]]
    return positions[neighbor] - positions[centre] + torch.einsum("ea,eab->eb", batch["shifts"], cell)
