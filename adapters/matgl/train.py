"""`les-plugins train matgl`: MatGL's `MGLPotentialTrainer`, from a YAML file whose keys are MatGL's own arguments."""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import matgl
import torch
from ase import Atoms
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from matgl.apps.pes import Potential
from matgl.utils.training import MGLPotentialTrainer
from torch import nn

from les_plugins.adapters.matgl.architectures import ARCHITECTURES
from les_plugins.adapters.matgl.data import (
    DATASET_KEYS,
    dataset_of,
    elements_of,
    force_scale,
    read_split,
    references,
    trains_on_stress,
)
from les_plugins.adapters.matgl.model import LongRangeModel, attach_long_range
from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, GeometryError, HostError
from les_plugins.hosting.build import parse_section
from les_plugins.hosting.section_name import SECTION, refuse_near_misses
from les_plugins.io.documents import parse_yaml
from les_plugins.storage import checkpoint
from les_plugins.storage.training import check_keys, saving
from les_plugins.training import TrainingRun

_LOSSES = ("huber_loss", "mse_loss", "smooth_l1_loss", "l1_loss")
#: Keys that hold the name of a file or a folder.
_PATHS = ("dataset.train", "dataset.valid", "dataset.test", "model.load", "trainer.save_path", "trainer.ckpt_path")
#: Keys of the model section that are no arguments of the host's class.
_MODEL_KEYS = ("architecture", "load")
#: What of MGLPotentialTrainer this command decides itself.
_NOT_OURS_TO_SET = {"model", "magmom_weight", "charge_weight"}
_NOT_NEGATIVE, _ABOVE = ("from 0 on", lambda value: value >= 0.0), ("above 0", lambda value: value > 0.0)
_WHOLE = ("without a fraction, 1 or more", lambda value: value >= 1.0 and value.is_integer())
#: Numbers of the trainer section, which MatGL and torch stumble over later, or train with.
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("energy_weight", "force_weight"), _NOT_NEGATIVE),
    **dict.fromkeys(("lr", "data_std"), _ABOVE),
    **dict.fromkeys(("batch_size", "max_epochs", "decay_steps"), _WHOLE),
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

    def split(self) -> None:
        """Every key of every section is checked."""
        checked = checked_settings(self.settings, self.arguments, self.config_file)
        self.long_range = checked.pop(SECTION)
        self.settings, self.dataset = checked, checked["dataset"]
        self.trainer = {**_DEFAULTS, **checked["trainer"]}
        self.folder = Path(self.trainer["save_path"])

    def target(self) -> Path:
        """Beside MatGL's own folder."""
        return self.folder.with_name(f"{self.folder.name}.les")

    def files(self) -> tuple[Iterable[Path], Iterable[Path]]:
        """Of the dataset section."""
        return [Path(self.dataset["train"])], [Path(self.dataset["valid"])]

    def kept(self) -> Iterable[Path]:
        """Lightning's checkpoints."""
        return self.folder.glob("*.ckpt")

    def options(self) -> Mapping[str, Any]:
        """Of the trainer."""
        return self.trainer

    def read_frames(self) -> Sequence[Atoms]:
        """Training set; all files are read, and whether the stress is trained on is decided."""
        self.splits = {
            name: read_split(self.dataset, name) for name in ("train", "valid", "test") if self.dataset.get(name)
        }
        weight = _number(self.trainer, "stress_weight", self.config_file)
        on_stress = weight != 0.0 and trains_on_stress(self.splits, self.dataset, bool(weight))
        self.trainer["stress_weight"] = (0.1 if weight is None else weight) if on_stress else 0.0
        self.splits.setdefault("test", self.splits["valid"])
        return self.splits["train"]

    def fit(self) -> nn.Module | None:
        """MatGL's trainer; None in all but the first process of a distributed training."""
        section, source = self.settings["model"], self.config_file
        model, scaling = _model(section, self.long_range, self.frames, self.trainer, self.dataset, source)
        data = {
            name: dataset_of(some, model, self.dataset, str(self.dataset.get(name) or self.dataset["valid"]))
            for name, some in self.splits.items()
        }
        potential, best = _fit(model, data, self.trainer, scaling, self.folder, source)
        if rank_zero_only.rank:
            return None
        self.facts["last_validation"] = best
        with saving(self.target(), self.kept()):
            potential.save(self.folder)
        return cast(nn.Module, potential)


def train(config_file: Path, arguments: Sequence[str] = (), metadata: Mapping[str, Any] | None = None) -> Path | None:
    """Train as the file says; see `TrainingRun.run` for what is returned and raised."""
    return MatGLTraining(config_file, arguments, metadata).run()


def checked_settings(settings: dict[str, Any], arguments: Iterable[str], config_file: Path) -> dict[str, Any]:
    """The sections of a file, overridden and every key checked; `long_range` is a LongRangeConfig or None.

    Raises:
        ConfigError: a key that is not known, or one that is missing.
    """
    for item in arguments:
        _override(settings, item)
    refuse_near_misses(settings, str(config_file), place="beside dataset, model and trainer")
    check_keys(settings, ("dataset", "model", "trainer", SECTION), str(config_file))
    for name in ("dataset", "model", "trainer"):
        section = settings.setdefault(name, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{config_file}: {name} is {section!r}; expected a section of keys and values")
    check_keys(settings["dataset"], DATASET_KEYS, f"{config_file}: dataset")
    for name in ("train", "valid"):
        if not isinstance(settings["dataset"].get(name), str):
            raise ConfigError(f"{config_file}: dataset.{name} is missing: give an extended XYZ file")
    _check_model(settings["model"], f"{config_file}: model")
    check_keys(settings["trainer"], _trainer_keys(), f"{config_file}: trainer")
    loss = settings["trainer"].get("loss", _LOSSES[0])
    if loss not in _LOSSES:  # MatGL takes the last one for every name that it does not know
        raise ConfigError(f"{config_file}: trainer.loss is {loss!r}; allowed: {', '.join(_LOSSES)}")
    for key, (allowed, holds) in _NUMBERS.items():
        if key in settings["trainer"] and not (key == "data_std" and settings["trainer"][key] == "forces"):
            value = _number(settings["trainer"], key, config_file)
            if value is None or not holds(value):
                raise ConfigError(
                    f"{config_file}: trainer.{key} is {settings['trainer'][key]!r}; allowed: a number {allowed}"
                )
            settings["trainer"][key] = int(value) if value.is_integer() else value
    cutoff = settings["model"].get("cutoff", 1.0)
    if not isinstance(cutoff, int | float) or not 0.0 < cutoff < math.inf:
        raise ConfigError(f"{config_file}: model.cutoff is {cutoff!r}; allowed: a length in Å above 0")
    save_path = settings["trainer"].get("save_path", _DEFAULTS["save_path"])
    if not isinstance(save_path, str) or Path(save_path).name in ("", ".."):
        raise ConfigError(f"{config_file}: trainer.save_path is {save_path!r}; allowed: the name of a folder")
    extra = settings["trainer"].get("trainer_kwargs") or {}
    allowed = [name for name in inspect.signature(lightning.Trainer).parameters if name != "callbacks"]
    if not isinstance(extra, dict):
        raise ConfigError(f"{config_file}: trainer.trainer_kwargs is {extra!r}; expected a section of keys and values")
    check_keys(extra, allowed, f"{config_file}: trainer.trainer_kwargs")
    section = settings.get(SECTION)
    present = SECTION in settings
    settings[SECTION] = parse_section(section, f"{config_file}: {SECTION}") if present else None
    return settings


def _model(
    section: Mapping[str, Any],
    long_range: LongRangeConfig | None,
    frames: Sequence[Atoms],
    trainer: Mapping[str, Any],
    dataset: Mapping[str, Any],
    source: Path,
) -> tuple[nn.Module, dict[str, Any]]:
    """The energy model, and element_refs, data_mean and data_std: the file's, or those of the model that is loaded."""
    torch.manual_seed(int(_number(trainer, "seed", source, 42) or 0))
    if "load" in section:
        if (Path(str(section["load"])) / checkpoint.MANIFEST).is_file():
            raise ConfigError(
                f"{source}: model.load is {section['load']!r}, a checkpoint of les-plugins; allowed: a model of MatGL, "
                "which `les-plugins train matgl` writes beside it (the same name without .les)"
            )
        try:
            potential = matgl.load_model(section["load"])
        except Exception as error:  # MatGL looks for unknown names on the network
            raise ConfigError(f"{source}: model.load: MatGL cannot load {section['load']!r}: {error}") from None
        if not isinstance(potential, Potential):
            raise ConfigError(f"{source}: model.load is a {type(potential).__name__}; allowed: a Potential of MatGL")
        refs = potential.element_refs
        scaling = {
            "element_refs": None if refs is None else refs.property_offset.detach().cpu().numpy(),
            "data_mean": float(potential.data_mean),
            "data_std": float(potential.data_std),
        }
        return _with_section(cast(nn.Module, potential.model), long_range, source), scaling
    options = {key: value for key, value in section.items() if key not in _MODEL_KEYS}
    elements = tuple(options.pop("element_types", None) or elements_of(frames))
    scale = trainer.get("data_std", 1.0)
    scaling = {
        "element_refs": references(trainer["element_refs"], frames, elements, dataset, f"{source}: trainer"),
        "data_mean": _number(trainer, "data_mean", source, 0.0),
        "data_std": force_scale(frames, dataset) if scale == "forces" else _number(trainer, "data_std", source, 1.0),
    }
    name = section.get("architecture", "TensorNet")
    own = {"use_warp": False} if name == "TensorNet" else {}
    try:
        model = ARCHITECTURES[name].kind(**{**own, **options, "element_types": elements, "is_intensive": False})
    except Exception as error:  # the host raises whatever a nonsense argument makes it
        raise ConfigError(f"{source}: model: MatGL's {name} refuses these arguments: {error}") from None
    return _with_section(model, long_range, source), scaling


def _with_section(model: nn.Module, long_range: LongRangeConfig | None, source: Path) -> nn.Module:
    if long_range is None:
        return model
    if not isinstance(model, LongRangeModel):
        return attach_long_range(model, long_range)
    if model.long_range.config != long_range:
        raise ConfigError(f"{source}: the loaded model has a long-range part already, of another {SECTION} section")
    return model


def _fit(
    model: nn.Module,
    data: Mapping[str, Any],
    trainer: Mapping[str, Any],
    scaling: Mapping[str, Any],
    folder: Path,
    source: Path,
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
        try:
            fitter.fit(data, atomrefs=scaling["element_refs"], ckpt_path=trainer.get("ckpt_path"))
        except GeometryError as error:  # every frame was looked at before
            hint = "the weights may have grown without bound: try a lower lr"
            raise HostError(f"{source}: the training of MatGL failed: {error}; {hint}") from error
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise HostError(f"{source}: MatGL's trainer refused: {error}") from error
        except Exception as error:  # MatGL, Lightning and torch raise whatever an option makes them
            raise HostError(f"{source}: the training of MatGL failed: {type(error).__name__}: {error}") from error
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


def _number(trainer: Mapping[str, Any], key: str, source: Path, default: float | None = None) -> float | None:
    given = trainer.get(key, default)
    if isinstance(given, str):  # YAML takes 1e-3, without a point, for text
        with contextlib.suppress(ValueError):
            given = float(given)
    if given is not None and (
        isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given)
    ):
        raise ConfigError(f"{source}: trainer.{key} is {given!r}; allowed: a number")
    return None if given is None else float(given)


def _check_model(section: dict[str, Any], where: str) -> None:
    if "load" in section:
        check_keys(section, ("load",), where)
        return
    name = section.get("architecture", "TensorNet")
    if name not in ARCHITECTURES:
        raise ConfigError(f"{where}.architecture is {name!r}; allowed: {', '.join(ARCHITECTURES)}")
    own = set(_parameters(ARCHITECTURES[name].kind)) - {"is_intensive", "kwargs"}
    check_keys(section, (*_MODEL_KEYS, *sorted(own)), where)


def _trainer_keys() -> tuple[str, ...]:
    own = [name for name in _parameters(MGLPotentialTrainer) if name not in _NOT_OURS_TO_SET]
    return (*own, "element_refs", "save_path", "ckpt_path")


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
