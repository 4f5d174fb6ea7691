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


def check_response_labels(
    counts: Mapping[str, int],
    mentions: Mapping[str, int],
    frames: int,
    quantities: Iterable[str],
    named: Collection[str],
    where: str,
    is_training_set: bool,
) -> None:
    """Say what is missing from a set, and what of it is not used.

    Args:
        counts: frames that have each label.
        mentions: frames that have it in the file, read or not.
        frames: number of frames.
        quantities: what has a weight above zero.
        named: what the section names, with whatever weight.
        where: files of the set, for messages.
        is_training_set: and not one to validate with.

    Raises:
        DataError: no frame of a training set has a label with a weight.

    Warns:
        LesPluginsWarning: no frame of another set has it; a training set holds a label that the section does not name.
    """
    for name in quantities:
        if not counts.get(name):
            text = (
                f"{where}: none of {frames} frames has {name} (looked for {', '.join(NAMES[name])}), which "
                "response_loss has a weight for"
            )
            if is_training_set:
                raise DataError(f"{text}; set response_loss.{name}: 0 to train without")
            warnings.warn(f"{text}: its error is not validated", LesPluginsWarning, 4)
    for name, count in mentions.items() if is_training_set else ():
        if count and name not in named:
            text = f"{where}: {count} of {frames} frames have {name}, which response_loss does not name"
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
