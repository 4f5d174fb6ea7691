"""What flow over pairs costs: energy and forces with charges induced on atoms, and over pairs of both kinds.

    OMP_NUM_THREADS=1 python benchmarks/pairs.py              (192 atoms)
    OMP_NUM_THREADS=1 python benchmarks/pairs.py --repeat 3   (5,184 atoms)

Water in float64, the long-range part of a model alone: heads on random features of 32 scalars, charges, dipoles,
quadrupoles and isotropic induced dipoles, edges up to 4.5 Å. Prints the shortest processor time of each kind in
milliseconds, all kinds in turn, and the median over the rounds of its ratio to on-site charges.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import ase.io
import numpy as np
import torch
from ase.neighborlist import neighbor_list
from torch import Tensor

from les_plugins.config import LongRangeConfig
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.long_range import LongRange
from les_plugins.storage.zoo import structure

CUTOFF = 4.5
SCALARS = 32
KINDS: dict[str, dict[str, Any]] = {
    "no induced charge": {},
    "onsite": {"charge": "onsite"},
    "pairs, of atoms": {"charge": "pairs"},
    "pairs, of edges": {"charge": "pairs", "pair_softness": "edges"},
}


def part_of(response: dict[str, Any], solve: str) -> LongRange:
    """The long-range part of a section."""
    torch.manual_seed(0)
    section = {"heads": "edge", "response": {"dipole": "isotropic", "solve": solve, **response}}
    layout = FeatureLayout((LayerLayout(SCALARS),), cutoff=CUTOFF, mean_neighbors=40.0)
    return build_long_range(layout, LongRangeConfig.parse(section)).double()


def seconds(part: LongRange, geometry: tuple[Tensor, ...], edges: tuple[Tensor, ...], scalars: Tensor) -> float:
    """Processor time of one energy with forces."""
    start = time.process_time()
    positions, cell, pbc, batch = geometry
    places = positions.clone().requires_grad_()
    centre, neighbor, shift = edges
    vector = places[neighbor] + shift - places[centre]
    features = NodeFeatures([LayerFeatures(scalars)], Edges(centre, neighbor, vector))
    energy = part(features, places, cell, pbc, batch).energy.sum()
    torch.autograd.grad(energy, places)
    return time.process_time() - start


def main() -> None:
    """Time every kind in turn, print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--solve", default="one_shot")
    args = parser.parse_args()
    atoms = ase.io.read(structure("water-64")).repeat(args.repeat)
    i, j, images = neighbor_list("ijS", atoms, CUTOFF)
    cell = torch.tensor(atoms.cell.array)
    edges = torch.tensor(i), torch.tensor(j), torch.tensor(images).double() @ cell
    batch = torch.zeros(len(atoms), dtype=torch.long)
    geometry = torch.tensor(atoms.positions), cell[None], torch.ones(1, 3, dtype=torch.bool), batch
    scalars = torch.randn(len(atoms), SCALARS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = {name: part_of(response, args.solve) for name, response in KINDS.items()}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(args.rounds + 1):
        for name, part in parts.items():
            found = seconds(part, geometry, edges, scalars)
            if number:  # the first round warms up
                times[name].append(found)
    print(f"{len(atoms)} atoms, {len(i)} edges, {args.solve}")
    for name, found in times.items():
        ratio = np.median(np.array(found) / np.array(times["onsite"]))
        print(f"  {name:18s} {1e3 * min(found):9.1f} ms, over onsite {ratio:.3f}")


if __name__ == "__main__":
    main()
