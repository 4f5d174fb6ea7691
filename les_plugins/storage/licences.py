"""Licences of the data that a model learned from: which of them restrict its use, said once when it is loaded."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from les_plugins.errors import LesPluginsWarning

#: What a licence says that restricts whoever uses a model: no commercial use, or no word that allows any.
_RESTRICTS = re.compile(r"\bNC\b|non-?commercial|none stated", re.IGNORECASE)
#: Licences that this process has named, each with the folder of the model that it was named with.
_SAID: set[tuple[Path, str]] = set()


def is_restricted(licence: str) -> bool:
    """Whether a licence forbids commercial use, or is missing for part of the data ("none stated")."""
    return _RESTRICTS.search(licence) is not None


def say_licence(folder: Path, config: Mapping[str, Any]) -> None:
    """Warn once in a process and for each model whose data have a licence that restricts its use.

    Args:
        folder: the checkpoint.
        config: its config.json; `metadata.data_licence` is read.
    """
    licence = str(config.get("metadata", {}).get("data_licence") or "")
    said = (folder.resolve(), licence)
    if said in _SAID or not is_restricted(licence):
        return
    _SAID.add(said)
    warnings.warn(
        f"{folder.name} was trained on data under a licence that may restrict its use: {licence}", LesPluginsWarning, 3
    )
