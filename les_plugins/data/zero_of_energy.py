"""Energies of the elements that bring a model's energies to those of other data; called by trainers that fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from les_plugins.data.metrics import Floats

#: Frames that the energies of the elements are fitted to, at most.
FITTED = 24


def change_of_elements(frames: Sequence[Atoms], difference: Floats) -> dict[str, float]:
    """What to add to the energy of every atom of an element, by least squares.

    Of all solutions the one with the smallest changes is taken, since frames of a single composition do not tell
    elements apart.

    Args:
        frames: structures.
        difference: (len(frames),) label less the model's energy, eV.

    Returns:
        Element → eV.
    """
    numbers = sorted({int(number) for atoms in frames for number in atoms.numbers})
    counts = np.array([[np.count_nonzero(atoms.numbers == number) for number in numbers] for atoms in frames], float)
    change = np.linalg.lstsq(counts, difference, rcond=None)[0]
    return {chemical_symbols[number]: float(value) for number, value in zip(numbers, change, strict=True)}


def fitted_change(
    frames: Sequence[Atoms], energies: Sequence[float], predicted: Callable[[Atoms], float]
) -> dict[str, float]:
    """`change_of_elements` of `FITTED` frames, evenly from first to last.

    Args:
        frames: structures, at least one.
        energies: labels, eV.
        predicted: the model's energy, eV.
    """
    step = max(1, -(-len(frames) // FITTED))
    chosen = frames[::step]
    return change_of_elements(chosen, np.array(energies[::step]) - [predicted(atoms) for atoms in chosen])
