"""The model zoo: checkpoints that come with the package, checked by SHA-256 before use. Needs no network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from les_plugins.errors import CheckpointError, did_you_mean, quoted
from les_plugins.io.documents import read_json
from les_plugins.io.files import whole_file, whole_folder
from les_plugins.storage import checkpoint

PACKAGE = "les_plugins.model_zoo"
FORMAT, FORMAT_VERSION = "les-plugins zoo", 1
MANIFEST, CARD, METRICS, PREDICTIONS = "manifest.json", "card.md", "metrics.json", "predictions.json"
#: What the folder of a model holds, beside its checkpoint: the card, its numbers, and results on a packaged structure.
CARD_FILES = (CARD, METRICS, PREDICTIONS)
_FILES = (checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.MANIFEST, *CARD_FILES)
#: Folder of the packaged structures.
STRUCTURES = "structures"


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: what `les_plugins.load` takes.
        folder: where its files are.
        sha256: file name → hexadecimal SHA-256, from the manifest of the zoo.
    """

    name: str
    folder: Path
    sha256: Mapping[str, str]

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        try:
            return (self.folder / CARD).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.folder / CARD} cannot be read: {error}; reinstall les-plugins") from None

    @property
    def metrics(self) -> dict[str, Any]:
        """What the card says, for machines."""
        return read_json(self.folder / METRICS)

    @property
    def config(self) -> dict[str, Any]:
        """config.json of the checkpoint."""
        return checkpoint.read_config(self.folder)

    def verify(self) -> None:
        """Compare every file with the manifest of the zoo; CheckpointError for one that is changed or missing."""
        for file, expected in self.sha256.items():
            path = self.folder / file
            if not path.is_file():
                raise CheckpointError(f"{self.name}: {path} is missing: reinstall les-plugins")
            if (found := checkpoint.sha256(path)) != expected:
                raise CheckpointError(
                    f"{self.name}: {path} has been changed: its SHA-256 is {found[:16]}…, the manifest of the zoo says "
                    f"{expected[:16]}…; reinstall les-plugins"
                )

    def copy(self, destination: Path) -> Path:
        """Copy the folder, verified, to `destination`, which must not exist; returns it, whole.

        Raises:
            CheckpointError: a file of the zoo was changed, or the destination exists.
            DataError: the destination cannot be written.
        """
        self.verify()
        if destination.exists():
            raise CheckpointError(f"{destination} exists: choose another place for the copy of {self.name}")
        with whole_folder(destination) as begun:
            for file in self.sha256:
                shutil.copyfile(self.folder / file, begun / file)
        return destination


def root() -> Path:
    """The folder of the zoo in this installation.

    Raises:
        CheckpointError: les_plugins is a source tree, in whose place Python was started, and not installed with -e.
    """
    try:
        return Path(str(resources.files(PACKAGE)))
    except ModuleNotFoundError:
        tree = Path(__file__).parents[2]
        raise CheckpointError(
            f"{tree} is a clone of les-plugins, from which Python has taken the modules, and its zoo is not one of "
            "them: pip install -e . there, or start Python in another folder"
        ) from None


def names() -> list[str]:
    """Names of all models."""
    return sorted(_manifest())


def entries() -> list[Entry]:
    """All models, by name; nothing is verified yet."""
    return [entry(name) for name in names()]


def entry(name: str) -> Entry:
    """The model of that name.

    Raises:
        CheckpointError: there is none; says which there are.
    """
    models = _manifest()
    if name not in models:
        raise CheckpointError(f"the zoo has no model {quoted(name)}; it has: {', '.join(sorted(models)) or 'none'}")
    return Entry(name, root() / name, models[name])


def name_of_weights(sha256: str) -> str | None:
    """The model of the zoo that has these weights, by their SHA-256; None also where the zoo cannot be read."""
    try:
        models = _manifest()
    except CheckpointError:  # a name for a title is not worth an error
        return None
    return next((name for name, files in models.items() if files.get(checkpoint.WEIGHTS) == sha256), None)


def structure(name: str) -> Path:
    """A packaged structure, such as "water-64" (extended XYZ).

    Raises:
        CheckpointError: there is none; says which there are.
    """
    known = structures()
    if name not in known:
        raise CheckpointError(f"the zoo has no structure {quoted(name)}; it has: {', '.join(known) or 'none'}")
    return root() / STRUCTURES / f"{name}.xyz"


def structures() -> list[str]:
    """Names of the packaged structures."""
    return sorted(item.stem for item in (root() / STRUCTURES).glob("*.xyz"))


def copy_structure(name: str, destination: Path) -> Path:
    """Copy a packaged structure to a file that does not exist yet; returns it.

    Raises:
        CheckpointError: there is no such structure, or the file exists.
        DataError: the file cannot be written.
    """
    source = structure(name)
    if destination.suffix not in (".xyz", ".extxyz"):
        raise CheckpointError(
            f"{destination}: the structure is extended XYZ; allowed: a name that ends in .xyz, .extxyz"
        )
    if destination.exists():
        raise CheckpointError(f"{destination} exists: choose another file for the copy of {name}")
    with whole_file(destination, "wb") as file:
        file.write(source.read_bytes())
    return destination


def resolve(path: str | Path) -> Path:
    """The folder of a checkpoint: the path where it exists, else the zoo's model of that name, verified.

    Raises:
        CheckpointError: a model of the zoo that was changed.
    """
    given = Path(path)
    if given.exists() or len(given.parts) != 1 or given.name not in _manifest():
        return given
    found = entry(given.name)
    found.verify()
    return found.folder


def find_folder(given: str | Path) -> Path:
    """The folder of a checkpoint, given by its path or, for a model of the zoo, by its name.

    Raises:
        CheckpointError: nothing is there, or something else than a checkpoint.
    """
    try:
        path = resolve(given)
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be entered, a NUL
        raise CheckpointError(f"{quoted(str(given))} cannot be opened: {error}") from None
    if is_folder:
        if not (path / checkpoint.MANIFEST).is_file():
            raise CheckpointError(f"{path} is not a checkpoint of les-plugins: it has no {checkpoint.MANIFEST}")
        return path
    if not exists:
        known = f"one of the zoo: {', '.join(names())}" if names() else "the zoo is empty"
        raise CheckpointError(
            f"{path} does not exist{did_you_mean(path.name, names())}; expected a checkpoint folder with "
            f"{checkpoint.MANIFEST}, or {known}"
        )
    head = b""
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise CheckpointError(
            f"{path} is a pickle (a whole PyTorch model), which can run any code when loaded and is never opened here; "
            "load it with its own framework, then les_plugins.attach and les_plugins.save it"
        )
    files = f"{checkpoint.MANIFEST}, {checkpoint.CONFIG} and {checkpoint.WEIGHTS}"
    raise CheckpointError(f"{path} is a file; expected a checkpoint folder with {files}")


def write_manifest(folder: Path | None = None) -> Path:
    """List every model of the zoo with the SHA-256 of its files; run after a checkpoint was added or changed.

    Args:
        folder: the zoo; that of this installation when None.
    """
    zoo = folder or root()
    models = {}
    for model in sorted(item.parent for item in zoo.glob(f"*/{CARD}")):  # a card is written last
        models[model.name] = {file: checkpoint.sha256(model / file) for file in _FILES}
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "models": models}
    path = zoo / MANIFEST
    with whole_file(path) as file:
        file.write(json.dumps(document, indent=1) + "\n")
    return path


def _manifest() -> dict[str, dict[str, str]]:
    path = root() / MANIFEST
    if not path.exists():
        return {}
    try:
        document = read_json(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; reinstall les-plugins") from None
    if document.get("format") != FORMAT or document.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} is not the manifest of a zoo that this les-plugins reads")
    models = document.get("models")
    if not isinstance(models, dict) or not all(_listed_whole(*item) for item in models.items()):
        raise CheckpointError(
            f"{path}: models must list folders of the zoo, each with the SHA-256 of {', '.join(_FILES)}; "
            "reinstall les-plugins"
        )
    return models


def _listed_whole(name: str, files: Any) -> bool:
    """Whether the entry of a model is a name, no path that leaves the zoo, and the hashes of its own files."""
    return (
        re.fullmatch(r"\w[\w.-]*", name) is not None
        and isinstance(files, dict)
        and set(files) == set(_FILES)
        and all(isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) for value in files.values())
    )
