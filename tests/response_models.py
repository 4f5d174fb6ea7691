"""A host in fifty lines: periodic or open edges, invariant features, edge heads; tests of response train it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from les_plugins import LongRangeConfig
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.response_prediction import Geometry

CUTOFF = 3.5
ELEMENTS = ("H", "O")
#: Charge flows between neighbours, dipoles are induced, element charges have a sum of zero in `crystal`.
SECTION: dict[str, Any] = {
    "multipoles": ["charge", "dipole"],
    "response": {"dipole": "anisotropic"},
    "total_charge": "conserved",
    "initial_charges": {"H": 0.5, "O": -0.5},
    "element_charges": "fixed",
    "dl": 2.0,
    "hidden": 8,
}


class TinyHost(nn.Module):
    """Number densities of each element around an atom as features, a long-range part, and a short-range energy."""

    def __init__(self, section: dict[str, Any] | None = None, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layout = FeatureLayout((LayerLayout(4),), cutoff=CUTOFF, mean_neighbors=6.0, elements=ELEMENTS)
        self.long_range: LongRange = build_long_range(layout, LongRangeConfig.parse(section or SECTION))
        self.short_range = nn.Linear(4, 1)
        self.double()

    def forward(self, geometry: Geometry, species: Tensor) -> tuple[Tensor, LongRangeResult]:
        """Energy (B,) eV and the long-range result."""
        positions, cell, pbc, batch = geometry
        centre, neighbor, vector = edges_of(geometry)
        length = torch.linalg.norm(vector, dim=1)
        envelope = (1.0 - (length / CUTOFF).clamp(max=1.0) ** 2) ** 3
        kinds = nn.functional.one_hot(species, 2).double()
        near = envelope[:, None] * kinds[neighbor]
        density = torch.zeros(len(batch), 2, dtype=torch.float64).index_add(0, centre, near)
        scalars = torch.cat([kinds, density], 1)
        features = NodeFeatures([LayerFeatures(scalars)], Edges(centre, neighbor, vector), species)
        charge = torch.zeros(len(pbc)) if self.long_range.config.total_charge == "given" else None
        result: LongRangeResult = self.long_range(features, positions, cell, pbc, batch, total_charge=charge)
        short = self.short_range(scalars).squeeze(1)
        return result.energy + torch.zeros(len(pbc), dtype=torch.float64).index_add(0, batch, short), result


def edges_of(geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, neighbour and vector of every pair within the cutoff, images in the cells next door included."""
    positions, cell, pbc, batch = geometry
    found = []
    steps = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    for step in steps:
        allowed = (pbc | (step == 0)).all(1)[batch]
        shift = torch.einsum("m,bmx->bx", step, cell)[batch]
        apart = positions[None, :, :] + shift[:, None, :] - positions[:, None, :]
        near = (apart.detach().square().sum(2) < CUTOFF**2) & (batch[:, None] == batch[None, :]) & allowed[:, None]
        if not bool(step.any()):
            near = near & ~torch.eye(len(batch), dtype=torch.bool)
        centre, neighbor = torch.nonzero(near, as_tuple=True)
        found.append((centre, neighbor, apart[centre, neighbor]))
    centres, neighbors, vectors = zip(*found, strict=True)
    return torch.cat(centres), torch.cat(neighbors), torch.cat(vectors)


def crystal(seed: int = 1, copies: int = 1, periodic: bool = True, skew: float = 0.4) -> tuple[Geometry, Tensor]:
    """Structures of eight atoms, two elements in equal number, near the places of a rocksalt; the leaf has a graph."""
    generator = torch.Generator().manual_seed(seed)
    sites = torch.cartesian_prod(*[torch.arange(2, dtype=torch.float64)] * 3) * 2.2
    species = (sites.sum(1) / 2.2).round().long() % 2
    noise = 0.15 * torch.randn(copies * 8, 3, dtype=torch.float64, generator=generator)
    positions = sites.repeat(copies, 1) + noise
    cell = 4.4 * torch.eye(3, dtype=torch.float64)
    cell[1, 0] = skew
    pbc = torch.full((copies, 3), periodic)
    batch = torch.arange(copies).repeat_interleave(8)
    return Geometry(positions.requires_grad_(), cell.repeat(copies, 1, 1), pbc, batch), species.repeat(copies)
