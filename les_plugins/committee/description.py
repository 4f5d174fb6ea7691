"""The file of a committee, `NAME.committee`: which models, and the SHA-256 of each, as JSON. It holds no weights."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from les_plugins.committee.agreement import on_elements, on_screening
from les_plugins.errors import CheckpointError, ConfigError, quoted
from les_plugins.io.documents import read_json
from les_plugins.io.files import whole_file
from les_plugins.storage import checkpoint, zoo
from les_plugins.version import __version__

FORMAT, FORMAT_VERSION = "les-plugins committee", 1
SUFFIX = ".committee"
_KEYS = {"model", "weights_sha256", "config_sha256"}


@dataclass(frozen=True)
class Member:
    """One model of a committee.

    Attributes:
        model: name of the zoo, or the checkpoint folder; in the file relative to it.
        folder: where the checkpoint is.
        host: name of its adapter.
        weights_sha256, config_sha256: of its files.
    """

    model: str
    folder: Path
    host: str
    weights_sha256: str
    config_sha256: str

    @classmethod
    def of(cls, model: str) -> Member:
        """A model of the zoo or a checkpoint folder as it is now.

        Raises:
            CheckpointError: it is neither.
        """
        folder = zoo.find_folder(model)
        return cls(
            model,
            folder,
            checkpoint.read_config(folder)["host"],
            checkpoint.sha256(folder / checkpoint.WEIGHTS),
            checkpoint.sha256(folder / checkpoint.CONFIG),
        )


def is_committee(path: str | Path) -> bool:
    """Whether a model's path is that of a committee, by its suffix."""
    return Path(path).suffix == SUFFIX


def write(path: Path, models: Sequence[str]) -> list[Member]:
    """Write the file of a committee; it appears whole or not at all.

    Args:
        path: ends in ".committee".
        models: names of the zoo or checkpoint folders, at least two, none twice.

    Returns:
        The members.

    Raises:
        ConfigError: another suffix, fewer than two models, a model given twice.
        CheckpointError: a model that is no checkpoint.
        DataError: the file cannot be written.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path} must end in {SUFFIX}")
    members = [Member.of(model) for model in models]
    if len(members) < 2:
        raise ConfigError(f"a committee of {len(members)}; allowed: at least two models")
    seen: dict[tuple[str, str], str] = {}
    for member in members:
        files = member.weights_sha256, member.config_sha256
        if files in seen:
            raise ConfigError(f"{member.model} and {seen[files]} are the same model, which has no spread")
        seen[files] = member.model
    written = [
        {
            "model": _from(path, member),
            "weights_sha256": member.weights_sha256,
            "config_sha256": member.config_sha256,
        }
        for member in members
    ]
    document = {"format": FORMAT, "version": FORMAT_VERSION, "les_plugins": __version__, "members": written}
    with whole_file(path) as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return members


def cautions(members: Sequence[Member]) -> list[str]:
    """What is to be said of models that are a committee: other elements in their training sets, other ε_∞."""
    configs = {member.model: checkpoint.read_config(member.folder) for member in members}
    trained = {model: config["metadata"].get("training", {}).get("elements") for model, config in configs.items()}
    lines = [] if None in trained.values() else [on_elements(trained)]
    if all(config["long_range"] is not None for config in configs.values()):
        lines.append(on_screening({model: float(config["epsilon_infinity"]) for model, config in configs.items()}))
    return [line for line in lines if line is not None]


def read(path: Path) -> list[Member]:
    """Members of a committee, each the very files that the committee was made of.

    Raises:
        CheckpointError: a file that is none of ours or of another version, a member that is missing or was changed.
    """
    document = read_json(path)
    if document.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {quoted(document.get('format'))}; allowed: {FORMAT!r}")
    if document.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: version is {quoted(document.get('version'))}; this release reads {FORMAT_VERSION}"
        )
    listed = document.get("members")
    if not isinstance(listed, list) or len(listed) < 2:
        raise CheckpointError(f"{path}: members: expected a list of at least two models")
    return [_member(path, number, entry) for number, entry in enumerate(listed)]


def _member(path: Path, number: int, entry: Any) -> Member:
    if not isinstance(entry, dict) or set(entry) != _KEYS or not all(isinstance(v, str) for v in entry.values()):
        raise CheckpointError(f"{path}: members[{number}]: expected texts for {', '.join(sorted(_KEYS))}")
    model = entry["model"]
    if model not in zoo.names():
        model = str(path.parent / model)
    try:
        member = Member.of(model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: members[{number}]: {error}") from None
    for key in ("weights_sha256", "config_sha256"):
        if (found := getattr(member, key)) != entry[key]:
            raise CheckpointError(
                f"{path}: members[{number}], {entry['model']}, has been changed since the committee was made: "
                f"{key} is {found[:12]}…, not {quoted(entry[key][:12])}…; make it again with les-plugins committee"
            )
    return member


def _from(path: Path, member: Member) -> str:
    """A name of the zoo as it is, a folder relative to the file, so that both can be moved together."""
    if member.model in zoo.names() and not Path(member.model).exists():
        return member.model
    return os.path.relpath(member.folder.resolve(), path.parent.resolve())
