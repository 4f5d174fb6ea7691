"""Raman spectra against closed forms (theory, section 11.3)."""

from __future__ import annotations

import numpy as np
import pytest

from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra import Welch, check_anisotropic, raman
from les_plugins.units import SPEED_OF_LIGHT

INTERVAL, HOW = 2.0, Welch(resolution=10.0)
TIMES = INTERVAL * np.arange(20_000)
TRACELESS = np.array([[1.0, 0.4, 0.0], [0.4, -0.3, 0.2], [0.0, 0.2, -0.7]])


def vibrating(tensor: np.ndarray, wavenumber: float) -> np.ndarray:
    wave = np.cos(2.0 * np.pi * SPEED_OF_LIGHT * wavenumber * TIMES + 0.4)
    return 5.0 * np.eye(3) + wave[:, None, None] * tensor


def test_an_isotropic_scatterer_keeps_the_polarization() -> None:
    found = raman([vibrating(0.2 * np.eye(3), 1000.0)], INTERVAL, HOW)
    assert found.isotropic.peak == pytest.approx(1000.0, abs=2.0)
    assert found.depolarization_ratio(900.0, 1100.0)[0] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found.parallel.value, found.isotropic.value, rtol=1e-10, atol=1e-20)


def test_a_scatterer_without_trace_has_the_depolarization_ratio_three_quarters() -> None:
    found = raman([vibrating(TRACELESS, 1000.0)], INTERVAL, HOW)
    assert found.depolarization_ratio(900.0, 1100.0)[0] == pytest.approx(0.75, rel=1e-6)
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


def test_a_photon_carries_the_energy_of_the_light_that_is_scattered() -> None:
    """Power is the number of photons times their energy: relative to that of the laser, 1 − ν/ν0."""
    alphas = [vibrating(np.eye(3), 3400.0)]
    power, counts = (raman(alphas, INTERVAL, HOW, None, 532.0, photons=photons).isotropic for photons in (False, True))
    energy = 1.0 - power.wavenumber * 532e-7
    np.testing.assert_allclose(power.value, counts.value * energy, rtol=1e-12)
    at = int(np.argmax(power.value))
    assert counts.value[at] / power.value[at] == pytest.approx(1.22, abs=0.005)  # the O–H stretch in green light
    with pytest.raises(ConfigError, match="photons are counted of light that a laser scatters"):
        raman(alphas, INTERVAL, HOW, photons=True)


def test_the_susceptibility_lacks_the_bose_factor_and_that_of_the_laser() -> None:
    alphas = [vibrating(np.eye(3), 300.0)]
    plain, full, found = (
        raman(alphas, INTERVAL, HOW, *given).isotropic for given in ((), (300.0, 532.0), (300.0, None, True))
    )
    at = int(np.argmax(plain.value))
    wavenumber = plain.wavenumber[at]
    x = 1.438776877 * wavenumber / 300.0
    shape = (1.0 - wavenumber * 532e-7) ** 4 / (1.0 - np.exp(-x))
    assert full.value[at] == pytest.approx(found.value[at] * shape, rel=1e-6)
    assert found.value[at] == pytest.approx(plain.value[at] / x, rel=1e-6)
    assert found.name == "Raman χ'', isotropic"
    # Brooker's R(ν) = ν (1 − e^−x) I/(ν0 − ν)⁴ has one more ν: the spectrum without a factor
    reduced = full.value * full.wavenumber * -np.expm1(-1.438776877 * full.wavenumber / 300.0)
    reduced /= (1.0 - full.wavenumber * 532e-7) ** 4
    np.testing.assert_allclose(reduced / reduced[at], plain.value / plain.value[at], rtol=1e-5, atol=1e-12)
    for wrong in ((None, None, True), (300.0, 532.0, True)):
        with pytest.raises(ConfigError, match="a susceptibility needs a temperature"):
            raman(alphas, INTERVAL, HOW, *wrong)


def test_any_tensor_scatters_by_its_mean_and_its_anisotropy() -> None:
    change = np.array([[0.5, 0.1, -0.2], [0.1, 0.2, 0.3], [-0.2, 0.3, -0.1]])
    wavenumber = 1500.0
    found = raman([vibrating(change, wavenumber)], INTERVAL, HOW)
    mean = np.trace(change) / 3.0
    xx, yy, zz = np.diag(change)
    off = change[0, 1] ** 2 + change[1, 2] ** 2 + change[0, 2] ** 2
    anisotropy = 0.5 * ((xx - yy) ** 2 + (yy - zz) ** 2 + (zz - xx) ** 2) + 3.0 * off  # γ²
    strength = 0.5 * (2.0 * np.pi * SPEED_OF_LIGHT * wavenumber) ** 2  # of a line of unit amplitude
    expected = {
        "isotropic": mean**2,
        "anisotropic": anisotropy,
        "parallel": mean**2 + 4.0 / 45.0 * anisotropy,
        "perpendicular": 3.0 / 45.0 * anisotropy,
    }
    for name, size in expected.items():
        spectrum = getattr(found, name)
        area = np.trapezoid(spectrum.value, SPEED_OF_LIGHT * spectrum.wavenumber)
        assert area == pytest.approx(strength * size, rel=1e-3)  # leakage of the window
    ratio = 3.0 * anisotropy / (45.0 * mean**2 + 4.0 * anisotropy)
    value, error = found.depolarization_ratio(1400.0, 1600.0)
    assert value == pytest.approx(ratio, rel=1e-6)
    assert error == pytest.approx(0.0, abs=1e-9)  # every block has the same quotient
    at = int(np.argmax(found.parallel.value))
    assert found.depolarization.value[at] == pytest.approx(ratio, rel=1e-6)


def diatomic(axis: np.ndarray, along: np.ndarray, across: np.ndarray) -> np.ndarray:
    projector = axis[:, :, None] * axis[:, None, :]
    return across[:, None, None] * np.eye(3) + (along - across)[:, None, None] * projector


def test_a_rigid_rotor_scatters_at_twice_its_frequency_and_depolarizes_by_three_quarters() -> None:
    angle = 2.0 * np.pi * SPEED_OF_LIGHT * 80.0 * TIMES
    axis = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], 1)
    found = raman([diatomic(axis, np.full(len(axis), 0.9), np.full(len(axis), 0.4))], INTERVAL, HOW)
    assert found.anisotropic.peak == pytest.approx(160.0, abs=1.0)
    value, _ = found.depolarization_ratio(100.0, 220.0)
    assert value == pytest.approx(0.75, rel=1e-9)
    assert found.isotropic.value.max() < 1e-12 * found.anisotropic.value.max()


def test_a_vibrating_diatomic_has_the_ratio_of_its_derivatives() -> None:
    axis = np.tile([0.6, 0.0, 0.8], (len(TIMES), 1))
    wave = np.cos(2.0 * np.pi * SPEED_OF_LIGHT * 1200.0 * TIMES)
    along, across = 0.3, 0.1
    found = raman([diatomic(axis, 1.0 + along * wave, 0.7 + across * wave)], INTERVAL, HOW)
    mean, anisotropy = (along + 2.0 * across) / 3.0, along - across
    ratio = 3.0 * anisotropy**2 / (45.0 * mean**2 + 4.0 * anisotropy**2)
    assert found.depolarization_ratio(1100.0, 1300.0)[0] == pytest.approx(ratio, rel=1e-6)


def test_the_error_of_the_ratio_is_its_scatter_over_independent_trajectories() -> None:
    found = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        tensors = random.standard_normal((4000, 3, 3))
        spectra = raman([tensors + tensors.transpose(0, 2, 1)], INTERVAL, Welch(resolution=40.0))
        found.append(spectra.depolarization_ratio(0.0, 900.0))
    values, errors = np.array(found, dtype=float).T
    # of 60 draws a standard deviation is known to 9 %; Student's t of nine blocks adds 7 %
    assert values.std() == pytest.approx(errors.mean(), rel=0.3)


def test_one_block_has_a_ratio_without_an_error() -> None:
    found = raman([vibrating(TRACELESS, 1000.0)], INTERVAL, Welch(resolution=10.0, blocks=1))
    assert found.depolarization_ratio(900.0, 1100.0)[1] is None
    assert np.isnan(raman([vibrating(0.0 * TRACELESS, 9.0)], INTERVAL, HOW).depolarization_ratio(0.0, 100.0)[0])


def test_an_anisotropy_that_never_changes_is_no_anisotropic_spectrum() -> None:
    breathing = 2.0 + np.random.default_rng(0).standard_normal((500, 1, 1))
    check_anisotropic([breathing * np.diag([1.0, 2.0, 3.0])])
    with pytest.raises(DataError, match="changes in all directions alike"):
        check_anisotropic([np.diag([1.0, 2.0, 3.0]) + breathing * np.eye(3)])
