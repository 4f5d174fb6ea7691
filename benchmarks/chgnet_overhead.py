"""What a long-range part costs in CHGNet: energy, forces and stress of MAPbI3 (96 atoms), packaged weights, one core.

OMP_NUM_THREADS=1 python benchmarks/chgnet_overhead.py
"""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

import ase.io
import torch
from chgnet.model import CHGNet

import les_plugins
from les_plugins.adapters.chgnet.graphs import graph_of

SECTIONS: dict[str, dict[str, Any]] = {
    "charge": {"multipoles": ["charge"]},
    "charge, dipole, quadrupole": {},
    "the same, induced dipoles": {"response": {"dipole": "isotropic"}},
}


def seconds(model: Any, graph: Any, times: int = 6) -> float:
    """The shortest of some evaluations, in processor time: other programs may run beside it."""
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        model([graph], task="efs")
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    torch.set_num_threads(1)
    base = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False).eval()
    atoms = ase.io.read(str(files("les_plugins.model_zoo") / "structures" / "mapbi3-222.xyz"))
    graph = graph_of(atoms, base)
    print(f"{len(atoms)} atoms, {len(graph.atom_graph)} edges, {len(graph.bond_graph)} angles; s for each evaluation")
    print(f"{'CHGNet alone':30s} {seconds(base, graph):.3f}")
    for name, section in SECTIONS.items():
        model = les_plugins.attach(base, {"total_charge": "conserved", **section}).eval()
        print(f"{name:30s} {seconds(model, graph):.3f}")


if __name__ == "__main__":
    main()
