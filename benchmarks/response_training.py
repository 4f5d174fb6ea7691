"""Time of one training step with and without response labels in the loss, NequIP, one thread.

OMP_NUM_THREADS=1 python benchmarks/response_training.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from nequip.utils.global_state import set_global_state

from les_plugins.adapters.nequip.contract import batch_of
from les_plugins.adapters.nequip.response import ResponseLightningModule
from les_plugins.testing.structures import waters

MODEL = {
    "_target_": "nequip.model.NequIPGNNModel",
    "seed": 1,
    "model_dtype": "float32",
    "type_names": ["H", "O"],
    "r_max": 4.5,
    "num_layers": 2,
    "l_max": 2,
    "num_features": 16,
    "avg_num_neighbors": 20.0,
    "per_type_energy_shifts": {"H": 0.0, "O": 0.0},
    "per_type_energy_scales": {"H": 1.0, "O": 1.0},
}
LONG_RANGE = {
    "multipoles": ["charge", "dipole"],
    "response": {"dipole": "anisotropic"},
    "total_charge": "conserved",
    "initial_charges": {"O": -0.8, "H": 0.4},
    "element_charges": "fixed",
    "screening": "trained",
    "epsilon_infinity": 1.78,
}
SECTIONS: dict[str, dict[str, float] | None] = {
    "energy, forces": None,
    "+ polarizability": {"polarizability": 1.0},
    "+ polarization": {"polarization": 1.0},
    "+ Z*, one projection": {"born_effective_charges": 1.0, "projections": 1},
    "+ Z*": {"born_effective_charges": 1.0},
    "+ all": {"born_effective_charges": 1.0, "polarizability": 1.0, "polarization": 1.0},
}


def main() -> None:
    """Print the median time of a step, and its ratio to that of energy and forces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=2, help="of 24 atoms along each axis")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    set_global_state()
    atoms = waters(8).repeat(given.cells)
    batch = batch_of([atoms])
    count = len(atoms)
    batch["total_energy"], batch["forces"] = torch.zeros(1, 1).double(), torch.zeros(count, 3).double()
    batch["born_effective_charges"] = torch.zeros(count, 3, 3).double()
    batch["polarizability"], batch["polarization_dipole"] = torch.zeros(1, 3, 3).double(), torch.zeros(1, 3).double()
    steps = {name: _step(_module(section), batch) for name, section in SECTIONS.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(given.repeat + 1):  # one after the other, so that the load of the machine is shared by all
        for name, step in steps.items():
            begin = time.process_time()
            step()
            times[name].append(time.process_time() - begin)
    first = statistics.median(times["energy, forces"][1:])
    print(f"{count} atoms, seconds of CPU a step, median of {given.repeat}")
    for name, found in times.items():
        middle = statistics.median(found[1:])
        print(f"{name:24s} {middle:8.3f}  {middle / first:5.2f}")


def _module(section: dict[str, float] | None) -> Any:
    extra = {} if section is None else {"response_loss": section}
    model = {
        "_target_": "les_plugins.adapters.nequip.LongRangeModel",
        "model": MODEL,
        "long_range": LONG_RANGE,
        **extra,
    }
    loss = {"_target_": "nequip.train.EnergyForceLoss", "coeffs": {"total_energy": 1.0, "forces": 1.0}}
    sets = {"train": 1, "val": 0, "test": 0, "predict": 0}
    return ResponseLightningModule(model=model, loss=loss, num_datasets=sets)


def _step(module: Any, batch: dict[str, torch.Tensor]) -> Any:
    def step() -> None:
        module.zero_grad()
        module.loss(module(dict(batch)), batch)["weighted_sum"].backward()

    return step


if __name__ == "__main__":
    main()
