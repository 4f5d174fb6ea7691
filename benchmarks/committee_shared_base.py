"""What a committee of long-range parts on one MACE would save by evaluating the base once.

    python benchmarks/committee_shared_base.py [MODEL] [--channels 128] [--structure FILE]

Processor time of the parts of an evaluation, one thread: the base from positions to features, the long-range part, and
the derivative of the energy by positions and strain, which goes through the base for every member. The last lines are
the time of N members on their own over that of N members that share graph and features of the base.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import mace  # noqa: F401 (before e3nn)
import numpy as np
import torch
from ase import Atoms
from e3nn.o3 import Irreps
from mace import modules
from torch import nn

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.model import layer_irreps, node_features
from les_plugins.adapters.mace.summed import strained
from les_plugins.storage import zoo

REPEATS = 3
SIZES = (2, 4, 8)


def main() -> None:
    """Print one line a part, then one a size of the committee."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="water-mace")
    parser.add_argument("--channels", type=int, help="a new MACE with so many, in the place of MODEL")
    parser.add_argument("--structure", type=Path, default=zoo.structure("water-64"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    atoms = ase.io.read(args.structure)
    assert isinstance(atoms, Atoms)
    model = les_plugins.load(args.model).models[0] if args.channels is None else new_model(args.channels)
    calculator = LesMACECalculator(model)
    whole = seconds(lambda: calculator.calculate(atoms, ["energy", "forces"]))
    batch = calculator._atoms_to_batch(atoms)
    data = batch.to_dict()
    positions = data["positions"].requires_grad_(True)
    base = seconds(lambda: model.base(data, compute_force=False, compute_displacement=True))
    data = batch.to_dict()
    positions = data["positions"].requires_grad_(True)
    output = model.base(data, compute_force=False, compute_displacement=True)

    def long_range() -> torch.Tensor:
        features = node_features(layer_irreps(model.base), data, output["node_feats"])
        cell = strained(data["cell"].view(-1, 3, 3), output["displacement"])
        return model.long_range(features, data["positions"], cell, data["pbc"].view(-1, 3), data["batch"]).energy

    part = seconds(long_range)
    energy = (output["interaction_energy"] + long_range().float()).sum()
    leaves = [positions, output["displacement"]]
    back = seconds(lambda: torch.autograd.grad(energy, leaves, retain_graph=True))
    name = args.model if args.channels is None else f"{args.channels} channels"
    print(f"{name}, {len(atoms)} atoms, s of one core: an evaluation {whole:.3f}")
    for label, value in (("base", base), ("long-range part", part), ("derivatives", back)):
        print(f"  {label:16s} {value:.3f}  {value / (base + part + back):.2f}")
    for size in SIZES:
        apart, together = size * (base + part + back), base + size * (part + back)
        energies = size * (base + part) / (base + size * part)
        print(f"{size} members: {apart / together:.2f} times as fast with forces, {energies:.1f} for energies alone")


def new_model(channels: int) -> nn.Module:
    """A MACE of two layers as foundation models have, with random weights and a long-range part."""
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    base = modules.ScaleShiftMACE(
        r_max=5.0,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=Irreps(f"{channels}x0e + {channels}x1o"),
        MLP_irreps=Irreps("16x0e"),
        atomic_energies=np.zeros(2),
        avg_num_neighbors=50.0,
        atomic_numbers=[1, 8],
        correlation=3,
        gate=nn.functional.silu,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    return les_plugins.attach(base, {"multipoles": ["charge", "dipole", "quadrupole"]}).float()


def seconds(run: Callable[[], object]) -> float:
    """Processor time of the fastest of some runs."""
    run()
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


if __name__ == "__main__":
    main()
