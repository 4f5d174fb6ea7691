"""A host in fifty lines: periodic or open edges, invariant features, edge heads; tests of response train it."""

from __future__ import annotations

from typing import Any

import torch
from ase.neighborlist import primitive_neighbor_list
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
        short, result = self.parts(geometry, species)
        structures = torch.zeros(len(geometry.pbc), dtype=torch.float64)
        return result.energy + structures.index_add(0, geometry.batch, short), result

    def parts(self, geometry: Geometry, species: Tensor) -> tuple[Tensor, LongRangeResult]:
        """Short-range energies of atoms (N,) eV and the long-range result."""
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
        return self.short_range_energies(scalars, centre, length), result

    def short_range_energies(self, scalars: Tensor, centre: Tensor, length: Tensor) -> Tensor:
        """Of atoms (N,) eV, from their features and the lengths of their edges, Å."""
        found: Tensor = self.short_range(scalars).squeeze(1)
        return found


def edges_of(geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, neighbour and vector of every pair within the cutoff, images included."""
    positions, cell, pbc, batch = geometry
    centres, neighbors, images = [], [], []
    for structure in range(len(pbc)):
        atoms = torch.nonzero(batch == structure).squeeze(1)
        places, lattice = positions[atoms].detach().numpy(), cell[structure].detach().numpy()
        i, j, steps = primitive_neighbor_list("ijS", pbc[structure].numpy(), lattice, places, CUTOFF)
        centres.append(atoms[i])
        neighbors.append(atoms[j])
        images.append(torch.from_numpy(steps).double() @ cell[structure])
    centre, neighbor = torch.cat(centres), torch.cat(neighbors)
    return centre, neighbor, positions[neighbor] + torch.cat(images) - positions[centre]


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
