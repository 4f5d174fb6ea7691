"""NequIP and Allegro in a field and in molecular dynamics: one evaluation a step, forces that belong to the energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

from field_laws import check_conserved_energy, check_long_waves, check_one_evaluation, check_periodic_forces
from nequip_models import tiny_long_range, waters
from transfer_laws import CHARGED, check_born_charges_of_transfers, check_current, check_work_of_a_field

from les_plugins.adapters.nequip.calculator import LesNequIPCalculator

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}


@pytest.fixture(scope="module", params=["nequip", "allegro"])
def calculator(request: pytest.FixtureRequest) -> LesNequIPCalculator:
    return LesNequIPCalculator(tiny_long_range(request.param, FULL))


def test_periodic_forces_in_a_field_are_those_without_plus_born_charges_times_field(
    calculator: LesNequIPCalculator,
) -> None:
    check_periodic_forces(calculator, waters())


def test_long_waves_turn_with_the_crystal(calculator: LesNequIPCalculator) -> None:
    check_long_waves(calculator, waters())


def test_field_and_born_charges_need_no_evaluation_of_their_own(calculator: LesNequIPCalculator) -> None:
    check_one_evaluation(calculator, calculator.model, waters())


@pytest.mark.parametrize("pbc", [False, True], ids=["open", "periodic"])
def test_the_work_of_a_pulse_is_what_the_energy_gains(
    calculator: LesNequIPCalculator, tmp_path: Path, pbc: bool
) -> None:
    check_conserved_energy(calculator, waters(pbc=pbc), tmp_path)


@pytest.mark.parametrize("architecture", ["nequip", "allegro"])
@pytest.mark.parametrize("pbc", [True, [True, True, False], False], ids=["periodic", "slab", "open"])
def test_conserved_charges_have_a_polarization_without_phases(pbc: Any, architecture: str) -> None:
    calculator = LesNequIPCalculator(tiny_long_range(architecture, CHARGED))
    atoms = waters(2, seed=3)
    atoms.pbc = pbc
    check_born_charges_of_transfers(calculator, atoms, pbc is True)
    check_current(calculator, atoms)
    if pbc is True:
        check_work_of_a_field(calculator, atoms)
