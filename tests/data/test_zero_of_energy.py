"""Energies of the elements that bring a model's energies to those of other data."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from les_plugins.data.zero_of_energy import FITTED, change_of_elements, fitted_change

WATER, HYDROGEN = Atoms("H2O", np.eye(3)), Atoms("H2", np.eye(3)[:2])


def test_compositions_that_differ_tell_the_elements_apart() -> None:
    difference = np.array([2 * 0.5 - 3.0, 2 * 0.5])
    assert change_of_elements([WATER, HYDROGEN], difference) == pytest.approx({"H": 0.5, "O": -3.0})


def test_of_one_composition_the_smallest_changes_are_taken() -> None:
    change = change_of_elements([WATER, WATER], np.array([4.0, 6.0]))
    # 2 H + O = 5, the mean, with H and O in the ratio of their counts
    assert change == pytest.approx({"H": 2.0, "O": 1.0})


def test_a_fit_looks_at_frames_from_all_over_the_set() -> None:
    asked: list[Atoms] = []
    frames = [WATER.copy() for _ in range(10 * FITTED)]

    def predicted(atoms: Atoms) -> float:
        asked.append(atoms)
        return 1.0

    change = fitted_change(frames, [6.0] * len(frames), predicted)
    assert change == pytest.approx({"H": 2.0, "O": 1.0})
    assert len(asked) == FITTED
    assert asked[0] is frames[0]
    assert asked[-1] is frames[10 * (FITTED - 1)]
