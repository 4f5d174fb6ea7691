"""`les-plugins train metatrain`: metatrain's own options file and trainer, the model with its long-range part in it."""

from __future__ import annotations

import copy
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ase import Atoms
from metatrain.cli import train as command
from metatrain.pet.modules.finetuning import apply_finetuning_strategy
from metatrain.utils.architectures import check_architecture_options, get_default_hypers, import_architecture
from metatrain.utils.errors import ArchitectureError
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
from les_plugins.errors import ConfigError, LesPluginsError, quoted, raising
from les_plugins.hosting.section_name import SECTION
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

    def split(self) -> None:
        """The section out of the file; then metatrain looks at every key of its own."""
        with raising(ConfigError, "arguments of metatrain are section.key=value"):
            overrides = OmegaConf.from_dotlist(list(self.arguments))
            self.settings = OmegaConf.to_container(OmegaConf.merge(self.settings, overrides))
        options = check_section(self.settings.get("architecture"), f"{self.config_file}: architecture")
        model = options.get("model") or {}
        own = {key: model.pop(key) for key in (SECTION,) if key in model}  # metatrain has a key of that name, too
        super().split()
        model.update(own)
        self.architecture = options.get("name")
        if self.architecture not in ARCHITECTURES:
            allowed = ", ".join(ARCHITECTURES)
            raise ConfigError(f"{self.config_file}: architecture.name is {self.architecture!r}; allowed: {allowed}")
        try:
            validate_base_options(copy.deepcopy(self.settings))
            defaults = OmegaConf.create(get_default_hypers(self.architecture))
            options = OmegaConf.to_container(OmegaConf.merge(defaults, options))
            check_architecture_options(self.architecture, options)
        except MetatrainValidationError as error:
            first = error.errors[0]
            place = error.get_loc_path(first["loc"])
            raise ConfigError(f"{self.config_file}: {place} is {quoted(first['input'])}: {first['msg']}") from None
        if options["training"].get("finetune", {}).get("method") == "lora":
            raise ConfigError(f"{self.config_file}: training.finetune.method is lora; allowed: full, heads")
        self.folder = Path(self.config_file.stem)

    def target(self) -> Path:
        """In the working directory."""
        return self.folder.with_suffix(".les")

    def read_frames(self) -> Sequence[Atoms]:
        """Every structure file of the training and validation sets is read, and its labels looked for."""
        for name, found in (("training_set", self.data.train), ("validation_set", self.data.valid)):
            if not isinstance(self.settings.get(name), int | float):
                for path, energy in self._files(name):
                    if path.suffix not in _STRUCTURES:
                        self.data.unread.append(path)
                        continue
                    found[path] = read_frames(path)
                    check_training_labels({path: found[path]}, list(_labels(energy, found[path])))
        return self.data.training_set()

    def _files(self, name: str) -> Iterator[tuple[Path, Any]]:
        """Structure files of a set, each with the target that is an energy, as metatrain completes the section."""
        with raising(ConfigError, f"{self.config_file}: {name}"):
            for part in expand_dataset_config(OmegaConf.create({name: self.settings[name]})[name]):
                if "systems" in part:
                    energies = [target for target in part["targets"].values() if target["quantity"] == "energy"]
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
        except ArchitectureError as error:
            raise error.__cause__ if isinstance(error.__cause__, LesPluginsError) else error from None
        except Trained as trained:
            self.facts["last_validation"] = {
                "best_epoch": trained.trainer.best_epoch, "best_metric": trained.trainer.best_metric
            }  # fmt: skip
            return trained.model
        raise ConfigError(f"{self.config_file}: {self.program} ended without a training")


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """What metatrain's own command shows of a training, on the screen and in train.log."""
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log", "w")]
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


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
