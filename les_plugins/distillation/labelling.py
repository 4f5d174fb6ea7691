"""A teacher's labels of frames, each kept as soon as it is there, and written with what the teacher was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins.data.evaluation import predict
from les_plugins.data.frames import check_elements
from les_plugins.data.metrics import Floats
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import DataError
from les_plugins.io.files import whole_file

#: Labels, in ASE's names and units: eV, eV/Å, eV/Å³ (Voigt).
LABELS = ("energy", "forces", "stress")


def label_frames(
    teacher: Teacher,
    frames: Sequence[Atoms],
    folder: Path,
    source: str,
    track: Callable[[range], Iterable[int]] = iter,
) -> list[Atoms]:
    """Copies of the frames with the teacher's energy, forces and, of periodic ones, stress.

    Args:
        teacher: what labels.
        frames: the structures.
        folder: where labels are kept meanwhile; those that are there are not computed again.
        source: where the frames are from, for messages.
        track: wraps the numbers of the frames.

    Raises:
        DataError: an element that the teacher does not know, or a label that is not finite; names the frame.
    """
    if teacher.elements is not None:
        check_elements(frames, teacher.elements, source)
    found = []
    for number in track(range(len(frames))):
        path = folder / f"label-{number:06d}.npz"
        if not path.exists():
            labels = _computed(teacher, frames[number], f"{source}, frame {number}")
            with whole_file(path, "wb") as file:
                np.savez(file, **labels)  # type: ignore[arg-type]  # a name such as allow_pickle is no label
        with np.load(path, allow_pickle=False) as kept:
            found.append(labelled(frames[number], {name: kept[name] for name in kept.files}, teacher))
    return found


def labelled(atoms: Atoms, labels: dict[str, Floats], teacher: Teacher) -> Atoms:
    """A copy without anything but the structure, its origin, labels and the teacher's provenance."""
    new = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    new.info = {"origin": atoms.info.get("origin", "given"), **teacher.provenance()}
    results = {name: float(value) if np.ndim(value) == 0 else value for name, value in labels.items()}
    new.calc = SinglePointCalculator(new, **results)
    return new


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Extended XYZ, whole or not at all."""
    with whole_file(path) as file:
        ase.io.write(file, frames, format="extxyz")


def within(frames: Sequence[Atoms], largest_force: float) -> list[Atoms]:
    """Frames on which no force is larger, eV/Å."""
    return [atoms for atoms in frames if np.linalg.norm(atoms.get_forces(), axis=1).max() <= largest_force]


def _computed(teacher: Teacher, atoms: Atoms, where: str) -> dict[str, Floats]:
    wanted = [name for name in LABELS if name != "stress" or atoms.pbc.all()]
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    try:
        found = predict(teacher.calculator, bare, wanted, where)
    except DataError as error:
        raise DataError(f"{teacher.name}: {error}") from None
    return {name: value for name, value in found.items() if name in LABELS}
