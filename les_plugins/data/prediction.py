"""Structures with a model's predictions, as extended XYZ that ASE reads back. `les-plugins predict` calls this."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from les_plugins.data.evaluation import predict
from les_plugins.data.given_charge import brings_charge, charge_to_keep
from les_plugins.data.labels import BORN
from les_plugins.data.metrics import Floats
from les_plugins.errors import HostError
from les_plugins.io.files import whole_file

#: What is written where the model has it, per structure and per atom; Z* is added when asked for.
OF_STRUCTURE = ("energy", "long_range_energy", "short_range_energy", "stress", "dipole", "polarizability")
OF_ATOMS = ("forces", "charges")
#: Standard deviations over the members of a committee, of what is written anyway.
_STD = "_std"
SUFFIXES = (".xyz", ".extxyz")


def write_predictions(
    calculator: Any, frames: Iterable[Atoms], output: Path, source: str = "frames", born: bool = False
) -> dict[str, int]:
    """Predict every frame and write it at once; the file takes its name when all of them are written.

    Args:
        calculator: ASE calculator, as of `les_plugins.load`.
        frames: structures; read once, one at a time.
        output: extended XYZ file to write; replaced when it exists.
        source: where the frames come from, for messages.
        born: Born effective charges too, 9 numbers per atom, row-major Z[a, b] = dP_a / dr_b.

    Returns:
        How many frames each property was written for.

    Raises:
        DataError: the output cannot be written, a prediction is not finite.
        HostError: Born charges were asked for and the model has none.
        LesPluginsError: what the calculator refuses, with the frame it was.
    """
    if born and BORN not in calculator.implemented_properties:
        raise HostError(f"--born: the model does not predict {BORN}: it has no long-range part")
    written: dict[str, int] = {}
    with whole_file(output) as file:
        for number, atoms in enumerate(frames):
            properties = [*OF_STRUCTURE, *OF_ATOMS, *([BORN] if born else [])]
            if not atoms.pbc.all():
                properties.remove("stress")
            if getattr(calculator, "is_committee", False):
                properties += [f"{name}{_STD}" for name in properties]
            found = predict(calculator, atoms, properties, f"{source}, frame {number}")
            frame = predicted_frame(atoms, found)
            if not brings_charge(atoms, getattr(calculator, "total_charge_key", None)):
                frame.info.update(charge_to_keep(calculator, atoms))
            ase.io.write(file, frame, format="extxyz")
            for name in found:
                written[name] = written.get(name, 0) + 1
    return written


def predicted_frame(atoms: Atoms, found: dict[str, Floats]) -> Atoms:
    """A copy of a structure with predictions under ASE's names in the place of the labels that it had there.

    Args:
        atoms: the structure; what it carries under other names (such as REF_energy) is kept.
        found: predictions in ASE's shapes, as of `evaluation.predict`.
    """
    labelled: Atoms = atoms.copy()
    names = (*OF_STRUCTURE, *OF_ATOMS, BORN)
    for name in (*names, *(f"{name}{_STD}" for name in names)):
        labelled.info.pop(name, None)
        labelled.arrays.pop(name, None)
    for name, value in found.items():
        if name.removesuffix(_STD) == "stress":
            full = voigt_6_to_full_3x3_stress(value)
            labelled.info[name] = full if name == "stress" else full.ravel()  # nine numbers, as ASE writes a stress
        elif name.removesuffix(_STD) in OF_STRUCTURE:
            labelled.info[name] = float(value) if value.ndim == 0 else value
        else:
            labelled.arrays[name] = value if value.ndim == 1 else value.reshape(len(atoms), -1)
    return labelled
