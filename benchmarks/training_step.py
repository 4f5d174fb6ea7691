"""Processor time of a training step with and without the long-range part, MACE or NequIP, one thread.

    OMP_NUM_THREADS=1 python benchmarks/training_step.py mace
    OMP_NUM_THREADS=1 python benchmarks/training_step.py nequip

MACE: a batch of 16 cells of CsPbI3, 40 atoms each, 16 scalars and 16 vectors a layer, float32, a loss on energies and
forces. NequIP: one box of 192 atoms of water. The models take turns, so that the load of the machine is shared by all.
With `--heads` there is one more: the heads of all terms, and in the place of the sum the squares of what they predict.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from les_plugins.electrostatics.results import ElectrostaticsResult
from les_plugins.model.long_range import LongRange

Sections = dict[str, dict[str, object]]
SECTIONS: Sections = {
    "q": {"multipoles": ["charge"]},
    "q, u, Q": {"multipoles": ["charge", "dipole", "quadrupole"]},
    "q, u, Q, one-shot response": {
        "multipoles": ["charge", "dipole", "quadrupole"],
        "response": {"charge": True, "dipole": "isotropic"},
    },
    "q, u, Q, self-consistent response": {
        "multipoles": ["charge", "dipole", "quadrupole"],
        "response": {"charge": True, "dipole": "isotropic", "solve": "self_consistent"},
    },
}
Steps = dict[str, Callable[[], None]]
HEADS = "heads alone"


def main() -> None:
    """Print the median time of a step, and its ratio to that of the short-range model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", choices=("mace", "nequip"))
    parser.add_argument("--structures", type=int, default=16, help="of CsPbI3, MACE")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--terms", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--heads", action="store_true", help=f"also time {HEADS}")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sections = {name: SECTIONS[name] for name in given.terms}
    if given.heads:
        sections[HEADS] = SECTIONS["q, u, Q, one-shot response"]
    steps = of_mace(sections, given.structures) if given.host == "mace" else of_nequip(sections)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.repeat + 1):
        for name, step in steps.items():
            begin = time.process_time()
            step()
            times[name].append(time.process_time() - begin)
    first = statistics.median(times["short-range"][1:])
    print(f"{given.host}, seconds of CPU a step, median of {given.repeat}")
    for name, found in times.items():
        middle = statistics.median(found[1:])
        print(f"{name:36s} {middle:8.3f}  {middle / first:5.2f}")


class Squares(nn.Module):
    """In the place of the sum: an energy of everything that the heads predict, which costs next to nothing."""

    def forward(self, positions, cell, pbc, batch, multipoles, softness, polarizability, **_) -> ElectrostaticsResult:
        charge, dipole, quadrupole = multipoles
        atomic = charge.square() + dipole.square().sum(1) + quadrupole.square().sum((1, 2)) + softness + polarizability
        energy = torch.zeros(len(cell), dtype=atomic.dtype).index_add(0, batch, atomic)
        return ElectrostaticsResult(energy.double(), atomic.double(), charge, dipole, charge, dipole)


def without_sum(model: nn.Module, name: str) -> nn.Module:
    for part in model.modules():
        if name == HEADS and isinstance(part, LongRange):
            part.electrostatics = Squares()
    return model


def of_mace(sections: Sections, n_structures: int) -> Steps:
    import mace  # noqa: F401 (before e3nn)
    import numpy as np
    from ase import Atoms
    from e3nn import o3
    from mace import data, modules, tools
    from mace.tools import torch_geometric

    import les_plugins

    torch.manual_seed(0)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    numbers = [53, 55, 82]
    base = modules.ScaleShiftMACE(
        r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, correlation=2, interaction_cls=interaction,
        interaction_cls_first=interaction, num_interactions=2, hidden_irreps=o3.Irreps("16x0e + 16x1o"),
        MLP_irreps=o3.Irreps("16x0e"), gate=torch.nn.functional.silu, num_elements=3, atomic_numbers=numbers,
        atomic_energies=np.zeros(3), avg_num_neighbors=20.0, atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    ).float()  # fmt: skip
    torch.set_default_dtype(torch.float32)
    perovskite = Atoms(
        "CsPbI3",
        scaled_positions=[[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]],
        cell=[6.25] * 3,
        pbc=True,
    ).repeat(2)
    graphs = []
    for seed in range(n_structures):
        atoms = perovskite.copy()
        atoms.rattle(0.15, seed=seed)
        atoms.set_cell(atoms.cell * (1.0 + 0.01 * (seed % 4)), scale_atoms=True)  # as a training set of a crystal
        graphs.append(
            data.AtomicData.from_config(
                data.config_from_atoms(atoms), z_table=tools.AtomicNumberTable(numbers), cutoff=5.0
            )
        )
    batch = next(iter(torch_geometric.dataloader.DataLoader(graphs, batch_size=n_structures)))
    models = {"short-range": base}
    models |= {
        name: without_sum(les_plugins.attach(copy.deepcopy(base), section), name) for name, section in sections.items()
    }
    steps: Steps = {}
    for name, model in models.items():
        model.train()
        for parameter in model.parameters():
            parameter.requires_grad_(True)

        def step(model: torch.nn.Module = model) -> None:
            model.zero_grad()
            found = model(batch.clone().to_dict(), training=True, compute_force=True, compute_stress=False)
            (found["energy"].square().mean() + found["forces"].square().mean()).backward()

        steps[name] = step
    return steps


def of_nequip(sections: Sections) -> Steps:
    from nequip.train import NequIPLightningModule
    from nequip.utils.global_state import set_global_state
    from response_training import MODEL

    from les_plugins.adapters.nequip import contract
    from les_plugins.testing.structures import waters

    set_global_state()
    atoms = waters(8).repeat(2)
    contract.CUTOFF = MODEL["r_max"]  # of the graph, else that of the contract's tiny model
    batch = contract.batch_of([atoms])
    batch["total_energy"], batch["forces"] = torch.zeros(1, 1).double(), torch.zeros(len(atoms), 3).double()
    models: dict[str, dict[str, object]] = {"short-range": MODEL}
    models |= {
        name: {"_target_": "les_plugins.adapters.nequip.LongRangeModel", "model": MODEL, "long_range": section}
        for name, section in sections.items()
    }
    loss = {"_target_": "nequip.train.EnergyForceLoss", "coeffs": {"total_energy": 1.0, "forces": 1.0}}
    sets = {"train": 1, "val": 0, "test": 0, "predict": 0}
    steps: Steps = {}
    for name, model in models.items():
        module = without_sum(NequIPLightningModule(model=model, loss=loss, num_datasets=sets).train(), name)

        def step(module: torch.nn.Module = module) -> None:
            module.zero_grad()
            module.loss(module(dict(batch)), batch)["weighted_sum"].backward()

        steps[name] = step
    return steps


if __name__ == "__main__":
    main()
