"""The calculator on ranks, here one: it gives the results of the total charge that a structure has now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_domains import EPSILON, SECTIONS, SUSCEPTIBILITY, TinyDomain, Whole, water

from les_plugins.engines.ranks.calculator import RankCalculator
from les_plugins.engines.ranks.meeting import Meeting
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsWarning
from les_plugins.model.physical import born_results

COUNT = 8


@pytest.fixture
def make(meeting: Meeting) -> Callable[[str], RankCalculator]:
    # ⟨χ⟩ of a model with a given charge is among its weights, zero before any training
    return lambda name: RankCalculator.of(
        TinyDomain(SECTIONS[name]), meeting, EPSILON, 0.0 if name == "given" else SUSCEPTIBILITY
    )


def energy(charge: float) -> float:
    return Whole(TinyDomain(SECTIONS["given"]), water(COUNT), charge).energy


def test_the_energy_is_that_of_the_present_charge(make: Callable[[str], RankCalculator]) -> None:
    atoms, calculator = water(COUNT), make("given")
    atoms.calc = calculator
    charge: Any
    for charge in (0, np.int64(1), -1, np.array(0.5)):
        atoms.info["charge"] = charge
        assert atoms.get_potential_energy() == pytest.approx(energy(float(charge)), rel=1e-12)
        assert calculator.get_property("charges", atoms).sum() == pytest.approx(float(charge), abs=1e-12)
    charge += 1.5
    assert atoms.get_potential_energy() == pytest.approx(energy(2.0), rel=1e-12)
    del atoms.info["charge"]
    calculator.total_charge = 1.0
    assert atoms.get_potential_energy() == pytest.approx(energy(1.0), rel=1e-12)
    atoms.info["charge"] = -1
    assert atoms.get_potential_energy() == pytest.approx(energy(-1.0), rel=1e-12)
    atoms.info["charge"] = "plus"
    with pytest.raises(DataError, match="is 'plus'"):
        atoms.get_potential_energy()


def test_the_current_is_that_of_the_present_charge(make: Callable[[str], RankCalculator]) -> None:
    atoms, calculator = water(COUNT), make("given")
    velocities = atoms.get_velocities()
    for charge in (1.0, -1.0):
        atoms.info["charge"] = charge
        born = born_results(Whole(TinyDomain(SECTIONS["given"]), atoms, charge).structure)
        expected = np.einsum("nab,nb->a", born, velocities)
        np.testing.assert_allclose(calculator.current(velocities, atoms), expected, atol=1e-12)


def test_a_charge_that_is_not_read_is_warned_of_and_a_spin_refused(
    make: Callable[[str], RankCalculator],
) -> None:
    atoms, calculator = water(COUNT), make("pairs")
    atoms.info["charge"] = -1
    with pytest.warns(LesPluginsWarning, match=r"info\['charge'\] = -1 e, which this model does not read"):
        calculator.get_property("energy", atoms)
    atoms.info["spin"] = 3
    with pytest.raises(DataError, match=r"info\['spin'\] = 3, a spin, which this model does not read"):
        calculator.get_property("energy", atoms)
    with pytest.raises(HostError, match="does not read total charges"):
        calculator.total_charge = 1.0


def test_another_epsilon_infinity_scales_the_charges_or_is_an_error(make: Callable[[str], RankCalculator]) -> None:
    atoms, calculator = water(COUNT), make("pairs")
    before = calculator.get_property("charges", atoms).copy()
    calculator.epsilon_infinity = 4.0 * EPSILON
    np.testing.assert_allclose(calculator.get_property("charges", atoms), 2.0 * before, rtol=1e-12)
    with pytest.raises(ConfigError, match=r"epsilon_infinity is 4; allowed: 1\.8"):
        make("given").epsilon_infinity = 4.0
