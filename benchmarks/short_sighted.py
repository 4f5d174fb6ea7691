"""A rule for σ from energies and forces alone: networks that see little, trained at several widths.

A host with two layers of 4.5 Å sees all of a training cell, and can carry the interaction of any charges by itself: its
errors hardly depend on σ. A network of one short layer cannot; what its moments do not carry is an error of the forces.
The rule: the σ with the smallest error of the validation forces. Reference Z* are compared afterwards and do not enter.

    python benchmarks/short_sighted.py water 0.75 $DATA runs/short-water-0.75
    les-plugins train mace --config runs/short-water-0.75/config.yaml
    python benchmarks/short_sighted.py table $DATA runs/short-*

`$DATA` is the folder of model_zoo/recipes/data.json. One seed a run: `--seed`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from mace_training import training

#: Frames, Z* that are compared, a cutoff that holds the first neighbours and little more, ε_∞, first charges.
SYSTEMS: dict[str, dict[str, Any]] = {
    "water": {
        "files": ("water/rpbe_d3_train.extxyz", "water/rpbe_d3_valid.extxyz"),
        "born": ("water/rpbe_d3_bec_valid.extxyz", True),
        "r_max": 3.0,
        "epsilon_infinity": 1.78,
        "initial_charges": {"O": -0.6, "H": 0.3},
    },
    "mapbi3": {
        "files": ("mapbi3/train.extxyz", "mapbi3/valid.extxyz"),
        "born": ("mapbi3/bec_valid.extxyz", False),
        "r_max": 4.0,
        "epsilon_infinity": 4.7,
        "initial_charges": {"Pb": 0.92, "I": -0.46, "C": 0.0, "N": -0.23, "H": 0.115},
    },
    "batio3": {
        "files": ("response/batio3_train.extxyz", "response/batio3_valid.extxyz"),
        "born": ("response/batio3_valid.extxyz", False),
        "r_max": 3.2,
        "epsilon_infinity": 4.65,
        "initial_charges": {"Ba": 0.93, "Ti": 1.86, "O": -0.93},
    },
    "sio2": {
        "files": ("response/sio2_train.extxyz", "response/sio2_valid.extxyz"),
        "born": ("response/sio2_valid.extxyz", False),
        "r_max": 3.0,
        "epsilon_infinity": 2.39,
        "initial_charges": {"Si": 2.0, "O": -1.0},
    },
}


def config(system: str, sigma: float, data: Path, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """The training file."""
    facts = SYSTEMS[system]
    network = {
        "hidden_irreps": "8x0e + 8x1o",
        "num_interactions": 1,
        "max_ell": 2,
        "r_max": facts["r_max"],
        "ema_decay": 0.99,
        "long_range": {
            "multipoles": ["charge", "dipole"],
            "response": {"charge": False, "dipole": "isotropic"},
            "sigma": sigma,
            "dl": 1.2 * min(sigma, 1.0),
            "epsilon_infinity": facts["epsilon_infinity"],
            "total_charge": "conserved",
            "initial_charges": facts["initial_charges"],
        },
    }
    return training(facts["files"], data, folder, epochs, seed, network)


def row(folder: Path, data: Path, born_frames: int) -> dict[str, Any]:
    """Errors of a trained network, kept in the folder."""
    import les_plugins
    from les_plugins.data.evaluation import evaluate
    from les_plugins.data.frames import read_frames

    kept = folder / "row.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    system = next(name for name, facts in SYSTEMS.items() if settings["train_file"].endswith(facts["files"][0]))
    calculator = les_plugins.load(folder / "model.les")
    forces = evaluate(calculator, read_frames(Path(settings["valid_file"])), born=False).metrics()
    file, transposed = SYSTEMS[system]["born"]
    born = evaluate(calculator, read_frames(data / file)[:born_frames], born_transposed=transposed).metrics()
    table = born["born_effective_charges"]
    found = {
        "system": system,
        "sigma": settings["long_range"]["sigma"],
        "seed": settings["seed"],
        "forces": 1e3 * forces["forces"]["all"]["rmse"],
        "energy": 1e3 * forces["energy_offset_removed"]["all"]["rmse"],
        "slope": table["all"]["slope"],
        "rmse": table["all"]["rmse"],
        "within": table["r2_within_elements"]["diagonal"],
    }
    kept.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """Write one training, or the table of those that are trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    for system in SYSTEMS:
        one = what.add_parser(system)
        one.add_argument("sigma", type=float)
        one.add_argument("data", type=Path)
        one.add_argument("folder", type=Path)
        one.add_argument("--epochs", type=int, default=12)
        one.add_argument("--seed", type=int, default=1)
    table = what.add_parser("table")
    table.add_argument("data", type=Path)
    table.add_argument("folders", type=Path, nargs="+")
    table.add_argument("--born-frames", type=int, default=6)
    given = parser.parse_args()
    if given.what != "table":
        given.folder.mkdir(parents=True, exist_ok=True)
        written = config(given.what, given.sigma, given.data, given.folder, given.epochs, given.seed)
        (given.folder / "config.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
        return
    columns = (
        "σ, Å",
        "forces, meV/Å",
        "energy, offset removed, meV/atom",
        "Z*, slope",
        "RMSE, e",
        "R² within, diagonal",
    )
    print("| |", " | ".join(columns), "|")
    print("|---" + len(columns) * "|---:" + "|")
    rows = [row(folder, given.data, given.born_frames) for folder in given.folders if (folder / "model.les").is_dir()]
    for found in sorted(rows, key=lambda each: (each["system"], each["sigma"], each["seed"])):
        print(
            f"| {found['system']} | {found['sigma']:g} | {found['forces']:.1f} | {found['energy']:.2f} "
            f"| {found['slope']:.3f} | {found['rmse']:.3f} | {found['within']:.2f} |"
        )


if __name__ == "__main__":
    main()
