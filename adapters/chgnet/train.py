"""`les-plugins train chgnet`: CHGNet's own `Trainer`, from a YAML file whose keys are arguments of CHGNet's classes."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import chgnet
import numpy as np
import torch
from ase import Atoms, units
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress
from chgnet.model.model import CHGNet
from chgnet.trainer import Trainer
from chgnet.utils import determine_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from les_plugins import api
from les_plugins.adapters.chgnet.graphs import graph_of
from les_plugins.adapters.chgnet.model import LongRangeCHGNet, last_layer, precise, quiet
from les_plugins.adapters.chgnet.pretrained import open_model
from les_plugins.data.frames import read_frames
from les_plugins.data.training import TrainedLabel, check_training_labels
from les_plugins.data.zero_of_energy import fitted_change
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError, raising
from les_plugins.hosting.section_name import SECTION
from les_plugins.model.frozen import freeze
from les_plugins.model.outputs import section_of
from les_plugins.storage.states import dtype_of
from les_plugins.storage.training import check_cutoff, check_keys, check_number, check_section
from les_plugins.training import TrainingRun

#: Letter of `targets` → quantity.
LABELS = {"e": "energy", "f": "forces", "s": "stress", "m": "magmoms"}
_ARGUMENTS = {kind: inspect.signature(kind).parameters for kind in (CHGNet, Trainer)}
#: What CHGNet's classes take by **kwargs, what the command decides itself, and what it does not offer.
_UNLISTED = ("weight_decay", "momentum", "scheduler_params", "delta")
_NOT_OFFERED = ("model", "kwargs", "version", "starting_epoch", "check_cuda_mem", "allow_missing_labels")
_KEYS = {
    "data": ("train", "valid", "batch_size", *(f"{name}_key" for name in LABELS.values())),
    "model": ("load", "dtype", "atom_ref", *(name for name in _ARGUMENTS[CHGNet] if name not in _NOT_OFFERED)),
    "trainer": (
        *(name for name in _ARGUMENTS[Trainer] if name not in _NOT_OFFERED and not name.endswith(("kwargs", "config"))),
        *_UNLISTED,
        *("save_dir", "train_composition_model"),
    ),
}
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "targets": get_args(chgnet.TrainTask),
    "optimizer": ("Adam", "AdamW", "RAdam", "SGD"),
    "scheduler": ("CosLR", "CosRestartLR", "ExponentialLR", "MultiStepLR"),
    "criterion": ("MSE", "MAE", "Huber"),
    "dtype": ("float32", "float64"),
    "atom_ref": ("keep", "fit"),
    "composition_model": ("MPtrj", "MPF", "MP-r2SCAN"),
}
_WHOLE = ("epochs", "batch_size", "print_freq")
_FROM_ONE = " without a fraction, 1 or more", lambda number: number >= 1.0 and number.is_integer()
_NUMBERS = ("weight_decay", "momentum", "delta")


class CHGNetTraining(TrainingRun):
    """One `les-plugins train chgnet`, from YAML with the sections data, model, trainer and long_range.

    The checkpoint is `<save_dir>.les`, of the epoch with the lowest validation error of the forces (CHGNet's bestF).
    """

    host = "chgnet"
    program = "CHGNet's trainer"
    freezes = True
    keys = ("data", "model", "trainer")

    def split(self) -> None:
        """Every key of every section is checked."""
        super().split()
        if self.arguments:
            raise ConfigError(
                f"argument {self.arguments[0]!r}: CHGNet has no options; write it into {self.config_file}"
            )
        for name, allowed in _KEYS.items():
            where, section = f"{self.config_file}: {name}", self.settings.setdefault(name, {})
            check_section(section, where)
            # a file has its architecture in it
            check_keys(section, allowed[:3] if name == "model" and "load" in section else allowed, where)
            _check_values(section, where)
        for name in ("train", "valid"):
            if not isinstance(self.settings["data"].get(name), str):
                raise ConfigError(f"{self.config_file}: data.{name} is missing: give an extended XYZ file")
        self.trainer = {"targets": "ef", "torch_seed": 0, **self.settings["trainer"]}
        self.trainer["use_device"] = str(check_device(determine_device(self.trainer.get("use_device"))))

    def target(self) -> Path:
        """Beside the folder of CHGNet's own checkpoints."""
        self.folder = Path(str(self.trainer.pop("save_dir", "chgnet_model")))
        return self.folder.with_name(f"{self.folder.name}.les")

    def kept(self) -> Iterable[Path]:
        """CHGNet's own checkpoints."""
        return self.folder.glob("*.pth.tar")

    def read_frames(self) -> Sequence[Atoms]:
        """Training set; every frame has every label, but for magnetic moments, which CHGNet may miss."""
        data = self.settings["data"]
        self.labels = {}
        for letter in self.trainer["targets"]:
            name, without = LABELS[letter], "" if letter in "ef" else "trainer.targets: ef"
            key = str(data.get(f"{name}_key", name))
            self.labels[letter] = TrainedLabel(name, key, f"data.{name}_key", without, left_out=letter == "m")
        for name in ("train", "valid"):
            files = {Path(data[name]): read_frames(data[name])}
            check_training_labels(files, list(self.labels.values()))
            getattr(self.data, name).update(files)
        return self.data.training_set()

    def fit(self) -> nn.Module:
        """CHGNet's trainer; the model of the best epoch."""
        torch.manual_seed(int(self.trainer["torch_seed"] or 0))
        model: Any = self._model()
        self.data.check_elements(range(1, model.atom_embedding.embedding.num_embeddings + 1), "CHGNet")
        items = [self._item(atoms, model) for atoms in self.frames]
        valid = [self._item(atoms, model) for frames in self.data.valid.values() for atoms in frames]
        if self.settings["model"].get("atom_ref") == "fit":
            energies = [float(self.labels["e"].value(atoms)) for atoms in self.frames]
            self.facts["atom_ref_change"] = fit_references(model, self.frames, energies)
        size = self.settings["data"].get("batch_size", 16)
        loaders: list[Any] = [DataLoader(part, size, part is items, collate_fn=_collate) for part in (items, valid)]
        options = dict(self.trainer)
        composition = bool(options.pop("train_composition_model", False))
        trainer = BestTrainer(model, **options)
        trainer.train(*loaders, save_dir=str(self.folder), train_composition_model=composition)
        if trainer.best is None:
            raise HostError("energies or forces that are not finite: try a lower learning_rate")
        errors = trainer.training_history["e"]["val"]
        if len(errors) < trainer.epochs or not math.isfinite(errors[-1]):  # CHGNet prints a line and stops
            self.stopped = HostError("energies that are not finite: try a lower learning_rate")
        self.facts["last_validation"], state = trainer.best
        model.load_state_dict(state)
        return model.cpu().eval()

    def _model(self) -> nn.Module:
        """The packaged, loaded or new model, with its long-range part."""
        section, where = dict(self.settings["model"]), f"{self.config_file}: model"
        dtype, _ = dtype_of(section.pop("dtype", "float32")), section.pop("atom_ref", None)
        if "load" in section:
            model, _ = open_model(str(section["load"]))
        else:
            with quiet(), raising(ConfigError, f"{where}: CHGNet cannot make this model"):
                model = CHGNet(**section)
        model.composition_model = precise(model.composition_model)
        model.to(dtype)
        if self.long_range is not None and not isinstance(model, LongRangeCHGNet):
            model = api.attach(model, self.long_range)
        elif (own := section_of(model)) is not None and not own.same_model(self.long_range):
            raise ConfigError(f"{where}.load has a part of another {SECTION} section: {model.model_args[SECTION]}")
        if self.long_range is not None:
            freeze(model, self.long_range.run.train_only, last_layer(model))
        return model

    def _item(self, atoms: Atoms, model: Any) -> tuple[Any, dict[str, Tensor | None]]:
        """A graph and its labels in CHGNet's units: eV an atom, eV/Å, GPa and µ_B without sign."""
        divisor = len(atoms) if model.is_intensive else 1
        in_units = {
            "e": lambda value: value / divisor,
            "f": lambda value: value,
            "s": lambda value: voigt_6_to_full_3x3_stress(value) / units.GPa,
            "m": lambda value: np.abs(value).reshape(len(atoms)),
        }
        targets: dict[str, Tensor | None] = {}
        for letter, label in self.labels.items():
            has = label.read(atoms) is not None
            dtype = next(model.parameters()).dtype
            targets[letter] = torch.tensor(in_units[letter](label.value(atoms)), dtype=dtype) if has else None
        return graph_of(atoms, model), targets


train = CHGNetTraining.train


class BestTrainer(Trainer):
    """CHGNet's trainer, which keeps the weights of its best epoch: `get_best_model` of CHGNet returns the last ones.

    Attributes:
        best: validation errors and weights of the epoch with the lowest error of the forces; None before the first.
    """

    best: tuple[dict[str, float], dict[str, Tensor]] | None = None

    def save_checkpoint(self, epoch: int, mae_error: dict[str, float], save_dir: str) -> None:
        """Called by CHGNet after each epoch."""
        super().save_checkpoint(epoch, mae_error, save_dir)
        if math.isfinite(mae_error["f"]) and (self.best is None or mae_error["f"] < self.best[0]["f"]):
            self.best = {**mae_error, "epoch": epoch}, copy.deepcopy(self.model.state_dict())


def fit_references(model: Any, frames: Sequence[Atoms], energies: Sequence[float]) -> dict[str, float]:
    """Change the energies of elements so that a model's energies are those of labels, eV, by least squares.

    Another code, functional or pseudopotential has another zero of energy for each element. Elements that no frame has
    keep theirs.

    Returns:
        Element → change in eV.
    """

    def predicted(atoms: Atoms) -> float:
        return float(model([graph_of(atoms, model)])["e"]) * (len(atoms) if model.is_intensive else 1)

    with torch.no_grad():
        change = fitted_change(frames, energies, predicted)
        for symbol, value in change.items():
            model.composition_model.fc.weight[0, atomic_numbers[symbol] - 1] += value
    return change


def _collate(items: Sequence[tuple[Any, dict[str, Any]]]) -> tuple[list[Any], dict[str, Any]]:
    """As CHGNet's, for labels in any precision."""
    graphs, targets = zip(*items, strict=True)
    found = {letter: [target[letter] for target in targets] for letter in targets[0]}
    return list(graphs), {**found, "e": torch.stack(found["e"])}


def _check_values(section: dict[str, Any], where: str) -> None:
    """Values that CHGNet stumbles over without saying where, or trains with."""
    defaults = {name: item.default for kind in _ARGUMENTS.values() for name, item in kind.items()}
    for key, value in section.items():
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(f"{where}.{key} is {value!r}; allowed: {', '.join(_CHOICES[key])}")
        if key.endswith("_cutoff"):
            check_cutoff(value, f"{where}.{key}")
        elif key in _WHOLE:
            section[key] = check_number(value, f"{where}.{key}", *_FROM_ONE)
        elif isinstance(defaults.get(key), bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{where}.{key} is {value!r}; allowed: true, false")
        elif isinstance(defaults.get(key, 0.0 if key in _NUMBERS else None), float | int):
            section[key] = check_number(value, f"{where}.{key}", " from 0 on", lambda number: number >= 0.0)
