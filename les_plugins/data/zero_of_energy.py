"""Energies of the elements that bring a model's energies to those of other data; called by trainers that fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy
from ase import Atoms
from ase.data import chemical_symbols

from les_plugins.data.metrics import Floats

#: Frames that the energies of the elements are fitted to, beside those that tell further elements apart.
FITTED = 24
#: Of a composition's fractions what lies outside those of other frames, above which it is a direction of its own.
_OUTSIDE = 1e-6


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
    numbers, counts = _counts(frames)
    change = np.linalg.lstsq(counts, difference, rcond=None)[0]
    return {chemical_symbols[number]: float(value) for number, value in zip(numbers, change, strict=True)}


def fitted_change(
    frames: Sequence[Atoms], energies: Sequence[float], predicted: Callable[[Atoms], float]
) -> dict[str, float]:
    """`change_of_elements` of the frames that `representative` chooses: every element of the frames has a change.

    Args:
        frames: structures, at least one.
        energies: labels, eV.
        predicted: the model's energy, eV.
    """
    chosen = representative(frames, FITTED)
    difference = np.array([energies[index] - predicted(frames[index]) for index in chosen])
    return change_of_elements([frames[index] for index in chosen], difference)


def representative(frames: Sequence[Atoms], most: int) -> list[int]:
    """Indices of frames evenly from first to last, and of those that tell elements apart which these do not.

    Args:
        frames: structures, at least one.
        most: how many to take evenly. At most as many more as there are elements are added, until the compositions of
            the chosen frames span those of all.
    """
    chosen = list(range(0, len(frames), max(1, -(-len(frames) // most))))
    _, counts = _counts(frames)
    fractions = counts / counts.sum(axis=1, keepdims=True)
    while True:
        spanned = scipy.linalg.orth(fractions[chosen].T, rcond=_OUTSIDE)  # (elements, rank)
        outside = np.linalg.norm(fractions - fractions @ spanned @ spanned.T, axis=1)
        farthest = int(np.argmax(outside))
        if outside[farthest] < _OUTSIDE:
            return sorted(chosen)
        chosen.append(farthest)


def _counts(frames: Sequence[Atoms]) -> tuple[list[int], Floats]:
    """Atomic numbers of all frames, and how many atoms of each a frame has, (frames, elements)."""
    counts = np.array([np.bincount(atoms.numbers, minlength=len(chemical_symbols)) for atoms in frames])
    numbers = np.flatnonzero(counts.any(axis=0))
    return [int(number) for number in numbers], counts[:, numbers].astype(float)
