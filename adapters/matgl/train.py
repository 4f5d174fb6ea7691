"""`les-plugins train matgl`: MatGL's `MGLPotentialTrainer`, from a YAML file whose keys are MatGL's own arguments."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning
import matgl
import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from matgl.apps.pes import Potential
from matgl.utils.training import MGLPotentialTrainer
from torch import nn

from les_plugins.adapters.matgl.architectures import ARCHITECTURES, last_layer
from les_plugins.adapters.matgl.calculator import LesMatGLCalculator
from les_plugins.adapters.matgl.data import DATASET_KEYS, DatasetFiles
from les_plugins.data.frames import check_elements
from les_plugins.data.zero_of_energy import fitted_change
from les_plugins.errors import ConfigError, raising
from les_plugins.io.documents import parse_yaml
from les_plugins.storage import checkpoint, checks
from les_plugins.storage.licences import licence_of_checkpoint
from les_plugins.storage.training import check_cutoff, check_keys, check_section, saving
from les_plugins.training import TrainingRun

_LOSSES = ("huber_loss", "mse_loss", "smooth_l1_loss", "l1_loss")
#: Keys that hold the name of a file or a folder.
_PATHS = ("dataset.train", "dataset.valid", "dataset.test", "model.load", "trainer.save_path", "trainer.ckpt_path")
#: Keys of the model section that are no arguments of the host's class.
_MODEL_KEYS = ("architecture", "load")
#: What of MGLPotentialTrainer this command decides itself.
_NOT_OURS_TO_SET = ("model", "magmom_weight", "charge_weight")
#: Of the trainer section, which MatGL and torch stumble over later, or train with.
_TRAINER: Mapping[str, checks.Check] = {
    **dict.fromkeys(checks.arguments_of(MGLPotentialTrainer, *_NOT_OURS_TO_SET), checks.anything),
    **dict.fromkeys(("element_refs", "save_path", "ckpt_path"), checks.anything),
    **dict.fromkeys(("energy_weight", "force_weight"), checks.NOT_NEGATIVE),
    **dict.fromkeys(("batch_size", "max_epochs", "decay_steps"), checks.WHOLE),
    **dict.fromkeys(("stress_weight", "seed"), checks.number(words=(None,))),
    "lr": checks.POSITIVE,
    "data_std": checks.number(" above 0", lambda value: value > 0.0, words=("forces",)),
    "data_mean": checks.number(),
    "loss": checks.one_of(*_LOSSES),  # MatGL takes the last one for every name that it does not know
}
#: What the best epoch is chosen by.
_LOSS = "val_Total_Loss"
#: Warnings of Lightning about its own insides and about small training sets.
_HOST_WARNINGS = (
    (FutureWarning, ".*isinstance.treespec, LeafSpec"),
    (UserWarning, ".*does not have many workers"),
    (UserWarning, "The number of training batches"),
    (UserWarning, "Checkpoint directory .* exists"),
)
_DEFAULTS = {"save_path": "matgl_model", "accelerator": "auto", "stress_weight": None, "element_refs": "fit"}


class MatGLTraining(TrainingRun):
    """One `les-plugins train matgl`, from YAML with the sections dataset, model, trainer and long_range.

    Arguments `section.key=value` override the file (docs/reference/hosts/matgl.md). The checkpoint is
    `<save_path>.les`, of the epoch with the lowest validation loss; beside it
    `save_path`, which `matgl.load_model` reads.
    """

    host = "matgl"
    program = "MatGL's trainer"
    freezes = True
    keys = ("dataset", "model", "trainer")
    data: DatasetFiles

    def split(self) -> None:
        """Every key of every section is checked."""
        for item in self.arguments:
            _override(self.settings, item)
        super().split()
        dataset, model, trainer = (
            check_section(self.settings.setdefault(name, {}), f"{self.config_file}: {name}") for name in self.keys
        )
        checks.check_options(dataset, DATASET_KEYS, f"{self.config_file}: dataset")
        _check_model(model, f"{self.config_file}: model")
        _check_trainer(trainer, f"{self.config_file}: trainer")
        self.trainer = {**_DEFAULTS, **trainer}
        self.folder = Path(self.trainer["save_path"])

    def kept(self) -> Iterable[Path]:
        """Lightning's checkpoints."""
        return self.folder.glob("*.ckpt")

    def options(self) -> Mapping[str, Any]:
        """Of the trainer."""
        return self.trainer

    def read_frames(self) -> Sequence[Atoms]:
        """Training set; all files are read, and whether the stress is trained on is decided."""
        dataset = self.settings["dataset"]
        self.data = DatasetFiles.read(dataset)
        weight = self.trainer["stress_weight"]
        on_stress = weight != 0.0 and self.data.train_on_stress(bool(weight), "stress_key" in dataset)
        self.trainer["stress_weight"] = (0.1 if weight is None else weight) if on_stress else 0.0
        return self.data.training_set()

    def begins_with(self) -> Mapping[str, str | None]:
        """The loaded model, whose checkpoint may stand beside it."""
        given = self.settings["model"].get("load")
        return {} if given is None else {Path(str(given)).name: licence_of_checkpoint(f"{given}.les")}

    def fit(self) -> nn.Module | None:
        """MatGL's trainer; None in all but the first process of a distributed training."""
        torch.manual_seed(int(self.trainer.get("seed", 42) or 0))
        model, scaling = self._loaded() if "load" in self.settings["model"] else self._built()
        model = self._with_section(model)
        sets = {"train": self.data.train, "valid": self.data.valid, "test": self.data.test or self.data.valid}
        data = {name: self.data.dataset(files, model) for name, files in sets.items()}
        potential, best = _fit(model, data, self.trainer, scaling, self.folder)
        if rank_zero_only.rank:
            return None
        self.facts["last_validation"] = best
        with saving(self.target(), self.kept()):
            potential.save(self.folder)
        return cast(nn.Module, potential)

    def _built(self) -> tuple[nn.Module, dict[str, Any]]:
        """A new energy model, and element_refs, data_mean and data_std as the file gives them."""
        section, trainer = self.settings["model"], self.trainer
        options = {key: value for key, value in section.items() if key not in _MODEL_KEYS}
        elements = tuple(options.pop("element_types", None) or self.data.elements())
        where, scale = f"{self.config_file}: trainer.element_refs", trainer.get("data_std", 1.0)
        scaling = {
            "element_refs": self.data.references(trainer["element_refs"], elements, where),
            "data_mean": trainer.get("data_mean", 0.0),
            "data_std": self.data.force_scale() if scale == "forces" else scale,
        }
        name = section.get("architecture", "TensorNet")
        own = {"use_warp": False} if name == "TensorNet" else {}
        with raising(ConfigError, f"{self.config_file}: model: MatGL's {name} refuses these arguments"):
            model = ARCHITECTURES[name].kind(**{**own, **options, "element_types": elements, "is_intensive": False})
        return model, scaling

    def _loaded(self) -> tuple[nn.Module, dict[str, Any]]:
        """The energy model of one that MatGL trained, with its element_refs, data_mean and data_std."""
        given, where = self.settings["model"]["load"], f"{self.config_file}: model.load"
        if (Path(str(given)) / checkpoint.MANIFEST).is_file():
            raise ConfigError(
                f"{where} is {given!r}, a checkpoint of les-plugins; allowed: a model of MatGL, which `les-plugins "
                "train matgl` writes beside it (the same name without .les)"
            )
        with raising(ConfigError, f"{where}: MatGL cannot load {given!r}"):  # it looks for unknown names on the network
            potential = matgl.load_model(given)
        if not isinstance(potential, Potential):
            raise ConfigError(f"{where} is a {type(potential).__name__}; allowed: a Potential of MatGL")
        for key in ("data_mean", "data_std"):
            if key in self.settings["trainer"]:
                raise ConfigError(f"{self.config_file}: trainer.{key} is that of model.load: leave the key out")
        refs = potential.element_refs
        references = None if refs is None else refs.property_offset.detach().cpu().numpy()
        if "element_refs" in self.settings["trainer"]:
            references = self._fitted_references(potential, references)
        return cast(nn.Module, potential.model), {
            "element_refs": references,
            "data_mean": float(potential.data_mean),
            "data_std": float(potential.data_std),
        }

    def _fitted_references(self, potential: Potential, references: Any) -> Any:
        """Energies of the elements (elements,), eV, with which a loaded model fits the energies of the training set."""
        given = self.settings["trainer"]["element_refs"]
        if given != "fit":
            raise ConfigError(
                f"{self.config_file}: trainer.element_refs is {given!r} with model.load; allowed: fit, which fits the "
                "energies of the elements to the training set, or no key, which keeps those of the model"
            )
        elements = tuple(potential.model.element_types)
        frames, energies = self.data.training_set(), self.data.energies()
        check_elements(frames, [atomic_numbers[symbol] for symbol in elements], "the training set")
        predicted = partial(LesMatGLCalculator(potential).get_property, "energy")
        change = fitted_change(frames, energies, predicted)
        potential.train()
        self.facts["element_refs_change"] = change
        before = np.zeros(len(elements)) if references is None else references
        return before + [change.get(symbol, 0.0) for symbol in elements]

    def _with_section(self, model: nn.Module) -> nn.Module:
        if self.long_range is None:
            return model
        where = f"{self.config_file}: model.load"
        return self.with_long_range(model, lambda attached: last_layer(attached.base), where)


train = MatGLTraining.train


def _fit(
    model: nn.Module, data: Mapping[str, Any], trainer: Mapping[str, Any], scaling: Mapping[str, Any], folder: Path
) -> tuple[Any, dict[str, float]]:
    """The potential of the best epoch, and its numbers on the validation set."""
    options = {key: value for key, value in trainer.items() if key in _parameters(MGLPotentialTrainer)}
    keep = ModelCheckpoint(dirpath=folder, filename="best", monitor=_LOSS, save_last=True, enable_version_counter=False)
    numbers = BestNumbers()
    extra = {"logger": False, **(options.pop("trainer_kwargs", None) or {}), "callbacks": [keep, numbers]}
    options.update(data_mean=scaling["data_mean"], data_std=scaling["data_std"], trainer_kwargs=extra)
    fitter: Any = MGLPotentialTrainer(model, **options)
    with warnings.catch_warnings():
        for category, message in _HOST_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        fitter.fit(data, atomrefs=scaling["element_refs"], ckpt_path=trainer.get("ckpt_path"))
    if keep.best_model_path and not rank_zero_only.rank:
        # plain tensors and numbers: MatGL keeps Lightning's checkpoints readable without pickled code
        state = torch.load(keep.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        fitter.lit_module.load_state_dict(state)
    return fitter.potential.cpu().eval(), numbers.best


class BestNumbers(lightning.Callback):
    """Keeps the validation numbers of the epoch with the lowest loss, which the test run at the end overwrites."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        if not trainer.sanity_checking and found.get(_LOSS, math.inf) < self.best.get(_LOSS, math.inf):
            self.best = {**found, "epoch": float(trainer.current_epoch)}


def _check_model(section: dict[str, Any], where: str) -> None:
    if "load" in section:
        check_keys(section, ("load",), where)
        return
    name = section.get("architecture", "TensorNet")
    if name not in ARCHITECTURES:
        raise ConfigError(f"{where}.architecture is {name!r}; allowed: {', '.join(ARCHITECTURES)}")
    own = set(_parameters(ARCHITECTURES[name].kind)) - {"is_intensive", "kwargs"}
    check_keys(section, (*_MODEL_KEYS, *sorted(own)), where)
    check_cutoff(section.get("cutoff", 1.0), f"{where}.cutoff")


def _check_trainer(section: dict[str, Any], where: str) -> None:
    """Keys and values of the trainer section; numbers that YAML took for text are made numbers."""
    checks.check_options(section, _TRAINER, where)
    save_path = section.get("save_path", _DEFAULTS["save_path"])
    if not isinstance(save_path, str) or Path(save_path).name in ("", ".."):
        raise ConfigError(f"{where}.save_path is {save_path!r}; allowed: the name of a folder")
    extra = check_section(section.get("trainer_kwargs") or {}, f"{where}.trainer_kwargs")
    allowed_there = [name for name in _parameters(lightning.Trainer) if name != "callbacks"]
    check_keys(extra, allowed_there, f"{where}.trainer_kwargs")


def _parameters(kind: type) -> list[str]:
    return list(inspect.signature(kind).parameters)


def _override(settings: dict[str, Any], item: str) -> None:
    """`section.key=value` of the command line, the value in YAML."""
    name, equals, value = item.partition("=")
    keys = name.split(".")
    if not equals or len(keys) < 2:
        raise ConfigError(f"argument {item!r}; allowed: section.key=value, such as trainer.max_epochs=10")
    target = settings
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise ConfigError(f"argument {item!r}: {key} is no section of keys and values")
    # a path stands as it is: brackets, braces and # would mean something in YAML
    literal = name in _PATHS and value[:1] not in ("'", '"')
    target[keys[-1]] = value if literal else parse_yaml(value, f"argument {item!r}")
