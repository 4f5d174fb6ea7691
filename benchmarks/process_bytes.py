"""Bytes that each process of a group hands over for one step of a box of water.

python benchmarks/process_bytes.py
python benchmarks/process_bytes.py --method mesh

Charges to quadrupoles. On the mesh the largest of the ranks, whose atoms are anywhere in the box without --slabs. The
self-consistent response with the stated number of iterations, started from zero.
"""

from __future__ import annotations

import argparse

import torch

from les_plugins import LatentElectrostatics
from les_plugins.electrostatics.communication import bytes_per_step

EDGE = 12.42  # Å, 192 atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[192, 1536, 5184, 98304])
    parser.add_argument("--dl", type=float, nargs="+", default=[1.2, 2.0])
    parser.add_argument("--method", choices=("direct", "mesh"), default="direct")
    parser.add_argument("--ranks", type=int, default=4, help="of the mesh; the direct sum's bytes depend on no number")
    parser.add_argument("--slabs", action="store_true", help="atoms dealt as RankCalculator deals them")
    parser.add_argument("--iterations", type=int, default=10)
    arguments = parser.parse_args()
    answering = f"with forces, kB | one shot, kB | self-consistent, {arguments.iterations} iterations, kB"
    print(f"| atoms | edge, Å | dl, Å | energy, kB | {answering} |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for n_atoms in arguments.sizes:
        edge = EDGE * (n_atoms / 192) ** (1 / 3)
        cell = edge * torch.eye(3, dtype=torch.float64)[None]
        places = edge * torch.rand(n_atoms, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        own = [places[rank :: arguments.ranks] for rank in range(arguments.ranks)]
        if arguments.slabs:
            own = list(places[places[:, 0].argsort()].tensor_split(arguments.ranks))
        atoms = [(positions, torch.zeros(len(positions), dtype=torch.long)) for positions in own]
        ranks = range(arguments.ranks if arguments.method == "mesh" else 1)
        for dl in arguments.dl:
            none, one_shot, self_consistent = (
                LatentElectrostatics(dl=dl, method=arguments.method, response=response)
                for response in (None, "one_shot", "self_consistent")
            )
            kinds = (
                (none, {"forces": False}),
                (none, {}),
                (one_shot, {}),
                (self_consistent, {"iterations": arguments.iterations}),
            )
            sent = [
                max(bytes_per_step(layer, cell, atoms=atoms, rank=rank, **settings) for rank in ranks)  # type: ignore[arg-type]
                for layer, settings in kinds
            ]
            cells = " | ".join(f"{value / 1e3:,.1f}" for value in sent)
            print(f"| {n_atoms:,} | {edge:.1f} | {dl} | {cells} |")


if __name__ == "__main__":
    main()
