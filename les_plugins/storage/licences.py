"""Licences of the data that a model learned from: joined for a training, and said once when the model is loaded.

A licence is a text; "; " stands between the licences of several sources.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from les_plugins.data.teachers import NOT_STATED
from les_plugins.errors import CheckpointError, LesPluginsWarning
from les_plugins.storage import checkpoint, zoo

#: What a licence says that restricts whoever uses a model: not every use, no derivatives, or no word that allows any.
_RESTRICTS = re.compile(
    r"(?<![a-z])n[cd](?![a-z])|non[- ]?commercial|academic(?! free)|"
    r"(research|evaluation|personal|internal)( use)? only|all rights reserved|proprietary|"
    r"unknown|(none|not) stated|no licen[cs]e",
    re.IGNORECASE,
)
_BETWEEN = "; "
#: Licences that this process has named, each with the folder of the model that it was named with.
_SAID: set[tuple[Path, str]] = set()


def is_restricted(licence: str) -> bool:
    """Whether a licence forbids some uses, such as commercial ones, or is missing for part of the data."""
    return _RESTRICTS.search(licence) is not None


def joined(licences: Iterable[str]) -> str:
    """One text of several, each source once, in their order."""
    return _BETWEEN.join(dict.fromkeys(part for licence in licences for part in licence.split(_BETWEEN)))


def with_start(licence: str, start: str, of_start: str | None) -> str:
    """The licence of a model that began with another one.

    Args:
        licence: of the data of the training.
        start: name of the model that it began with.
        of_start: the licence of that model; None where nothing states it.

    Returns:
        `licence`, and what of the other it does not name, each with the name of the model: "MIT; CC BY-NC 4.0 (start)".
    """
    known = licence.split(_BETWEEN)
    if of_start is None:
        return joined([licence, f"{NOT_STATED} ({start})"])
    parts = [part for part in of_start.split(_BETWEEN) if part not in known]
    return joined([licence, *(part if part.endswith(")") else f"{part} ({start})" for part in parts)])


def licence_of_checkpoint(model: str | Path, made_of: str | None = None) -> str | None:
    """Licence of the data of a `.les` folder or of a model of the zoo.

    Args:
        model: folder or name.
        made_of: name of the host's own file that the checkpoint was made of, where it has to be that one.

    Returns:
        None for anything else.
    """
    try:
        metadata = checkpoint.read_config(zoo.find_folder(model)).get("metadata", {})
    except CheckpointError:
        return None
    if made_of is not None and metadata.get("training", {}).get("host_checkpoint") != made_of:
        return None
    return str(metadata.get("data_licence") or NOT_STATED)


def say_licence(folder: Path, config: Mapping[str, Any]) -> None:
    """Warn once in a process and for each model whose data have a licence that restricts its use.

    Nothing is said of a training's own data about which its user stated nothing.

    Args:
        folder: the checkpoint.
        config: its config.json; `metadata.data_licence` is read.
    """
    licence = str(config.get("metadata", {}).get("data_licence") or "")
    said = (folder.resolve(), licence)
    if said in _SAID or not any(is_restricted(part) for part in licence.split(_BETWEEN) if part != NOT_STATED):
        return
    _SAID.add(said)
    warnings.warn(
        f"{folder.name} was trained on data under a licence that may restrict its use: {licence}", LesPluginsWarning, 3
    )
