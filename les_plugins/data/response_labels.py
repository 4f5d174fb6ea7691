"""Labels of electric response in structure files: their names, and a look at a set before it is trained on.

Adapters' trainers call it for `response_loss:`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from les_plugins.data.frames import label
from les_plugins.data.metrics import Floats
from les_plugins.errors import DataError, LesPluginsWarning

#: Names of each label; ASE's `polarization` is e/Å², all others are of the whole structure.
NAMES: dict[str, tuple[str, ...]] = {
    "dipole": ("REF_dipole", "dipole"),
    "polarization": ("REF_polarization_dipole", "polarization_dipole", "polarization"),
    "born_effective_charges": ("REF_born_effective_charges", "born_effective_charges"),
    "polarizability": ("REF_polarizability", "polarizability"),
}
_DENSITY = "polarization"
#: Of labels that count for some structures alone: which, and what serves the others.
_COUNTS_FOR = {
    "dipole": "a dipole is one of open structures and slabs; the label of periodic ones is polarization",
    "polarization": "a polarization is one of structures that are periodic along three axes; the label of slabs and "
    "open ones is dipole",
}

#: File and frame, pbc (3,), and which labels it has.
LabelledFrame = tuple[str, ArrayLike, Collection[str]]


def response_labels(atoms: Atoms, where: str) -> dict[str, Floats]:
    """The response labels of a frame, those that are NaN left out.

    Args:
        atoms: the frame.
        where: file and frame, for messages.

    Returns:
        dipole (3,) and polarization (3,) e·Å, born_effective_charges (N, 3, 3) e, polarizability (3, 3) e²·Å²/eV.

    Raises:
        DataError: a label that is no array of numbers of its size, or infinite, or there under two names.
    """
    found: dict[str, Floats] = {}
    for quantity, names in NAMES.items():
        given = [(name, value) for name in names if (value := label(atoms, name)) is not None]
        if len(given) > 1:
            both = " and ".join(repr(name) for name, _ in given)
            raise DataError(f"{where}: has its {quantity} under {both}; allowed: one of {', '.join(names)}")
        for name, value in given:
            array = _array(value, quantity, len(atoms), f"{where}: {name}")
            if np.isnan(array).all():
                continue
            found[quantity] = array * abs(atoms.cell.volume) if name == _DENSITY else array
    return found


def label_counts(quantity: str, pbc: ArrayLike) -> bool:
    """Whether a label is of what a structure has: dipoles of open directions, polarization of crystals, others of all.

    Args:
        quantity: of `NAMES`.
        pbc: (3,) bool, of the structure.

    Source: theory 9.3.
    """
    periodic = bool(np.asarray(pbc, dtype=bool).all())
    return {"dipole": not periodic, "polarization": periodic}.get(quantity, True)


def check_response_labels(
    frames: Collection[LabelledFrame],
    mentions: Mapping[str, int],
    quantities: Iterable[str],
    named: Collection[str],
    where: str,
    is_training_set: bool,
) -> None:
    """Say what is missing from a set, and what of it is not used.

    Args:
        frames: of the set.
        mentions: number of frames that have each label in the file, read or not.
        quantities: what has a weight above zero.
        named: what the section names, with whatever weight.
        where: files of the set, for messages.
        is_training_set: and not one to validate with.

    Raises:
        DataError: no frame of a training set has a label with a weight, or of those that have it none counts
            (`label_counts`).

    Warns:
        LesPluginsWarning: no frame of another set has it, or none that counts; some labels of a set count and others
            do not; a training set holds a label that the section does not name.
    """
    for name in quantities:
        labelled = [pbc for _, pbc, labels in frames if name in labels]
        counted = sum(label_counts(name, pbc) for pbc in labelled)
        if counted and counted < len(labelled):
            text = f"{where}: of {len(labelled)} frames with {name} {len(labelled) - counted} do not count"
            warnings.warn(f"{text}: {_COUNTS_FOR[name]}", LesPluginsWarning, 4)
        if counted:
            continue
        text = (
            f"{where}: none of {len(frames)} frames has {name} (looked for {', '.join(NAMES[name])}), which "
            "response_loss has a weight for"
        )
        if labelled:
            text = (
                f"{where}: response_loss has a weight for {name}, and none of {len(labelled)} frames with it counts: "
                f"{_COUNTS_FOR[name]}"
            )
        if is_training_set:
            raise DataError(f"{text}; set response_loss.{name}: 0 to train without")
        warnings.warn(f"{text}; its error is not validated", LesPluginsWarning, 4)
    for name, count in mentions.items() if is_training_set else ():
        if count and name not in named:
            text = f"{where}: {count} of {len(frames)} frames have {name}, which response_loss does not name"
            warnings.warn(f"{text}: it is not trained on", LesPluginsWarning, 4)


def _array(value: ArrayLike, quantity: str, n_atoms: int, what: str) -> Floats:
    shapes = {"born_effective_charges": (n_atoms, 3, 3), "polarizability": (3, 3)}
    shape = shapes.get(quantity, (3,))
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{what}: expected numbers, got {str(value)[:40]!r}") from None
    if array.size != int(np.prod(shape)):
        raise DataError(f"{what} has shape {array.shape}; expected {shape}")
    if np.isinf(array).any() or (np.isnan(array).any() and not np.isnan(array).all()):
        raise DataError(f"{what} holds infinity, or NaN beside numbers; allowed: numbers, or NaN alone for no label")
    return array.reshape(shape)
