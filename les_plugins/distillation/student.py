"""The training file of a student, in its host's own format, with a `long_range:` section. `training_file` fills it."""

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
from les_plugins.errors import ConfigError, did_you_mean

#: Å, of the host's network.
CUTOFF = 4.5
#: Weights of the loss. Squared errors of 1 meV/atom, 30 meV/Å and 1 meV/Å³ then count 0.001, 0.09 and 0.03.
ENERGY, FORCES, STRESS = 1000.0, 100.0, 30000.0
#: Hosts that leave frames without a stress out of that term of the loss. NequIP's is NaN for a batch of such frames.
MASKS_STRESS = ("mace",)


@dataclass(frozen=True)
class Student:
    """What the training file of a student needs.

    Attributes:
        name: of the model.
        train, valid: files of the two sets.
        frames: of the training set.
        zero: energies of the elements.
        stress: whether it is trained on stress.
        unused_stress: whether there are labels of stress that it is not trained on.
        charged: whether there are frames with a total charge.
        epsilon_infinity: of the material.
        seed: of the weights.
    """

    name: str
    train: Path
    valid: Path
    frames: Sequence[Atoms]
    zero: ZeroOfEnergy
    stress: bool
    unused_stress: bool = False
    charged: bool = False
    epsilon_infinity: float = 1.0
    seed: int = 1

    def text(self, host: str, header: Sequence[str] = ()) -> str:
        """The file.

        Args:
            host: "mace" or "nequip".
            header: lines of comment at its top.

        Raises:
            ConfigError: another host.
        """
        check_host(host)
        comment = "".join(f"# {' '.join(line.split())}\n" for line in header)
        return comment + yaml.safe_dump(
            _WRITERS[host](self), sort_keys=False, allow_unicode=True, width=160, default_flow_style=None
        )


def long_range_section(epsilon_infinity: float, charged: bool = False) -> dict[str, Any]:
    """The `long_range:` section: all moments, induced dipoles, charges that add up to what each structure has.

    Raises:
        ConfigError: an ε_∞ that no material has.
    """
    section = {
        "multipoles": ["charge", "dipole", "quadrupole"],
        "response": {"charge": False, "dipole": "anisotropic"},
        "sigma": 1.0,
        "dl": 1.2,
        "epsilon_infinity": epsilon_infinity,
        "total_charge": "given" if charged else "conserved",
    }
    LongRangeConfig.parse(section, "long_range")
    return section


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
        "long_range": long_range_section(student.epsilon_infinity, student.charged),
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
            **({"include_keys": ["charge"]} if student.charged else {}),
            **({"exclude_keys": ["stress"]} if student.unused_stress else {}),  # a batch has it of all frames or none
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
                "long_range": long_range_section(student.epsilon_infinity, student.charged),
            },
        },
    }


_WRITERS: Mapping[str, Callable[[Student], dict[str, Any]]] = {"mace": _mace, "nequip": _nequip}
#: Hosts whose training files are written.
HOSTS = tuple(_WRITERS)
