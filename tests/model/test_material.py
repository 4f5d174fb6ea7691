"""ε_e is one number of a material: ⟨χ⟩ of the checkpoint, or of the first periodic structure, kept (theory 8.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_external_field import EPSILON, OPEN, PERIODIC, TRICLINIC, positions, result

from les_plugins.errors import ConfigError
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.units import VACUUM_PERMITTIVITY


class Bare(LongRangeCalculator):
    """A calculator without a host."""

    implemented_properties: list[str] = []  # noqa: RUF012 (as ASE has it)
    has_long_range = True

    def __init__(self, **metadata: Any) -> None:
        self.metadata, self.results, self.resets = metadata, {"energy": 0.0}, 0
        self.epsilon_infinity = EPSILON

    def reset(self) -> None:
        self.resets += 1
        self.results = {"energy": 0.0}

    def of(self, factor: float, pbc: torch.Tensor = PERIODIC) -> dict[str, Any]:
        """Results of the same atoms in a cell `factor` times as large."""
        place, cell = positions(), factor * TRICLINIC
        self.add_latent(result(place, pbc), place, cell, pbc)
        return self.results


def chi(factor: float) -> float:
    total = float(result(positions(), PERIODIC).polarizability.sum())  # type: ignore[union-attr]
    return total / (VACUUM_PERMITTIVITY * factor**3 * float(torch.linalg.det(TRICLINIC[0]).abs()))


def screening(found: dict[str, Any]) -> float:
    neutral = found["latent_charges"] - found["latent_charges"].mean()
    return float((found["charges"] / neutral)[0] ** 2)


def test_the_first_periodic_structure_gives_the_susceptibility_of_all() -> None:
    calculator = Bare()
    assert calculator.of(1.0, OPEN)["dipole"].shape == (3,)
    assert calculator.reference_susceptibility is None
    first, later = dict(calculator.of(1.0).everything()), calculator.of(1.3)
    assert first["susceptibility"] == pytest.approx(chi(1.0), rel=1e-12)
    assert later["susceptibility"] == pytest.approx(chi(1.3), rel=1e-12)
    assert calculator.reference_susceptibility == pytest.approx(chi(1.0), rel=1e-12)
    for found in (first, later):
        assert screening(found) == pytest.approx(EPSILON / (1.0 + chi(1.0)), rel=1e-12)
    # the mean of ε_∞ is the number given at ⟨χ⟩ and fluctuates about it
    for found, factor in ((first, 1.0), (later, 1.3)):
        expected = EPSILON * (1.0 + chi(factor)) / (1.0 + chi(1.0))
        assert np.trace(found["dielectric_tensor"]) / 3.0 == pytest.approx(expected, rel=1e-12)


def test_a_checkpoint_that_knows_it_comes_before_what_is_seen() -> None:
    calculator = Bare(susceptibility=0.25)
    assert screening(calculator.of(1.0)) == pytest.approx(EPSILON / 1.25, rel=1e-12)
    calculator.reference_susceptibility = 0.5
    assert screening(calculator.of(1.0)) == pytest.approx(EPSILON / 1.5, rel=1e-12)
    calculator.reference_susceptibility = None
    assert calculator.reference_susceptibility == 0.25
    assert Bare(susceptibility=None).reference_susceptibility is None


def test_setting_what_scales_results_clears_them() -> None:
    calculator = Bare()
    for name, value in (("epsilon_infinity", 3.0), ("reference_susceptibility", 0.1), ("external_field", None)):
        before = calculator.resets
        setattr(calculator, name, value)
        assert calculator.resets == before + 1, name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["epsilon_infinity", "reference_susceptibility"])
def test_values_that_no_material_has_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        setattr(Bare(), name, value)


@pytest.mark.parametrize("value", ["water", None, [1.0, 2.0], 1j, float("nan"), 0.5])
def test_epsilon_infinity_that_is_no_number_of_at_least_one_is_an_error_that_names_it(value: Any) -> None:
    calculator = Bare()
    with pytest.raises(ConfigError, match="epsilon_infinity is"):
        calculator.epsilon_infinity = value
    assert calculator.epsilon_infinity == EPSILON


@pytest.mark.parametrize("value", ["x", [0.1], float("inf"), -1.0])
def test_reference_susceptibility_that_is_no_number_is_an_error_that_names_it(value: Any) -> None:
    calculator = Bare()
    with pytest.raises(ConfigError, match="reference_susceptibility is"):
        calculator.reference_susceptibility = value


@pytest.mark.parametrize("value", ["x", 0.1, [1, [2], 3], [1j, 0, 0], [0, 0, float("nan")]])
def test_a_field_that_is_not_three_numbers_is_an_error_that_names_it(value: Any) -> None:
    calculator = Bare()
    with pytest.raises(ConfigError, match="external_field is"):
        calculator.external_field = value
