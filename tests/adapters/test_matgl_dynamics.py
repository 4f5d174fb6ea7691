"""MatGL in a field and in molecular dynamics: one evaluation a step, forces that belong to the energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

from field_laws import FIELD, check_conserved_energy, check_long_waves, check_one_evaluation, check_periodic_forces
from matgl_models import ARCHITECTURES, tiny_long_range, waters
from transfer_laws import CONSERVED, check_born_charges_of_transfers, check_current, check_work_of_a_field

from les_plugins.adapters.matgl.calculator import LesMatGLCalculator


@pytest.fixture(scope="module", params=ARCHITECTURES)
def calculator(request: pytest.FixtureRequest) -> LesMatGLCalculator:
    return LesMatGLCalculator(tiny_long_range(request.param))


def test_periodic_forces_in_a_field_are_those_without_plus_born_charges_times_field(
    calculator: LesMatGLCalculator,
) -> None:
    check_periodic_forces(calculator, waters())


def test_long_waves_turn_with_the_crystal(calculator: LesMatGLCalculator) -> None:
    check_long_waves(calculator, waters())


def test_field_and_born_charges_need_no_evaluation_of_their_own(calculator: LesMatGLCalculator) -> None:
    check_one_evaluation(calculator, calculator.potential.model, waters())


@pytest.mark.parametrize("pbc", [False, True], ids=["open", "periodic"])
def test_the_work_of_a_pulse_is_what_the_energy_gains(
    calculator: LesMatGLCalculator, tmp_path: Path, pbc: bool
) -> None:
    check_conserved_energy(calculator, waters(pbc=pbc), tmp_path)


def test_a_periodic_structure_without_pairs_has_a_field_on_its_fixed_charges(calculator: LesMatGLCalculator) -> None:
    """Its graph does not reach the positions but through the sum: nothing but q E is left, and no stress."""
    far = waters(1)
    far.set_cell([60.0, 60.0, 60.0])
    far.positions *= 10.0
    born = calculator.get_property("born_effective_charges", far)
    without = calculator.get_property("forces", far).copy()
    calculator.external_field = FIELD
    try:
        added = calculator.get_property("forces", far) - without
    finally:
        calculator.external_field = None
    np.testing.assert_allclose(added, np.einsum("a,nab->nb", FIELD, born), rtol=1e-9, atol=1e-12)  # rounding
    assert np.abs(added).max() > 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pbc", [True, False], ids=["periodic", "open"])
def test_conserved_charges_have_a_polarization_without_phases(pbc: Any, architecture: str) -> None:
    calculator = LesMatGLCalculator(tiny_long_range(architecture, CONSERVED))
    atoms = waters(2, seed=3)
    atoms.pbc = pbc
    check_born_charges_of_transfers(calculator, atoms, pbc is True)
    check_current(calculator, atoms)
    if pbc is True:
        check_work_of_a_field(calculator, atoms)
