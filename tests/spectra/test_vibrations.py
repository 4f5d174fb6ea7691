"""Raman spectra and densities of states against closed forms (theory, section 11.3)."""

from __future__ import annotations

import numpy as np
import pytest

from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra import Welch, check_anisotropic, raman, velocity_spectrum
from les_plugins.units import BOLTZMANN, SPEED_OF_LIGHT

INTERVAL, HOW = 2.0, Welch(resolution=10.0)
TIMES = INTERVAL * np.arange(20_000)
TRACELESS = np.array([[1.0, 0.4, 0.0], [0.4, -0.3, 0.2], [0.0, 0.2, -0.7]])


def vibrating(tensor: np.ndarray, wavenumber: float) -> np.ndarray:
    wave = np.cos(2.0 * np.pi * SPEED_OF_LIGHT * wavenumber * TIMES + 0.4)
    return 5.0 * np.eye(3) + wave[:, None, None] * tensor


def test_an_isotropic_scatterer_keeps_the_polarization() -> None:
    found = raman([vibrating(0.2 * np.eye(3), 1000.0)], INTERVAL, HOW)
    assert found.isotropic.peak == pytest.approx(1000.0, abs=2.0)
    assert found.depolarization_ratio(900.0, 1100.0) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.parallel.value, found.isotropic.value, rtol=1e-10, atol=1e-20)


def test_a_scatterer_without_trace_has_the_depolarization_ratio_three_quarters() -> None:
    found = raman([vibrating(TRACELESS, 1000.0)], INTERVAL, HOW)
    assert found.depolarization_ratio(900.0, 1100.0) == pytest.approx(0.75, rel=1e-6)
    assert found.anisotropic.peak == pytest.approx(1000.0, abs=2.0)


def test_the_isotropic_line_has_the_strength_of_the_squared_rate_of_change() -> None:
    wavenumber, amplitude = 1500.0, 0.2
    found = raman([vibrating(amplitude * np.eye(3), wavenumber)], INTERVAL, HOW).isotropic
    rate = 2.0 * np.pi * SPEED_OF_LIGHT * wavenumber * amplitude
    assert np.trapezoid(found.value, SPEED_OF_LIGHT * found.wavenumber) == pytest.approx(0.5 * rate**2, rel=1e-3)


def test_bose_and_laser_factors_are_those_of_the_books() -> None:
    plain, bose, blue = (
        raman([vibrating(np.eye(3), 1000.0)], INTERVAL, HOW, temperature, laser).isotropic
        for temperature, laser in ((None, None), (300.0, None), (None, 500.0))
    )
    at = int(np.argmax(plain.value))
    wavenumber = plain.wavenumber[at]
    x = 1.438776877 * wavenumber / 300.0
    assert bose.value[at] / plain.value[at] == pytest.approx(1.0 / (x * (1.0 - np.exp(-x))), rel=1e-5)
    assert blue.value[at] / plain.value[at] == pytest.approx((1.0 - wavenumber / 20_000.0) ** 4, rel=1e-9)
    with pytest.raises(ConfigError, match="laser is -1"):
        raman([vibrating(np.eye(3), 1000.0)], INTERVAL, HOW, laser=-1.0)


def test_the_density_of_states_integrates_to_the_degrees_of_freedom() -> None:
    masses = np.array([16.0, 1.0, 1.0])
    random = np.random.default_rng(0)
    thermal = np.sqrt(BOLTZMANN * 300.0 / (masses * 103.642696))[:, None]
    velocities = thermal * random.standard_normal((10_000, 3, 3))
    found = velocity_spectrum([velocities], masses, INTERVAL, 300.0, HOW)
    assert np.trapezoid(found.value, found.wavenumber) == pytest.approx(9.0, rel=0.02)
    hydrogen = velocity_spectrum([velocities[:, 1:]], masses[1:], INTERVAL, 300.0, HOW)
    assert np.trapezoid(hydrogen.value, hydrogen.wavenumber) == pytest.approx(6.0, rel=0.02)


def test_an_anisotropy_that_never_changes_is_no_anisotropic_spectrum() -> None:
    breathing = 2.0 + np.random.default_rng(0).standard_normal((500, 1, 1))
    check_anisotropic([breathing * np.diag([1.0, 2.0, 3.0])])
    with pytest.raises(DataError, match="changes in all directions alike"):
        check_anisotropic([np.diag([1.0, 2.0, 3.0]) + breathing * np.eye(3)])
