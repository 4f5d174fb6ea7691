"""A teacher's labels of frames, each kept as soon as it is there, and written with what the teacher was."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins.data.copies import said_of_charge_and_spin
from les_plugins.data.evaluation import predict
from les_plugins.data.frames import check_elements
from les_plugins.data.given_charge import charge_for_graph
from les_plugins.data.labels import shaped
from les_plugins.data.metrics import Floats
from les_plugins.data.spin import open_shell
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import DataError, HostError, raising
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
        folder: where labels are kept meanwhile, each under the `key_of` its structure: what is there and can be read
            is not computed again.
        source: where the frames are from, for messages.
        track: wraps the numbers of the frames.

    Raises:
        DataError: an element that the teacher does not know, or a label that is not finite; names the frame.
    """
    if teacher.elements is not None:
        check_elements(frames, teacher.elements, source)
    found = []
    for number in track(range(len(frames))):
        atoms = frames[number]
        path = folder / f"label-{key_of(atoms)}.npz"
        labels = _kept(path, len(atoms))
        if labels is None:
            labels = computed(teacher, atoms, f"{source}, frame {number}")
            with whole_file(path, "wb") as file:
                np.savez(file, **labels)  # type: ignore[arg-type]  # a name such as allow_pickle is no label
        found.append(labelled(atoms, labels, teacher))
    return found


def key_of(atoms: Atoms) -> str:
    """What a structure is told by: its elements, positions, cell, boundaries, total charge, spin, to the last bit."""
    parts = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, charge_for_graph(atoms))
    # adding zero makes -0.0 the same as 0.0
    numbers = b"".join((np.asarray(part, dtype=float) + 0.0).tobytes() for part in parts)
    return hashlib.sha256(numbers + str(open_shell(atoms)).encode()).hexdigest()[:32]


def without_repeats(frames: Sequence[Atoms]) -> list[Atoms]:
    """The structures, each the first time that it occurs."""
    found: dict[str, Atoms] = {}
    for atoms in frames:
        found.setdefault(key_of(atoms), atoms)
    return list(found.values())


def labelled(atoms: Atoms, labels: dict[str, Floats], teacher: Teacher) -> Atoms:
    """A copy without anything but the structure, total charge and spin, origin, labels and the teacher's provenance."""
    new = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    # ASE writes a line break as it is, and no reader takes the frame after that
    said = {"origin": atoms.info.get("origin", "given"), **teacher.provenance()}
    new.info = {**said_of_charge_and_spin(atoms), **{key: " ".join(str(value).split()) for key, value in said.items()}}
    results = {name: float(value) if np.ndim(value) == 0 else value for name, value in labels.items()}
    new.calc = SinglePointCalculator(new, **results)
    return new


def text_of(frames: Sequence[Atoms]) -> str:
    """Frames as extended XYZ."""
    text = io.StringIO()
    ase.io.write(text, frames, format="extxyz")
    return text.getvalue()


def within(frames: Sequence[Atoms], largest_force: float) -> list[Atoms]:
    """Frames on which no force is larger, eV/Å."""
    return [atoms for atoms in frames if np.linalg.norm(atoms.get_forces(), axis=1).max() <= largest_force]


def computed(teacher: Teacher, atoms: Atoms, where: str) -> dict[str, Floats]:
    """The teacher's labels of one structure.

    Raises:
        DataError: one that is not finite; names the teacher and `where`.
        HostError: whatever the teacher stops with, likewise.
    """
    wanted = [name for name in LABELS if name != "stress" or atoms.pbc.all()]
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=said_of_charge_and_spin(atoms))
    try:
        with raising(HostError, where):
            found = predict(teacher.calculator, bare, wanted, where)
    except (DataError, HostError) as error:
        raise type(error)(f"{teacher.name}: {error}") from None
    return {name: value for name, value in found.items() if name in LABELS}


def _kept(path: Path, atoms: int) -> dict[str, Floats] | None:
    """Labels that were kept; None where there are none, or the file is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            found = {name: shaped(name, kept[name], atoms, name) for name in kept.files}
    except Exception:  # zip, zlib and NumPy raise whatever the damage makes them
        return None
    return found if {"energy", "forces"} <= found.keys() <= set(LABELS) else None
