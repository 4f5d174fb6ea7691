"""`foundation_model:` as a file: what it says of itself, against what the user wrote. Called before MACE's `run`.

MACE takes the architecture of such a model and passes over what the config file says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from e3nn import o3
from mace.modules import ScaleShiftMACE
from mace.tools.scripts_utils import extract_config_mace_model

from les_plugins.adapters.mace.heads import replays
from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.data.training import TrainingFiles
from les_plugins.errors import ConfigError, HostError, quoted, raising
from les_plugins.storage.licences import licence_of_checkpoint

#: Options of a config file that MACE takes from the foundation model, where they say what that model says.
_ARCHITECTURE = ("r_max", "num_interactions", "max_ell", "correlation", "hidden_irreps")

#: What MACE says of the models that it fetches by these names.
_MIT = ("small", "medium", "large", "medium-mpa-0")
_MIT_SERIES = ("-0b", "-0b2", "-0b3")
_ACADEMIC = ("small_off", "medium_off", "large_off", "mace_omol", "small-omat-0", "medium-omat-0")
_ACADEMIC_SERIES = ("mace-matpes-",)


def licence_of_foundation(name: str) -> str | None:
    """Licence of a foundation model: as MACE states it of its names, of a file as the checkpoint beside it does.

    Args:
        name: a name that MACE fetches, or a file.

    Returns:
        None where neither does.
    """
    if Path(name).is_file():
        return licence_of_checkpoint(Path(name).with_suffix(".les"))
    if name in _MIT or name.endswith(_MIT_SERIES):
        return "MIT"
    if name in _ACADEMIC or name.startswith(_ACADEMIC_SERIES):
        return "Academic Software License"
    return None


def check_foundation(args: Any, settings: Mapping[str, Any], data: TrainingFiles, source: Path) -> None:
    """Look at a foundation model that is a file; models that MACE fetches by name are MACE's to look at.

    The file is a pickle, which can run any code, as MACE itself reads it: give only files that you trust.

    Args:
        args: MACE's options.
        settings: the user's config file.
        data: the structures that are trained on.
        source: the config file, for messages.

    Raises:
        ConfigError: replay without data, another kind of model, a head that it does not have, or a key that
            contradicts it.
        DataError: an element that the model does not know.
        HostError: the file cannot be read.
    """
    name = args.foundation_model
    if name is None:
        return
    if settings.get("multiheads_finetuning") is True and not replays(args):
        raise ConfigError(
            f"{source}: multiheads_finetuning is true and there are no data to replay, so MACE would train one head; "
            "give pt_train_file, frames of the kind that the foundation model was trained on, or write false"
        )
    if not Path(name).is_file():
        return
    with raising(HostError, f"foundation_model: {name} cannot be read"):
        model = torch.load(name, map_location="cpu", weights_only=False)
    if isinstance(model, LongRangeMACE):
        raise ConfigError(
            f"foundation_model is {name}, a model of les-plugins with a long-range part: give its checkpoint, the .les "
            "folder written beside it, as start_from in the config file instead"
        )
    if type(model) is not ScaleShiftMACE:
        raise ConfigError(f"foundation_model: {name} holds a {type(model).__name__}; allowed: ScaleShiftMACE")
    known, own = {int(number) for number in model.atomic_numbers}, extract_config_mace_model(model)
    data.check_elements(known, f"foundation_model {name}")
    _check_head(args.foundation_head, list(getattr(model, "heads", None) or ["Default"]), source)
    for key in _ARCHITECTURE:
        if key in settings and key in own and not _agree(key, settings[key], own[key]):
            raise ConfigError(
                f"{source}: {key} is {quoted(settings[key])}; the foundation model has {own[key]}: leave the key out, "
                "since MACE takes it from there"
            )


def _check_head(given: str | None, heads: list[str], source: Path) -> None:
    if len(heads) == 1 and given is None:
        return
    if given not in heads:
        have = f"the heads {', '.join(heads)}" if len(heads) > 1 else "one head"
        ways = f"allowed: {', '.join(heads)}" if len(heads) > 1 else "leave the key out"
        raise ConfigError(f"{source}: foundation_head is {quoted(given)}; the foundation model has {have}; {ways}")


def _agree(key: str, given: Any, own: Any) -> bool:
    """Whether what a user wrote says the same as the model."""
    try:
        return bool(o3.Irreps(given) == own) if key.endswith("irreps") else abs(float(given) - float(own)) < 1e-6
    except (ValueError, TypeError):
        return False
