"""What a NequIP config names as its model: `LongRangeModel` around the section that it had, or `PretrainedModel`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_method
from nequip.nn import GraphModel

from les_plugins.adapters.nequip.model import attach_long_range, edge_features, initialize_nequip, last_layer
from les_plugins.api import load_model
from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.build import parse_section
from les_plugins.hosting.section_name import refuse_near_misses
from les_plugins.model.frozen import freeze
from les_plugins.model.outputs import long_range_part
from les_plugins.model.response_config import RESPONSE_SECTION
from les_plugins.storage.checkpoint import read_config
from les_plugins.storage.fine_tuning import with_weights_of
from les_plugins.storage.zoo import find_folder

#: How a config names the two functions below.
TARGET = "les_plugins.adapters.nequip.LongRangeModel"
PRETRAINED = "les_plugins.adapters.nequip.PretrainedModel"
_ABSENT: Mapping[str, Any] = {}


def LongRangeModel(  # noqa: N802 (NequIP's builders are named as classes)
    model: Mapping[str, Any] | None = None, long_range: Mapping[str, Any] | None = _ABSENT, **unknown: Any
) -> GraphModel:
    """A NequIP or Allegro model with a long-range part, to be named in a NequIP config::

        training_module:
          model:
            _target_: les_plugins.adapters.nequip.LongRangeModel
            model: {_target_: nequip.model.NequIPGNNModel, seed: 1, ...}
            long_range: {multipoles: [charge, dipole, quadrupole]}

    Args:
        model: the model section as it was: any builder of NequIP or Allegro, ModelFromCheckpoint, ModelFromPackage.
        long_range: the section of that name; an empty one, None in YAML, is a full model with every default. Not given,
            the model is left without a long-range part.

    Returns:
        The model that NequIP's trainer, checkpoints and calculator take.

    Raises:
        ConfigError: keys beside these two, no model section, or a `long_range:` section that cannot be used.
        HostError: the model is none that a long-range part can be attached to, or is to be compiled.
    """
    _refuse_unknown(unknown, "LongRangeModel", "model", {"model": model})
    if not isinstance(model, Mapping) or not isinstance(model.get("_target_"), str):
        raise ConfigError("LongRangeModel: model must be the model section of NequIP, with its _target_")
    config = None if long_range is _ABSENT else parse_section(long_range, "LongRangeModel: long_range")
    initialize_nequip()
    section = copy.deepcopy(dict(model))
    if config is not None and config.run.static_cell is None and section.get("compile_mode", "eager") != "eager":
        raise ConfigError(
            "LongRangeModel: compile_mode: compile needs long_range.static_cell, the longest lattice vectors, in Å, "
            "that compiled code has to cover; or build the model with compile_mode: eager"
        )
    settings = {key: value for key, value in section.items() if key != "_target_"}
    built = get_method(section["_target_"])(**settings)
    if isinstance(built, torch.nn.ModuleDict) and len(built) == 1:
        built = next(iter(built.values()))  # ModelFromCheckpoint and ModelFromPackage give a dictionary of models
    if not hasattr(built, "is_graph_model"):
        raise HostError(
            f"LongRangeModel: {section['_target_']} gives a {type(built).__name__}; allowed: builders of one model"
        )
    if getattr(built, "host_section", None) is None:
        built.host_section = _origin(section)
    if config is None:
        return built
    present = long_range_part(built)
    if present is None:
        return _frozen(_with_fresh_heads(built, config, section), config)
    if not present.config.with_run(static_cell=config.run.static_cell).same_model(config):
        raise ConfigError(
            "LongRangeModel: the model has a long-range part already, and with another long_range section; static_cell "
            "and train_only alone may be changed"
        )
    if present.config.run.train_only != "all":  # frozen by a run before, all of whose parameters NequIP trains
        built.requires_grad_(True)
    if hasattr(present, "set_run"):
        present.set_run(config.run)
    else:  # of a package made by a release before
        present.set_static_cell(config.run.static_cell)
    return _frozen(built, config)


def PretrainedModel(  # noqa: N802
    checkpoint: str | Path | None = None, long_range: Mapping[str, Any] | None = None, **unknown: Any
) -> GraphModel:
    """A checkpoint of les-plugins, or a model of the zoo, as the model that a NequIP training begins with::

        training_module:
          model:
            _target_: les_plugins.adapters.nequip.PretrainedModel
            checkpoint: water-nequip

    NequIP's modifiers can stand around it: `nequip.model.modify` with `modify_PerTypeScaleShift` gives it the zero of
    energy of other data. `nequip.model.ModelFromCheckpoint` does the same for NequIP's own `.ckpt` files.

    Args:
        checkpoint: a `.les` folder, or a name of the zoo.
        long_range: the section of that name, in place of the checkpoint's. Its numbers, such as sigma, may be others,
            terms that the checkpoint has not start with fresh heads, and terms may be left out.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ConfigError: another key, no checkpoint, one of another host, or a section that its weights do not fit.
    """
    _refuse_unknown(unknown, "PretrainedModel", "checkpoint")
    if checkpoint is None:
        raise ConfigError("PretrainedModel: checkpoint is missing; expected a .les folder or a name of the zoo")
    model, config = load_model(checkpoint)
    if config["host"] != "nequip":
        raise ConfigError(f"PretrainedModel: {checkpoint} is a model of {config['host']}; allowed: models of NequIP")
    if long_range is None:
        return model.train()
    section = parse_section(long_range, "PretrainedModel: long_range")
    if long_range_part(model) is None:
        return _frozen(_with_fresh_heads(model, section, config["model"]), section).train()
    changed = LongRangeModel(config["model"], section)
    with_weights_of(model, changed, "PretrainedModel", checkpoint)
    return changed.train()


def _refuse_unknown(unknown: Mapping[str, Any], source: str, key: str, known: Mapping[str, Any] = _ABSENT) -> None:
    """Raise ConfigError for keys beside `key` and long_range, and for a misspelt section anywhere."""
    refuse_near_misses({**known, **unknown}, source, place=f"beside {key}")
    if RESPONSE_SECTION in unknown:
        raise ConfigError(
            f"{source}: {RESPONSE_SECTION} needs a training module of ours, training_module._target_: "
            "les_plugins.adapters.nequip.response.EMAResponseLightningModule; `les-plugins train nequip` puts it there"
        )
    if unknown:
        raise ConfigError(f"{source}: unknown key {next(iter(unknown))!r}; allowed keys: {key}, long_range")


def _with_fresh_heads(model: torch.nn.Module, config: LongRangeConfig, section: Mapping[str, Any]) -> GraphModel:
    """Heads drawn with the seed of the model section, so that a training can be repeated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(section.get("seed", 0)))
        return attach_long_range(model, config)


def _frozen(model: GraphModel, config: LongRangeConfig) -> GraphModel:
    """The model, with gradients for what the section trains."""
    freeze(model, config.run.train_only, last_layer(model), edge_features(model))
    return model


def checkpoint_section(path: str | Path) -> dict[str, Any]:
    """The model section of NequIP that a checkpoint of NequIP was trained with, without a long-range part around it.

    Args:
        path: a `.ckpt` file; where it holds more than tensors, numbers and text it is read as a pickle, which can run
            any code, as NequIP itself reads every such file: load files only that you trust.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Lightning keeps the settings of callbacks, loops and loggers in the same file, as whatever objects they are;
        # NequIP has opened the file in this way just before, or is about to
        loaded = torch.load(path, map_location="cpu", weights_only=False)
    return _origin(loaded["hyper_parameters"]["model"])


def _origin(section: dict[str, Any]) -> dict[str, Any]:
    """The section that says what a model is made of, whatever stands around it: what was read is what is in there."""
    while section["_target_"] in (TARGET, "nequip.model.modify"):
        section = section["model"]
    if section["_target_"] == "nequip.model.ModelFromCheckpoint":
        return checkpoint_section(section["checkpoint_path"])
    if section["_target_"] == PRETRAINED:
        return dict(read_config(find_folder(section["checkpoint"]))["model"])
    return section
