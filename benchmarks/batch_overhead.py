"""Energy and forces of a batch of small periodic structures, against its structures one by one and one large one.

    OMP_NUM_THREADS=1 python benchmarks/batch_overhead.py

Random charges and dipoles, the density of water, one thread, processor time, the shortest of the repeats.
"""

from __future__ import annotations

import argparse

import torch
from direct_floor import best_in_turn

from les_plugins import LatentElectrostatics, Multipoles

EDGE = 6.0  # Å, 20 atoms


def evaluate(layer: LatentElectrostatics, n_structures: int, n_atoms: int, edge: float) -> None:
    total = n_structures * n_atoms
    positions = (edge * torch.rand(total, 3, dtype=torch.float64)).requires_grad_()
    cell = (edge * torch.eye(3, dtype=torch.float64)).expand(n_structures, 3, 3)
    moments = Multipoles(torch.randn(total, dtype=torch.float64), torch.randn(total, 3, dtype=torch.float64))
    batch = torch.arange(n_structures).repeat_interleave(n_atoms)
    result = layer(positions, cell, torch.ones(n_structures, 3, dtype=torch.bool), batch, moments)
    torch.autograd.grad(result.energy.sum(), positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=16)
    parser.add_argument("--atoms", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    layer = LatentElectrostatics(method="direct", net_charge_warning=None)
    n, atoms = arguments.structures, arguments.atoms
    edge = EDGE * (atoms / 20) ** (1 / 3)
    cases = {
        f"{n} structures of {atoms} atoms": (n, atoms, edge),
        f"1 structure of {atoms} atoms": (1, atoms, edge),
        f"1 structure of {n * atoms} atoms": (1, n * atoms, edge * n ** (1 / 3)),
    }
    calls = {name: lambda case=case: evaluate(layer, *case) for name, case in cases.items()}
    for name, seconds in best_in_turn(calls, arguments.repeats).items():
        print(f"{name}: {1e3 * seconds:.1f} ms")


if __name__ == "__main__":
    main()
