"""`start_from:`, fine-tuning: a training that begins with the weights of a checkpoint or of a model of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from les_plugins import api
from les_plugins.adapters.mace.model import LongRangeMACE, attach_long_range
from les_plugins.adapters.mace.state import take_apart
from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError
from les_plugins.model.outputs import section_of
from les_plugins.storage.fine_tuning import section_mismatch, with_weights_of

#: The key of a config file.
START = "start_from"
#: Arguments of a model that come from its training data and the precision of the run.
_OF_THE_DATA = ("atomic_energies", "avg_num_neighbors", "atomic_inter_scale", "atomic_inter_shift", "dtype")


def started_from(built: nn.Module, source: str | Path, long_range: LongRangeConfig | None) -> nn.Module:
    """The model of a checkpoint in place of the one that MACE built for the run's settings.

    Weights and the scale of the interaction energy are the checkpoint's. The energies of isolated atoms and the shift
    are those of this run's data, so that data of another functional, with another zero, can be used.

    Args:
        built: what MACE configured, bare; dtype and device of the result are its own.
        source: a `.les` folder, or a name of the zoo.
        long_range: the run's section.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ConfigError: it is not MACE's, or elements, cutoff, irreps, other settings, or what has weights in the
            `long_range:` section differ from those of the run. Its numbers (sigma, dl, epsilon_infinity) may differ,
            and terms that the checkpoint has not start with fresh heads.
    """
    model, config = api.load_model(source)
    if config["host"] != "mace":
        raise ConfigError(f"start_from: {source} is a model of {config['host']}; allowed: models of MACE")
    base = model.base if isinstance(model, LongRangeMACE) else model
    section = section_of(model)
    if section != long_range:
        if long_range is None:
            raise ConfigError(section_mismatch(START, source, config["long_range"]))
        changed = attach_long_range(base, long_range)
        model = changed if section is None else with_weights_of(model, changed, START, source)
    elements, allowed = built.atomic_numbers.tolist(), base.atomic_numbers.tolist()
    if elements != allowed:
        raise ConfigError(
            f"start_from: {source} knows the atomic numbers {allowed}, this run has {elements}; "
            f'atomic_numbers: "{allowed}" in the config file names elements that the data do not have'
        )
    theirs, ours = _settings(base), _settings(built)
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ConfigError(
                f"start_from: the model of {source} is another than this config file describes: "
                f"{name} is {ours.get(name)!r} here and {theirs.get(name)!r} there"
            )
    with torch.no_grad():
        base.atomic_energies_fn.atomic_energies.copy_(built.atomic_energies_fn.atomic_energies)
        if hasattr(base, "scale_shift"):
            base.scale_shift.shift.copy_(built.scale_shift.shift)
    return model.to(next(built.parameters())).requires_grad_(True).train()


def _settings(model: nn.Module) -> dict[str, Any]:
    """What a config file says of a model; not what MACE reads off the data."""
    return {key: value for key, value in take_apart(model).model.items() if key not in _OF_THE_DATA}
