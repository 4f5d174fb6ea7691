"""`les-plugins train chgnet`: CHGNet's own `Trainer`, from a YAML file whose keys are arguments of CHGNet's classes."""

from __future__ import annotations

import copy
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

from les_plugins.adapters.chgnet.graphs import graph_of
from les_plugins.adapters.chgnet.model import last_layer, precise
from les_plugins.adapters.chgnet.pretrained import licence_of, open_model
from les_plugins.data.training import named_labels
from les_plugins.data.zero_of_energy import fitted_change
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError, raising
from les_plugins.hosting.logs import quiet
from les_plugins.storage import checks
from les_plugins.storage.licences import licence_of_checkpoint
from les_plugins.storage.states import dtype_of
from les_plugins.training import TrainingRun

#: Letter of `targets` → quantity.
LABELS = {"e": "energy", "f": "forces", "s": "stress", "m": "magmoms"}
_NOT_OFFERED = ("model", "version", "starting_epoch", "check_cuda_mem", "allow_missing_labels", "*kwargs", "*config")
_SECTIONS: Mapping[str, Mapping[str, checks.Check]] = {
    "data": {
        **dict.fromkeys(("train", "valid"), checks.structure_file),
        **dict.fromkeys((f"{name}_key" for name in LABELS.values()), checks.anything),
        "batch_size": checks.WHOLE,
    },
    "model": {
        "load": checks.anything,
        "dtype": checks.one_of("float32", "float64"),
        "atom_ref": checks.one_of("keep", "fit"),
        **checks.arguments_of(CHGNet, *_NOT_OFFERED),
        "composition_model": checks.one_of("MPtrj", "MPF", "MP-r2SCAN"),
    },
    "trainer": {
        **checks.arguments_of(Trainer, *_NOT_OFFERED),
        **dict.fromkeys(("epochs", "print_freq"), checks.WHOLE),
        **dict.fromkeys(("weight_decay", "momentum", "delta"), checks.NOT_NEGATIVE),  # by **kwargs
        **dict.fromkeys(("scheduler_params", "save_dir", "train_composition_model"), checks.anything),
        "targets": checks.one_of(*get_args(chgnet.TrainTask)),
        "optimizer": checks.one_of("Adam", "AdamW", "RAdam", "SGD"),
        "scheduler": checks.one_of("CosLR", "CosRestartLR", "ExponentialLR", "MultiStepLR"),
        "criterion": checks.one_of("MSE", "MAE", "Huber"),
    },
}
#: A file has its architecture in it.
_BESIDE_LOAD = ("load", "dtype", "atom_ref")


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
        for name, allowed in _SECTIONS.items():
            section = self.settings.setdefault(name, {})
            if name == "model" and isinstance(section, dict) and "load" in section:
                allowed = {key: allowed[key] for key in _BESIDE_LOAD}
            checks.check_options(section, allowed, f"{self.config_file}: {name}")
        self.trainer = {"targets": "ef", "torch_seed": 0, **self.settings["trainer"]}
        self.trainer["use_device"] = str(check_device(determine_device(self.trainer.get("use_device"))))
        self.folder = Path(str(self.trainer.pop("save_dir", "chgnet_model")))

    def kept(self) -> Iterable[Path]:
        """CHGNet's own checkpoints."""
        return self.folder.glob("*.pth.tar")

    def read_frames(self) -> Sequence[Atoms]:
        """Training set; every frame has every label, but for magnetic moments, which CHGNet may miss."""
        data, quantities = self.settings["data"], [LABELS[letter] for letter in self.trainer["targets"]]
        without = dict.fromkeys(("stress", "magmoms"), "trainer.targets: ef")
        labels = named_labels(data, "data", quantities, without, left_out="magmoms")
        self.labels = dict(zip(self.trainer["targets"], labels.values(), strict=True))
        self.data.read_sets(data, list(labels.values()))
        return self.data.training_set()

    def begins_with(self) -> Mapping[str, str | None]:
        """The loaded model, if it is none of this very run, with which an interrupted training goes on."""
        given = self.settings["model"].get("load")
        if given is None or Path(str(given)).parent == self.folder:
            return {}
        beside = f"{Path(str(given)).parent}.les"
        return {Path(str(given)).name: licence_of(str(given)) or licence_of_checkpoint(beside)}

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
        return self.with_long_range(model, last_layer, f"{where}.load")

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
