"""The folder of an unfinished distillation: what it is of, its choice, and which outputs it has begun to write.

`job` keeps what is done here. Whatever in it cannot be read is made again, but for the description of the whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from les_plugins.errors import DataError, LesPluginsError
from les_plugins.io.documents import read_json
from les_plugins.io.files import check_place, make_folder, whole_file

#: What the folder is called: the output with this behind its name.
PARTS = ".parts"
DESCRIPTION, CHOICE, OUTPUTS = "distillation.json", "choice.json", "outputs.json"
_PROBES = "first_structure"
#: How far a model may be from what it said before and be the same: eV an atom, eV/Å, part of the largest force.
#: Single precision, other numbers of threads and other devices make less, another model more.
ENERGY, FORCE, PART = 1e-4, 1e-3, 1e-3


def resume(folder: Path, asked: Mapping[str, Any], probes: Mapping[str, Any]) -> None:
    """Make the folder, or see that it is of the distillation that is asked for.

    Args:
        folder: its place.
        asked: what must be the same, by name.
        probes: by the role of a model, its energy (eV) and forces (N, 3) eV/Å of the first structure.

    Raises:
        DataError: it is of another distillation, or of other models under the same names; its description is missing
            or damaged.
    """
    description = folder / DESCRIPTION
    document = json.loads(json.dumps({**asked, _PROBES: probes}))
    if not description.exists():
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder}: is in the way: it holds no {DESCRIPTION}; remove it or choose another --output")
        make_folder(folder)
        _write(description, document)
        return
    try:
        before = read_json(description)
    except LesPluginsError as error:
        raise DataError(
            f"{error}; put it back to go on, remove {folder} to begin again, or choose another --output"
        ) from None
    changed = [key for key in asked if document[key] != before.get(key)]
    if changed:
        raise DataError(
            f"{folder}: holds an unfinished distillation with another {', '.join(changed)}; give the same options to "
            "go on with it, remove it to begin again, or choose another --output"
        )
    for role, found in probes.items():
        if difference := _difference(found, before.get(_PROBES, {}).get(role, {})):
            raise DataError(
                f"{folder}: holds an unfinished distillation whose {role} had the same name and was another one: its "
                f"{difference} on the first structure; go on with that one, remove the folder to begin again, or "
                "choose another --output"
            )


@contextmanager
def without_empty(folder: Path) -> Iterator[None]:
    """Remove the folder when the block ends with an error and nothing was kept: another command may begin anew."""
    try:
        yield
    except LesPluginsError:
        if {path.name for path in folder.iterdir()} == {DESCRIPTION}:
            shutil.rmtree(folder)
        raise


def kept_choice(folder: Path, asked: Mapping[str, Any], candidates: int) -> list[int] | None:
    """Numbers of candidates that were chosen for the same reasons among the same ones; None where none are kept."""
    try:
        kept = read_json(folder / CHOICE)
        numbers = [int(number) for number in kept["chosen"]]
    except (LesPluginsError, KeyError, TypeError, ValueError):
        return None
    if kept.get("asked") != json.loads(json.dumps(asked)) or not set(numbers) <= set(range(candidates)):
        return None
    return numbers


def keep_choice(folder: Path, asked: Mapping[str, Any], numbers: list[int]) -> None:
    """Keep a choice for `kept_choice`."""
    _write(folder / CHOICE, {"asked": asked, "chosen": numbers})


def check_free(place: Path, folder: Path) -> None:
    """Raise DataError where a file stands that this distillation has not written, or none can be made."""
    check_place(place)
    if not place.is_file():
        return
    if hashlib.sha256(place.read_bytes()).hexdigest() not in _begun(folder).get(str(place), ()):
        raise DataError(f"{place}: exists; choose another name, or remove it")


def write_outputs(texts: Mapping[Path, str], folder: Path) -> None:
    """Write files in their order; stopped between two of them, `check_free` knows those that were written."""
    begun = _begun(folder)
    for place, text in texts.items():
        begun.setdefault(str(place), []).append(hashlib.sha256(text.encode()).hexdigest())
    _write(folder / OUTPUTS, begun)
    for place, text in texts.items():
        with whole_file(place, newline="") as file:
            file.write(text)


def _begun(folder: Path) -> dict[str, list[str]]:
    """SHA-256 of all that was ever to be written to each place."""
    try:
        return dict(read_json(folder / OUTPUTS))
    except LesPluginsError:
        return {}


def _difference(found: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """In words, how a model differs from what it said before; empty where it does not."""
    forces, old = np.array(found["forces"]), np.array(before.get("forces", []), dtype=float)
    if forces.shape != old.shape or "energy" not in before:
        return "energy and forces were not kept"
    if abs(found["energy"] - before["energy"]) > ENERGY * len(forces):
        return f"energy was {before['energy']:.6f} eV and is {found['energy']:.6f} eV"
    largest = float(np.abs(forces - old).max())
    if largest > FORCE + PART * float(np.abs(old).max()):
        return f"forces differ by up to {largest:.3g} eV/Å"
    return ""


def _write(path: Path, document: Mapping[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
