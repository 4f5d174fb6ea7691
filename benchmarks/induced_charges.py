"""Writes a MACE training for each kind of induced charges, the same in everything else, for water or MAPbI3.

    python benchmarks/induced_charges.py mapbi3 pairs-atoms $DATA runs/mapbi3-pairs-atoms
    les-plugins train mace --config runs/mapbi3-pairs-atoms/config.yaml
    les-plugins evaluate runs/mapbi3-pairs-atoms/model.les $DATA/mapbi3/valid.extxyz
    les-plugins evaluate runs/mapbi3-pairs-atoms/model.les $DATA/mapbi3/bec_valid.extxyz
    python benchmarks/long_waves.py runs/mapbi3-pairs-atoms/model.les --structure mapbi3-222 --waves 1 2 4

`$DATA` is the folder of model_zoo/recipes/data.json. One seed a run: `--seed`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from mace_training import training

#: What is compared: the induced charges of a section.
KINDS: dict[str, dict[str, Any]] = {
    "none": {},
    "onsite": {"charge": "onsite"},
    "pairs-atoms": {"charge": "pairs"},
    "pairs-edges": {"charge": "pairs", "pair_softness": "edges"},
    "pairs-atoms-3": {"charge": "pairs", "pair_cutoff": 3.0},
    "pairs-edges-3": {"charge": "pairs", "pair_softness": "edges", "pair_cutoff": 3.0},
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "water": {
        "files": ("water/rpbe_d3_train.extxyz", "water/rpbe_d3_valid.extxyz"),
        "r_max": 4.5,
        "long_range": {"sigma": 1.0, "epsilon_infinity": 1.78, "initial_charges": {"O": -0.6, "H": 0.3}},
    },
    "mapbi3": {
        "files": ("mapbi3/train.extxyz", "mapbi3/valid.extxyz"),
        "r_max": 5.0,
        # formal charges over sqrt(4.7)
        "long_range": {
            "sigma": 1.2,
            "epsilon_infinity": 4.7,
            "initial_charges": {"Pb": 0.92, "I": -0.46, "C": 0.0, "N": -0.23, "H": 0.115},
        },
    },
}


def config(system: str, kind: str, data: Path, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """The training file."""
    network = {
        "hidden_irreps": "16x0e + 16x1o",
        "num_interactions": 2,
        "max_ell": 3,
        "r_max": SYSTEMS[system]["r_max"],
        "ema_decay": 0.995,
        "long_range": {
            "multipoles": ["charge", "dipole", "quadrupole"],
            "response": {"dipole": "isotropic", **KINDS[kind]},
            "total_charge": "conserved",
            "element_charges": "fixed",
            **SYSTEMS[system]["long_range"],
        },
    }
    return training(SYSTEMS[system]["files"], data, folder, epochs, seed, network)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    written = config(given.system, given.kind, given.data, given.folder, given.epochs, given.seed)
    (given.folder / "config.yaml").write_text(yaml.safe_dump(written, sort_keys=False))


if __name__ == "__main__":
    main()
