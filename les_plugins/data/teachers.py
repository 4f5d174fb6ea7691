"""Where labels come from a model: its name, version, hash and licence in each frame, read back for a student's card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ase import Atoms

#: Keys of `atoms.info`, as `distillation.teachers.Teacher.provenance` writes them.
KEYS = ("teacher", "teacher_version", "teacher_sha256", "teacher_licence")


def teachers_of(frames: Iterable[Atoms]) -> list[dict[str, Any]]:
    """The teachers of frames, each with the number of its frames, in the order of their names.

    Args:
        frames: of a training set; frames without a teacher are left out.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for atoms in frames:
        if atoms.info.get("teacher"):
            counts[tuple(str(atoms.info.get(key, "")) for key in KEYS)] += 1
    return [
        {**{key: value for key, value in zip(KEYS, values, strict=True) if value}, "frames": count}
        for values, count in sorted(counts.items())
    ]


def licence_of(frames: Iterable[Atoms]) -> str | None:
    """Licence of a training set whose frames all have a teacher, "; " between several; None for any other set."""
    listed = list(frames)
    if not listed or not all(atoms.info.get("teacher") for atoms in listed):
        return None
    return "; ".join(sorted({str(atoms.info.get("teacher_licence", "not stated")) for atoms in listed}))
