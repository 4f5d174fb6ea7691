"""Several structures at once: by a calculator that has a batch of its host's, or one by one.

`les_plugins.engines.torch_sim` calls `evaluate_batch`; `LongRangeCalculator.evaluate_batch` is what adapters fill in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from les_plugins.data.evaluation import predict
from les_plugins.moved import renamed


class BatchResult(NamedTuple):
    """Energies, forces and stresses of B structures with N atoms in all.

    Attributes:
        energy: (B,) eV.
        forces: (N, 3) eV/Å, of the structures one after the other.
        stress: (B, 3, 3) eV/Å³, ASE's sign; NaN for a structure that has none, as open ones.
    """

    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


def evaluate_batch(calculator: Any, frames: Sequence[Atoms]) -> BatchResult:
    """Energies, forces and stresses of several structures, each with its own cell and boundary conditions.

    Args:
        calculator: of ASE; one with a method `evaluate_batch`, as ours, gets all structures at once.
        frames: structures; neither they nor their calculators are changed.
    """
    together = getattr(calculator, "evaluate_batch", None)
    result: BatchResult = together(frames) if together else evaluate_one_by_one(calculator, frames)
    return result


def evaluate_one_by_one(calculator: Any, frames: Sequence[Atoms]) -> BatchResult:
    """As `evaluate_batch`, one evaluation a structure, by any calculator of ASE with energy and forces.

    Raises:
        DataError: a result is not finite.
        LesPluginsError: what the calculator refuses, with the number of the structure.
    """
    energy, forces, stress = [], [], []
    for number, frame in enumerate(frames):
        atoms = frame.copy()  # without the calculator and the labels that it may hold
        wanted = ["energy", "forces", *(["stress"] if atoms.pbc.all() else [])]
        found = predict(calculator, atoms, wanted, f"structure {number}")
        energy.append(found["energy"])
        forces.append(found["forces"])
        stress.append(voigt_6_to_full_3x3_stress(found.get("stress", np.full(6, np.nan))))
    return BatchResult(np.array(energy), np.concatenate(forces), np.array(stress))


__getattr__ = renamed(__name__, {"evaluate": "evaluate_batch"})
