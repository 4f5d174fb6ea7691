"""`les-plugins train nequip`: `nequip-train` as it is, then a checkpoint of ours from the one that it wrote."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from nequip.model.saved_models.load_utils import load_saved_model
from torch import nn

from les_plugins.adapters.nequip.builder import PRETRAINED, TARGET, checkpoint_section
from les_plugins.adapters.nequip.data import (
    Compared,
    HostFrames,
    charge_key,
    check_batches,
    check_charge_field,
    check_frames,
    read_datasets,
    spread,
)
from les_plugins.adapters.nequip.hydra_config import ComposedConfig, overrides, referenced, run_directory
from les_plugins.adapters.nequip.model import initialize_nequip
from les_plugins.adapters.nequip.response_section import (
    check_labels,
    response_of,
    response_overrides,
    section_beside,
)
from les_plugins.data.training import TrainingFiles, by_use
from les_plugins.errors import ConfigError, HostError, LesPluginsWarning, raising
from les_plugins.hosting.build import parse_section
from les_plugins.hosting.process import run_module
from les_plugins.hosting.section_name import SECTION, refuse_near_misses
from les_plugins.storage.licences import licence_of_checkpoint
from les_plugins.storage.training import saving
from les_plugins.training import TrainingRun

#: Frames of the training set, at most, that are kept for the sign convention of the latent charges.
GAUGE_FRAMES = 64
#: Environment variable with the folder of the run: Hydra's grammar need not know its characters.
_FOLDER = "LES_PLUGINS_RUN_FOLDER"
#: Seconds by which the clock of a file system may be behind.
_CLOCK = 2.0
#: Our two functions, by every path that imports them.
_TARGETS = (TARGET, PRETRAINED, *(f"{__package__}.builder.{n}" for n in ("LongRangeModel", "PretrainedModel")))
#: Functions of model sections that open a file, each with its key for that.
_STARTS = {
    "PretrainedModel": "checkpoint",
    "ModelFromCheckpoint": "checkpoint_path",
    "ModelFromPackage": "package_path",
}
#: What of a training module's metrics needs labels, and of which set.
_METRICS = {"train": ("loss", "train_metrics"), "val": ("val_metrics",)}


class NequIPTraining(TrainingRun):
    """`nequip-train` in a process of its own, between a look at config and data and a checkpoint of what it wrote.

    The model section of the file names `LongRangeModel`. Arguments are Hydra overrides, such as trainer.max_epochs=10.
    """

    host = "nequip"
    program = "nequip-train"

    def split(self) -> None:
        """The section stands in the model section, after Hydra has put defaults and overrides together."""
        source = str(self.config_file)
        if "defaults" not in self.settings:  # words for a file that is no config at all
            check_config(self.settings, source)
        self.folder = run_directory(self.config_file, self.arguments)
        self.composed = ComposedConfig.of_file(self.config_file, self.arguments, self.folder)
        self.settings = self.composed.plain()
        check_config(self.settings, source)
        for path, found in _our_sections(self.settings):
            inner = found.get("model")
            if SECTION not in found and isinstance(inner, Mapping) and "ModelFrom" not in str(inner.get("_target_")):
                warnings.warn(
                    f"{source}: {path} names LongRangeModel and has no {SECTION}: the model is NequIP's alone; an "
                    f"empty {SECTION} section gives it a long-range part",
                    LesPluginsWarning,
                    5,
                )
        self.response = response_of(self.settings, source)
        if self.response is not None:
            self.arguments = (*self.arguments, *response_overrides(self.settings, self.response, source))
            self.composed = ComposedConfig.of_file(self.config_file, self.arguments, self.folder)
            self.settings = self.composed.plain()
        runs = self.settings.get("run") or []
        self.trains = "train" in ([runs] if isinstance(runs, str) else list(runs))

    def is_long_range(self) -> bool:
        """Where a model section says so, or names a checkpoint that may."""
        sections = [section for _, section in _our_sections(self.settings)]
        return any(SECTION in section for section in sections) or PRETRAINED in str(self.settings)

    def reads_total_charge(self) -> bool:
        """Where a model section says so."""
        sections = [section.get(SECTION) for _, section in _our_sections(self.settings)]
        return any(isinstance(one, Mapping) and one.get("total_charge") == "given" for one in sections)

    def target(self) -> Path:
        """In the folder of the run."""
        return self.folder / f"{self.config_file.stem}.les"

    def read_frames(self) -> list[Atoms]:
        """Some structures of the training set; every frame was looked at, and NequIP reads them again."""
        sets = self._checked_sets() if self.trains else {}
        self.data = TrainingFiles(
            *(by_use((each.path, each) for each in sets.get(name, ())) for name in ("train", "val"))
        )
        if self.response is not None:
            check_labels(sets, self.response, section_beside(self.settings))
        return spread(sets.get("train", ()), GAUGE_FRAMES)

    def files(self) -> tuple[Iterable[Path], Iterable[Path]]:
        """Where they are files."""
        train, valid = super().files()
        return filter(Path.is_file, train), filter(Path.is_file, valid)

    def begins_with(self) -> Mapping[str, str | None]:
        """Checkpoints and packages that the model section names."""
        given = _starts(self.composed.resolved("training_module"))
        return {Path(name).name: _licence_of_start(name) for name in given}

    def fit(self) -> nn.Module | None:
        """The model of the best epoch; None where the file asks for no training, and in all but the first process."""
        begin = time.time()
        _run(self.config_file, overrides(self.arguments), self.folder)
        if not self.trains or rank_zero_only.rank:
            return None
        # a run that goes on from a checkpoint may have had its best epoch before
        written = newest_checkpoint(self.folder, 0.0 if self.settings.get("ckpt_path") else begin - _CLOCK)
        self.facts["host_checkpoint"] = written.name
        with saving(self.target(), self.kept()):
            return load_checkpoint(written)

    def kept(self) -> list[Path]:
        """NequIP's own checkpoints."""
        return list(self.folder.rglob("*.ckpt"))

    def _checked_sets(self) -> dict[str, list[HostFrames]]:
        """The sets of the data section, after a look at every frame: labels and fields."""
        if not isinstance(data := self.composed.resolved("data"), dict):
            raise ConfigError(f"{self.config_file}: data is missing, the section with the structures to train on")
        type_names = _type_names(self.composed, self.settings)
        compared = {kind: _compared(self.composed, names, type_names) for kind, names in _METRICS.items()}
        if self.reads_total_charge() and (key := charge_key(data)) is not None:
            self.facts["total_charge_key"] = key
        sets = read_datasets(data, compared, type_names, str(self.config_file))
        check_frames(sets, compared)
        for kind, some in sets.items():
            loader = data.get(f"{kind}_dataloader") or {}
            batched = isinstance(loader, dict) and int(loader.get("batch_size") or 1) > 1
            for frames in some:
                if self.reads_total_charge():
                    check_charge_field(frames)
                if batched:
                    check_batches(frames)
        return sets


train = NequIPTraining.train


def load_checkpoint(path: Path) -> nn.Module:
    """The model of a checkpoint of NequIP (weights of its moving average where it keeps one), ready to be saved.

    Args:
        path: a `.ckpt` file; it is a pickle: load files only that you trust.
    """
    initialize_nequip()
    model: nn.Module = load_saved_model(str(path))
    if getattr(model, "host_section", None) is None:
        model.host_section = checkpoint_section(path)
    return model.eval()


def check_config(settings: Mapping[str, Any], source: str) -> None:
    """Look for our section in the settings, not resolved, and for what NequIP cannot do.

    Raises:
        ConfigError: a section that is misspelt, misplaced or cannot be used, or no model section.
    """
    module = settings.get("training_module")
    model = module.get("model") if isinstance(module, dict) else None
    if not isinstance(model, dict) and "${" not in str(model):  # a reference is looked at where it leads to
        raise ConfigError(f"{source}: training_module.model is missing, the section with the model's _target_")
    names, place = referenced(settings), f"in training_module.model beside _target_: {TARGET}"
    if SECTION in settings and SECTION not in names:
        raise ConfigError(f"{source}: {SECTION} stands at the top, where NequIP does not read it; write it {place}")
    refuse_near_misses(settings, source, lambda path, found: not path or _takes_a_section(found), place, names)
    for path, found in _our_sections(settings):
        section = found.get(SECTION)
        if section is not None and "${" not in str(section):
            parse_section(section, f"{source}: {path}.{SECTION}")
    trainer = settings.get("trainer") or {}
    every = trainer.get("check_val_every_n_epoch", 1) if isinstance(trainer, dict) else 1
    if "EMA" in str(settings["training_module"].get("_target_")) and every != 1:
        raise ConfigError(
            f"{source}: trainer.check_val_every_n_epoch is {every}; EMALightningModule of NequIP allows 1 only: "
            "with others it writes checkpoints that it cannot read"
        )


def newest_checkpoint(folder: Path, since: float = 0.0) -> Path:
    """The checkpoint that NequIP wrote: the newest called best*, else the newest; none from before `since`, s."""
    found = [path for path in folder.rglob("*.ckpt") if path.stat().st_mtime >= since]
    if not found:
        raise HostError(
            f"nequip-train wrote no checkpoint under {folder}: add lightning.pytorch.callbacks.ModelCheckpoint with "
            "dirpath: ${hydra:runtime.output_dir} to trainer.callbacks"
        )
    return max(found, key=lambda path: (path.name.startswith("best"), path.stat().st_mtime))


def _run(config_file: Path, own: Sequence[str], folder: Path) -> None:
    """`nequip-train` in a process of its own."""
    place = ["--config-path", str(config_file.resolve().parent), f"--config-name={config_file.name}"]
    call = [*place, *own, f"hydra.run.dir=${{oc.env:{_FOLDER}}}"]
    variables, kept = {_FOLDER: str(folder)}, lambda: _what_is_kept(folder)
    run_module("nequip-train", "nequip.scripts.train", call, variables, folder, str(config_file), kept)


def _what_is_kept(folder: Path) -> str:
    newest = max(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
    return f"NequIP kept {newest}; ++ckpt_path={newest} goes on from it" if newest else "no checkpoint was written"


def _compared(config: ComposedConfig, names: Sequence[str], type_names: Sequence[str]) -> Compared:
    """Fields that the loss or the metrics of a training module compare with labels."""
    found: dict[str, bool] = {}
    for name in names:
        section = config.resolved(f"training_module.{name}")
        if not isinstance(section, dict):
            continue
        if not type_names:  # they stand in a checkpoint: which fields are compared does not depend on them
            section = _without_types(section)
        with raising(ConfigError, f"{config.source}: training_module.{name}: NequIP cannot use it"):
            entries = list(instantiate(section, type_names=list(type_names)).entries.values())
        for entry in entries:
            wanted = getattr(entry.field, "target_field", getattr(entry.field, "field", None))
            if isinstance(wanted, str) and "edge" not in wanted:
                found[wanted] = entry.ignore_nan and found.get(wanted, True)
    return found


def _without_types(value: Any) -> Any:
    """Metrics without what they say of single types."""
    if isinstance(value, Mapping):
        return {key: _without_types(item) for key, item in value.items() if not str(key).startswith("per_type")}
    return [_without_types(item) for item in value] if isinstance(value, list) else value


def _type_names(config: ComposedConfig, settings: Mapping[str, Any]) -> list[str]:
    """Names of the model's types as a config gives them; empty where they stand in a checkpoint."""
    path, section = "training_module.model", (settings.get("training_module") or {}).get("model")
    while isinstance(section, Mapping):
        if "type_names" in section:
            names = config.resolved(f"{path}.type_names")
            return [str(name) for name in names] if isinstance(names, list) else []
        path, section = f"{path}.model", section.get("model")
    return []


def _starts(section: Any) -> Iterator[str]:
    """What a resolved section begins with: values of the keys of our function and of NequIP's two."""
    if isinstance(section, Mapping):
        name = str(section.get("_target_")).rpartition(".")[2]
        if name in _STARTS and section.get(_STARTS[name]) is not None:
            yield str(section[_STARTS[name]])
    for item in section.values() if isinstance(section, Mapping) else section if isinstance(section, list) else ():
        yield from _starts(item)


def _licence_of_start(name: str) -> str | None:
    """Of a checkpoint of ours, or of the one that was made of NequIP's and stands in the same folder."""
    path = Path(name)
    beside = [licence_of_checkpoint(folder, path.name) for folder in path.parent.glob("*.les")]
    return next((licence for licence in beside if licence is not None), licence_of_checkpoint(name))


def _our_sections(settings: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Sections that name one of our two functions, with the keys that lead to them."""
    if isinstance(settings, list):
        settings = dict(enumerate(settings))
    if not isinstance(settings, Mapping):
        return
    if _takes_a_section(settings):
        yield path, settings
    for key, item in settings.items():
        yield from _our_sections(item, f"{path}.{key}" if path else str(key))


def _takes_a_section(section: Mapping[Any, Any]) -> bool:
    """Whether a section names one of our two functions."""
    return str(section.get("_target_")) in _TARGETS
