"""SevenNet in a field and in molecular dynamics: one evaluation a step, forces that belong to the energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

from field_laws import check_conserved_energy, check_long_waves, check_one_evaluation, check_periodic_forces
from transfer_laws import CONSERVED, check_born_charges_of_transfers, check_current, check_work_of_a_field

from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
from les_plugins.adapters.sevennet.contract import SevenNetContract
from les_plugins.testing import waters


@pytest.fixture(scope="module")
def calculator() -> LesSevenNetCalculator:
    return LesSevenNetCalculator(SevenNetContract().attached())


def test_periodic_forces_in_a_field_are_those_without_plus_born_charges_times_field(
    calculator: LesSevenNetCalculator,
) -> None:
    check_periodic_forces(calculator, waters())


def test_long_waves_turn_with_the_crystal(calculator: LesSevenNetCalculator) -> None:
    check_long_waves(calculator, waters())


def test_field_and_born_charges_need_no_evaluation_of_their_own(calculator: LesSevenNetCalculator) -> None:
    check_one_evaluation(calculator, calculator.model, waters())


@pytest.mark.parametrize("pbc", [False, True], ids=["open", "periodic"])
def test_the_work_of_a_pulse_is_what_the_energy_gains(
    calculator: LesSevenNetCalculator, tmp_path: Path, pbc: bool
) -> None:
    check_conserved_energy(calculator, waters(pbc=pbc), tmp_path)


def test_born_charges_follow_from_edge_vectors_and_positions_alike(calculator: LesSevenNetCalculator) -> None:
    """SevenNet's graph starts from edge vectors: without the positions behind them charge flow would be lost."""
    atoms, step = waters(2, pbc=False), 1e-4
    born = calculator.get_property("born_effective_charges", atoms)
    moments = []
    for shift in (-step, step):
        moved = atoms.copy()
        moved.positions[1, 0] += shift
        charges = calculator.get_property("charges", moved)
        moments.append((charges - charges.mean()) @ moved.positions + calculator.results["latent_dipoles"].sum(0))
    # step² times the third derivative of the dipole
    np.testing.assert_allclose(born[1, :, 0], (moments[1] - moments[0]) / (2 * step), atol=1e-6 * np.abs(born).max())
    charges = calculator.get_property("charges", atoms)
    assert np.abs(born[1, :, 0] - (charges[1] - charges.mean()) * np.eye(3)[0]).max() > 1e-3  # there is such a flow


@pytest.mark.parametrize("pbc", [True, [True, True, False], False], ids=["periodic", "slab", "open"])
def test_conserved_charges_have_a_polarization_without_phases(pbc: Any) -> None:
    calculator = LesSevenNetCalculator(SevenNetContract().attached(CONSERVED))
    atoms = waters(2, seed=3)
    atoms.pbc = pbc
    check_born_charges_of_transfers(calculator, atoms, pbc is True)
    check_current(calculator, atoms)
    if pbc is True:
        check_work_of_a_field(calculator, atoms)
