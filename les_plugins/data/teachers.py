"""Where labels come from a model: its name, version, hash and licence in each frame, read back for a student's card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ase.io.extxyz import key_val_str_to_dict

#: Keys of `atoms.info`, as `distillation.teachers.Teacher.provenance` writes them.
KEYS = ("teacher", "teacher_version", "teacher_sha256", "teacher_licence")
#: What stands for a licence about which nothing says it.
NOT_STATED = "not stated"


def teachers_of(infos: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The teachers of frames, each with the number of its frames, in the order of their names.

    Args:
        infos: `atoms.info` of the frames of a training set; frames without a teacher are left out.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for info in infos:
        if info.get("teacher"):
            counts[tuple(str(info.get(key, "")) for key in KEYS)] += 1
    return [
        {**{key: value for key, value in zip(KEYS, values, strict=True) if value}, "frames": count}
        for values, count in sorted(counts.items())
    ]


def licences_of(infos: Iterable[Mapping[str, Any]]) -> list[str]:
    """Licences of the teachers of a training set, sorted, whatever its other frames are; "not stated (TEACHER)" too."""
    found = set()
    for info in infos:
        if teacher := info.get("teacher"):
            licence = str(info.get("teacher_licence") or NOT_STATED)
            found.add(f"{NOT_STATED} ({teacher})" if licence == NOT_STATED else licence)
    return sorted(found)


def infos_of_files(paths: Iterable[Path]) -> list[dict[str, Any]] | None:
    """`atoms.info` of every frame of extended XYZ files, from their second lines alone.

    Some hosts hand the frames that they read on without it.

    Returns:
        None where a file is none of that format.
    """
    found = []
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                while (line := file.readline()).strip():
                    found.append(key_val_str_to_dict(file.readline()))
                    for _ in range(int(line)):
                        file.readline()
        except (OSError, ValueError):  # a number of atoms that is none, bytes that are no text
            return None
    return found or None
