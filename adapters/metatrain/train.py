"""`les-plugins train metatrain`: metatrain's own options file and trainer, the model with its long-range part in it."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ase import Atoms
from metatrain.cli import train as command
from metatrain.pet.modules.finetuning import apply_finetuning_strategy
from metatrain.utils.architectures import check_architecture_options, get_default_hypers, import_architecture
from metatrain.utils.distributed.slurm import resolve_distributed
from metatrain.utils.omegaconf import expand_dataset_config
from metatrain.utils.pydantic import MetatrainValidationError, validate_base_options
from omegaconf import OmegaConf
from torch import nn

from les_plugins import api
from les_plugins.adapters.metatrain.model import ARCHITECTURES, LongRangeModel
from les_plugins.adapters.metatrain.state import read_tensor_maps
from les_plugins.config import LongRangeConfig
from les_plugins.data.frames import read_frames
from les_plugins.data.training import TrainedLabel, check_training_labels
from les_plugins.errors import ConfigError, quoted, raising
from les_plugins.hosting.logs import logging_to
from les_plugins.hosting.substitution import substituted
from les_plugins.storage.training import check_section
from les_plugins.training import TrainingRun

_STRUCTURES = (".xyz", ".extxyz", ".traj", ".json", ".db", ".cif")


class MetatrainTraining(TrainingRun):
    """One `les-plugins train metatrain`, from an options file with a `long_range:` section beside metatrain's own.

    Arguments `section.key=value` override the file, as of `mtt train -r`. The checkpoint `<name of the file>.les` is
    of the best epoch; beside it the folder `<name of the file>` with metatrain's log, indices and expanded options.
    """

    host = "metatrain"
    program = "metatrain's trainer"
    own_sections = ("architecture.model",)

    def split(self) -> None:
        """The section out of the file; then metatrain looks at every key of its own."""
        with raising(ConfigError, "arguments of metatrain are section.key=value"):
            overrides = OmegaConf.from_dotlist(list(self.arguments))
            self.settings = OmegaConf.to_container(OmegaConf.merge(self.settings, overrides))
        options = check_section(self.settings.get("architecture"), f"{self.config_file}: architecture")
        super().split()
        self.architecture = options.get("name")
        if self.architecture not in ARCHITECTURES:
            allowed = ", ".join(ARCHITECTURES)
            raise ConfigError(f"{self.config_file}: architecture.name is {self.architecture!r}; allowed: {allowed}")
        try:
            validate_base_options(copy.deepcopy(self.settings))
            options = OmegaConf.merge(OmegaConf.create(get_default_hypers(self.architecture)), options)
            check_architecture_options(self.architecture, OmegaConf.to_container(options))
        except MetatrainValidationError as error:
            first = error.errors[0]
            place = error.get_loc_path(first["loc"])
            raise ConfigError(f"{self.config_file}: {place} is {quoted(first['input'])}: {first['msg']}") from None
        if options.training.get("finetune", {}).get("method") == "lora":
            raise ConfigError(f"{self.config_file}: training.finetune.method is lora; allowed: full, heads")
        if resolve_distributed(options.training.get("distributed")):
            raise ConfigError(f"{self.config_file}: training.distributed is asked for; allowed: one process")
        self.folder = Path(self.config_file.stem)

    def read_frames(self) -> Sequence[Atoms]:
        """Every structure file of the training and validation sets is read, and its labels looked for."""
        for name, found in (("training_set", self.data.train), ("validation_set", self.data.valid)):
            for path, energy in self._files(name):
                if path.suffix not in _STRUCTURES:
                    self.data.unread.append(path)
                    continue
                found[path] = read_frames(path)
                if Path(energy["read_from"]) == path:
                    check_training_labels({path: found[path]}, list(_labels(energy, found[path])))
        return self.data.training_set()

    def begins_with(self) -> Mapping[str, str | None]:
        """The checkpoint of `finetune`, about which metatrain states no licence."""
        strategy = self.settings["architecture"].get("training", {}).get("finetune") or {}
        given = strategy.get("read_from")
        return {} if given is None else {Path(given).name: None}

    def _files(self, name: str) -> Iterator[tuple[Path, Any]]:
        """Structure files of a set, each with the target that is an energy, as metatrain completes the section."""
        where = f"{self.config_file}: {name}"
        with raising(ConfigError, where):
            section = OmegaConf.create({name: self.settings[name]})[name]
            parts = [] if isinstance(section, int | float) else expand_dataset_config(section)
        for part in parts:
            energies = [target for target in part.get("targets", {}).values() if target["quantity"] == "energy"]
            if "systems" in part and len(energies) != 1:
                raise ConfigError(f"{where} has {len(energies)} targets of quantity energy; allowed: one")
            if "systems" in part:  # otherwise frames of the training set, by their numbers
                yield Path(part["systems"]["read_from"]), energies[0]

    def fit(self) -> nn.Module:
        """metatrain's own command up to the end of the training; what it would write is a model without long range."""
        self.folder.mkdir(exist_ok=True)
        shutil.rmtree(self.folder / "indices", ignore_errors=True)  # of an earlier run: metatrain does not replace it
        architecture = with_long_range(self.architecture, self.long_range)
        options = OmegaConf.create(self.settings)
        try:
            with (
                logging_to(self.folder),
                warnings.catch_warnings(),
                substituted(command, "import_architecture", lambda name: architecture),
            ):
                warnings.filterwarnings("ignore", "Requested dataset of zero length")  # its test set, by default
                warnings.filterwarnings("ignore", "A conversion to `System` was requested")  # cells of open structures
                command.train_model(options, self.temporary / "model.pt", checkpoint_dir=self.folder)
        except Trained as trained:
            best = {name: getattr(trained.trainer, name) for name in ("best_epoch", "best_metric")}
            self.facts["last_validation"] = best
            return trained.model
        raise ConfigError(f"{self.config_file}: {self.program} ended without a training")


class Trained(BaseException):
    """The model is trained: past everything that catches an Exception, out of metatrain's command."""

    def __init__(self, model: nn.Module, trainer: Any) -> None:
        super().__init__()
        self.model, self.trainer = model, trainer


def with_long_range(name: str, config: LongRangeConfig | None) -> SimpleNamespace:
    """An architecture of metatrain whose trainer attaches a long-range part to the model that it is given."""
    architecture = import_architecture(name)

    class Trainer(architecture.__trainer__):  # type: ignore[misc]
        def train(self, model: Any, **options: Any) -> None:
            if config is not None:
                strategy = self.hypers.get("finetune", {})
                if strategy.get("read_from"):  # goes by the names of the bare model's parameters
                    model = apply_finetuning_strategy(model, strategy)
                    self.hypers = {**self.hypers, "finetune": {"read_from": None}}
                model = LongRangeModel(model, config)
            super().train(model, **options)
            if self.best_model_state_dict is not None:
                self.best_model_state_dict.pop("finetune_config", None)
                model.load_state_dict(self.best_model_state_dict)
                read_tensor_maps(model)
            raise Trained(model.cpu().eval(), self)

        def save_checkpoint(self, model: nn.Module, path: Any) -> None:
            api.save(model, Path(path).with_suffix(".les"), "metatrain")

    return SimpleNamespace(__model__=architecture.__model__, __trainer__=Trainer)


def _labels(energy: Mapping[str, Any], frames: Sequence[Atoms]) -> Iterator[TrainedLabel]:
    """What metatrain trains on; it leaves forces and stress out, all of them, where one frame lacks them."""
    yield TrainedLabel("energy", energy["key"], "targets.energy.key")
    for name, quantity in (("forces", "forces"), ("stress", "stress"), ("virial", "virials")):
        if energy[name]:
            label = TrainedLabel(quantity, energy[name]["key"], f"targets.energy.{name}.key", f"{name}: off")
            if name == "forces" or any(label.read(atoms) is not None for atoms in frames):
                yield label


train = MetatrainTraining.train
