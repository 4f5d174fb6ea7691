"""The training file of a student, in its host's own format, with a `long_range:` section; files of both sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list

from les_plugins.config import LongRangeConfig
from les_plugins.distillation.energies import ZeroOfEnergy
from les_plugins.distillation.labelling import write_frames
from les_plugins.errors import ConfigError, DataError, did_you_mean
from les_plugins.io.files import whole_file

#: Å, of the host's network.
CUTOFF = 4.5
#: Weights of the loss. Squared errors of 1 meV/atom, 30 meV/Å and 1 meV/Å³ then count 0.001, 0.09 and 0.03.
ENERGY, FORCES, STRESS = 1000.0, 100.0, 30000.0


@dataclass(frozen=True)
class Student:
    """What the training file of a student needs.

    Attributes:
        name: of the model.
        train, valid: files of the two sets.
        frames: of the training set.
        zero: energies of the elements.
        stress: whether all frames have labels of stress.
        epsilon_infinity: of the material.
        seed: of the weights.
    """

    name: str
    train: Path
    valid: Path
    frames: Sequence[Atoms]
    zero: ZeroOfEnergy
    stress: bool
    epsilon_infinity: float = 1.0
    seed: int = 1

    def long_range(self) -> dict[str, Any]:
        """The section: all moments, induced dipoles, charges that add up to zero."""
        section = {
            "multipoles": ["charge", "dipole", "quadrupole"],
            "response": {"charge": False, "dipole": "anisotropic"},
            "sigma": 1.0,
            "dl": 1.2,
            "epsilon_infinity": self.epsilon_infinity,
            "total_charge": "conserved",
        }
        LongRangeConfig.parse(section, "long_range")
        return section


def split(
    frames: Sequence[Atoms], output: Path, valid_fraction: float, seed: int
) -> tuple[tuple[Path, list[Atoms]], tuple[Path, list[Atoms]]]:
    """Write the two sets beside the output, each in the order of the frames.

    Args:
        frames: all of them.
        output: the file that holds them all; the sets are `<name>-train.xyz` and `<name>-valid.xyz`.
        valid_fraction: part of the frames for validation, at least one frame.
        seed: of the draw.

    Raises:
        DataError: fewer than two frames.
        ConfigError: a part that leaves no frame to train on.
    """
    if len(frames) < 2:
        raise DataError(f"{output}: has {len(frames)} frame; two sets need at least two")
    count = max(1, round(valid_fraction * len(frames)))
    if not 0 < valid_fraction < 1 or count >= len(frames):
        raise ConfigError(f"--valid-fraction is {valid_fraction}; allowed: above 0 and below 1, with frames left over")
    of_valid = set(np.random.default_rng(seed).permutation(len(frames))[:count].tolist())
    sets: dict[str, list[Atoms]] = {"train": [], "valid": []}
    for number, atoms in enumerate(frames):
        sets["valid" if number in of_valid else "train"].append(atoms)
    paths = {kind: output.with_name(f"{output.stem}-{kind}{output.suffix}") for kind in sets}
    for kind, path in paths.items():
        write_frames(path, sets[kind])
    return (paths["train"], sets["train"]), (paths["valid"], sets["valid"])


def write_config(host: str, path: Path, student: Student, header: Sequence[str] = ()) -> None:
    """Write the file.

    Args:
        host: "mace" or "nequip".
        path: the file.
        student: what goes into it.
        header: lines of comment at its top.
    """
    check_host(host)
    text = yaml.safe_dump(
        _WRITERS[host](student), sort_keys=False, allow_unicode=True, width=160, default_flow_style=None
    )
    with whole_file(path) as file:
        file.write("".join(f"# {line}\n" for line in header) + text)


def check_host(host: str) -> None:
    """Raise ConfigError for a host whose files are not written."""
    if host not in _WRITERS:
        allowed = ", ".join(_WRITERS)
        raise ConfigError(f"--write-config: {host!r}{did_you_mean(host, _WRITERS)}; allowed: {allowed}")


def _mace(student: Student) -> dict[str, Any]:
    energies = {atomic_numbers[element]: round(value, 6) for element, value in student.zero.energies.items()}
    stress = {"loss": "stress", "compute_stress": True, "stress_key": "stress", "stress_weight": STRESS}
    return {
        "name": student.name,
        "train_file": str(student.train),
        "valid_file": str(student.valid),
        "model": "ScaleShiftMACE",
        "hidden_irreps": "16x0e + 16x1o",
        "num_interactions": 2,
        "correlation": 2,
        "max_ell": 3,
        "r_max": CUTOFF,
        "E0s": str(energies),
        "energy_key": "energy",
        "forces_key": "forces",
        "energy_weight": ENERGY,
        "forces_weight": FORCES,
        **(stress if student.stress else {}),
        "batch_size": 1,
        "valid_batch_size": 4,
        "max_num_epochs": 60,
        "lr": 0.01,
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": 0.94,
        "ema": True,
        "ema_decay": 0.995,
        "default_dtype": "float32",
        "device": "cpu",
        "seed": student.seed,
        "error_table": "PerAtomRMSEstressvirials" if student.stress else "PerAtomRMSE",
        "pin_memory": False,
        "plot": False,
        "restart_latest": True,
        "long_range": student.long_range(),
    }


def _nequip(student: Student) -> dict[str, Any]:
    elements = list(student.zero.energies)
    neighbors = np.mean([len(neighbor_list("i", atoms, CUTOFF)) / len(atoms) for atoms in student.frames])
    loader = {"_target_": "torch.utils.data.DataLoader", "num_workers": 0}
    terms, stress = ("EnergyForceStress", {"stress": STRESS}) if student.stress else ("EnergyForce", {})
    transforms = [
        {
            "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
            "model_type_names": elements,
            "chemical_species_to_atom_type_map": {element: element for element in elements},
        },
        {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": CUTOFF},
    ]
    checkpoints = {
        "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
        "monitor": "val0_epoch/weighted_sum",
        "dirpath": "${hydra:runtime.output_dir}",
        "filename": "best",
        "save_last": True,
    }
    epochs = 60
    network = {
        "_target_": "nequip.model.NequIPGNNModel",
        "seed": student.seed,
        "model_dtype": "float32",
        "type_names": elements,
        "r_max": CUTOFF,
        "num_layers": 2,
        "l_max": 1,
        "num_features": 16,
        "avg_num_neighbors": round(float(neighbors), 2),
        "per_type_energy_shifts": {element: round(value, 6) for element, value in student.zero.energies.items()},
        "per_type_energy_scales": dict.fromkeys(elements, 1.0),
    }
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": student.seed,
            "train_file_path": str(student.train),
            "val_file_path": str(student.valid),
            "transforms": transforms,
            "train_dataloader": {**loader, "batch_size": 1, "shuffle": True},
            "val_dataloader": {**loader, "batch_size": 4},
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cpu",
            "max_epochs": epochs,
            "logger": False,
            "enable_progress_bar": False,
            "callbacks": [checkpoints],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": 0.995,
            "loss": {
                "_target_": f"nequip.train.{terms}Loss",
                "per_atom_energy": True,
                "coeffs": {"total_energy": ENERGY, "forces": FORCES, **stress},
            },
            "val_metrics": {"_target_": f"nequip.train.{terms}Metrics", "coeffs": {"forces_rmse": 1.0}},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "lr_scheduler": {
                "scheduler": {
                    "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
                    "T_max": epochs,
                    "eta_min": 0.0001,
                },
                "interval": "epoch",
                "frequency": 1,
            },
            "model": {
                "_target_": "les_plugins.adapters.nequip.LongRangeModel",
                "model": network,
                "long_range": student.long_range(),
            },
        },
    }


_WRITERS: Mapping[str, Callable[[Student], dict[str, Any]]] = {"mace": _mace, "nequip": _nequip}
#: Hosts whose training files are written.
HOSTS = tuple(_WRITERS)
