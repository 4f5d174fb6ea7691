"""Energies of the elements that bring a model's energies to those of other data."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from les_plugins.data.zero_of_energy import FITTED, change_of_elements, fitted_change, representative

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


@pytest.mark.parametrize("step", [2, 3, 5])
def test_every_element_of_the_frames_is_fitted_wherever_its_frames_stand(step: int) -> None:
    other = Atoms("CH3Cl", np.eye(5, 3))
    zeros = {"H": -12.0, "O": -6.0, "C": -150.0, "Cl": -400.0}
    frames = [(other if index % step == 1 else WATER).copy() for index in range(48)]
    energies = [sum(zeros[symbol] for symbol in atoms.symbols) for atoms in frames]
    change = fitted_change(frames, energies, lambda atoms: 0.0)
    assert set(change) == set(zeros)
    for composition in ("H2O", "CH3Cl"):  # two compositions determine two sums of four energies
        symbols = list(Atoms(composition).symbols)
        assert sum(change[symbol] for symbol in symbols) == pytest.approx(sum(zeros[symbol] for symbol in symbols))


def test_frames_are_added_until_the_compositions_span_those_of_all() -> None:
    formulas = ["H2O"] * 200
    formulas[1], formulas[3], formulas[7] = "H2", "O2", "H2O2"  # the third is a sum of any two others
    frames = [Atoms(formula) for formula in formulas]
    chosen = representative(frames, 10)
    assert chosen[0] == 0
    assert len(chosen) == 11
    counts = [[list(frames[index].symbols).count(symbol) for symbol in "HO"] for index in chosen]
    assert np.linalg.matrix_rank(np.array(counts)) == 2
