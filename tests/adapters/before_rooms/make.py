"""Makes the files of this folder for one host: python make.py HOST FOLDER, with les-plugins 0.1 installed beside it.

Run it with a version whose files are to be kept readable; README.md says which one these files are from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms

import les_plugins
from les_plugins.testing.structures import labelled_waters, waters

#: Every term that a model can have.
ALL_TERMS = {
    "multipoles": ["charge", "dipole", "quadrupole"],
    "response": {"charge": True, "dipole": "anisotropic"},
    "hidden": 4,
    "sigma": 1.1,
    "dl": 1.5,
    "epsilon_infinity": 1.7,
    "net_charge_warning": None,
}


def mace(folder: Path) -> dict[str, Any]:
    """A checkpoint, and the whole model as MACE writes it."""
    from les_plugins.adapters.mace.calculator import LesMACECalculator
    from les_plugins.adapters.mace.contract import MACEContract, tiny_mace

    bare = tiny_mace(hidden_irreps="2x0e+2x1o", correlation=1)
    model = MACEContract().amplify(les_plugins.attach(bare, ALL_TERMS))
    les_plugins.save(model, folder / "mace.les", "mace")
    torch.save(model, folder / "mace.model")
    return {
        "mace.les": les_plugins.load(folder / "mace.les"),
        "mace.model": LesMACECalculator(torch.load(folder / "mace.model", weights_only=False)),
    }


def nequip(folder: Path) -> dict[str, Any]:
    """A checkpoint; what nequip-train writes in one epoch; a package of that."""
    from nequip.model.saved_models.load_utils import load_saved_model

    from les_plugins.adapters.nequip.calculator import LesNequIPCalculator
    from les_plugins.adapters.nequip.contract import HOST_SECTIONS, NequIPContract, training_settings
    from les_plugins.adapters.nequip.train import load_checkpoint

    contract = NequIPContract()
    model = contract.amplify(les_plugins.attach(contract.make_model(), ALL_TERMS))
    les_plugins.save(model, folder / "nequip.les", "nequip")

    def write_config() -> None:
        section = {
            "_target_": "les_plugins.adapters.nequip.LongRangeModel",
            "model": HOST_SECTIONS["nequip"],
            "long_range": ALL_TERMS,
        }
        settings = training_settings(Path(), section)
        settings["data"].update(train_file_path="train.extxyz", val_file_path="valid.extxyz")
        settings["training_module"]["optimizer"]["lr"] = 0.1
        Path("water.yaml").write_text(yaml.safe_dump(settings))

    with in_a_new_folder() as work:
        write_frames()
        write_config()
        run = (
            *("-m", "nequip.scripts.train", "--config-path", str(work), "--config-name=water.yaml"),
            f"hydra.run.dir={work}/run",
        )
        subprocess.run([sys.executable, *run], check=True)
        kept = torch.load("run/last.ckpt", map_location="cpu", weights_only=False)
        torch.save(without_paths(kept, str(work)), folder / "nequip.ckpt")
        build = ("-m", "nequip.scripts.package", "build", str(folder / "nequip.ckpt"), "nequip.nequip.zip")
        subprocess.run([sys.executable, *build], check=True)
        (folder / "nequip.nequip.zip").write_bytes(Path("nequip.nequip.zip").read_bytes())
    return {
        "nequip.les": les_plugins.load(folder / "nequip.les"),
        "nequip.ckpt": LesNequIPCalculator(load_checkpoint(folder / "nequip.ckpt")),
        "nequip.nequip.zip": LesNequIPCalculator(load_saved_model(str(folder / "nequip.nequip.zip"))),
    }


def sevennet(folder: Path) -> dict[str, Any]:
    """A checkpoint, and what SevenNet's own trainer writes in one epoch."""
    from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
    from les_plugins.adapters.sevennet.contract import SevenNetContract, training_settings
    from les_plugins.adapters.sevennet.seam import open_seam
    from les_plugins.adapters.sevennet.train import load_checkpoint, train

    contract = SevenNetContract()
    model = contract.amplify(les_plugins.attach(contract.make_model(), ALL_TERMS))
    les_plugins.save(model, folder / "sevennet.les", "sevennet")
    with in_a_new_folder() as work:
        write_frames()
        settings = {**training_settings(), "long_range": ALL_TERMS}
        settings["train"]["optim_param"]["lr"] = 0.1
        Path("water.yaml").write_text(yaml.safe_dump(settings))
        train(Path("water.yaml"), ())
        with open_seam():
            kept = torch.load("checkpoint_best.pth", map_location="cpu", weights_only=False)
        torch.save(without_paths(kept, str(work)), folder / "sevennet.pth")
    torch.set_default_dtype(torch.float64)  # SevenNet trains in float32: weights of that, numbers of float64
    trained = load_checkpoint(folder / "sevennet.pth").double()
    torch.set_default_dtype(torch.float32)
    return {
        "sevennet.les": les_plugins.load(folder / "sevennet.les"),
        "sevennet.pth": LesSevenNetCalculator(trained),
    }


def matgl(folder: Path) -> dict[str, Any]:
    """A checkpoint, and MatGL's own folder of the same potential."""
    import matgl as host

    from les_plugins.adapters.matgl.calculator import LesMatGLCalculator
    from les_plugins.adapters.matgl.contract import TensorNetContract

    contract = TensorNetContract()
    model: Any = contract.amplify(les_plugins.attach(contract.make_model(), ALL_TERMS))
    les_plugins.save(model, folder / "matgl.les", "matgl")
    model.save(folder / "matgl")
    return {
        "matgl.les": les_plugins.load(folder / "matgl.les"),
        "matgl": LesMatGLCalculator(host.load_model(folder / "matgl").double()),
    }


class in_a_new_folder(tempfile.TemporaryDirectory):  # noqa: N801 (used as a function)
    """A temporary working directory."""

    def __enter__(self) -> Path:
        self.before, work = Path.cwd(), Path(super().__enter__()).resolve()
        os.chdir(work)
        return work

    def __exit__(self, *reason: Any) -> None:
        os.chdir(self.before)
        super().__exit__(*reason)


def write_frames() -> None:
    frames = labelled_waters(6)
    ase.io.write("train.extxyz", frames[:4])
    ase.io.write("valid.extxyz", frames[4:])


def without_paths(value: Any, folder: str) -> Any:
    """What a host saved, with the temporary folder and that of the Python environment cut off from every text."""
    if isinstance(value, str):
        for prefix in (folder, sys.prefix):
            value = value.replace(f"{prefix}/", "")
        return value
    if isinstance(value, Mapping) and type(value).__name__ in ("dict", "OrderedDict", "AttributeDict"):
        return type(value)({without_paths(key, folder): without_paths(item, folder) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(without_paths(item, folder) for item in value)
    return value


def numbers_of(calculator: Any, atoms: Atoms) -> dict[str, Any]:
    found = atoms.copy()
    found.calc = calculator
    energy, forces = found.get_potential_energy(), found.get_forces()
    charges = np.asarray(calculator.results["charges"])
    return {"energy": float(energy), "forces": forces.tolist(), "charges": charges.tolist()}


def main(host: str, folder: str) -> None:
    place, atoms = Path(folder).resolve(), waters(2)
    calculators = {"mace": mace, "nequip": nequip, "sevennet": sevennet, "matgl": matgl}[host](place)
    structure = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
    }
    files = {name: numbers_of(calculator, atoms) for name, calculator in calculators.items()}
    (place / f"{host}.json").write_text(json.dumps({"structure": structure, "files": files}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
