"""Conductivity and diffusion where ions drift: the drift is found, taken off, and read by Ohm's law."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.signal import lfilter

from les_plugins.errors import ConfigError, LesPluginsWarning
from les_plugins.spectra import Welch, conductivity_spectrum, diffusion, green_kubo, infrared, ohmic_conductivity
from les_plugins.spectra.steady import drifts, grows
from les_plugins.units import BOLTZMANN, SIEMENS_PER_METRE

KELVIN, VOLUME, TIME = 300.0, 1000.0, 10.0
#: S/m, of three components of variance 1 that forget in 10 fs, by the trapezoid rule with frames 1 fs apart.
MEMORY = np.exp(-1.0 / TIME)
TRUTH = SIEMENS_PER_METRE * (0.5 + MEMORY / (1.0 - MEMORY)) / (VOLUME * BOLTZMANN * KELVIN)
DRIFT = np.array([0.0, 0.0, 0.7])


def conductor(length: int, seed: int) -> np.ndarray:
    """An Ornstein–Uhlenbeck current of unit variance, from its stationary state."""
    random = np.random.default_rng(seed)
    kicks = np.sqrt(1.0 - MEMORY**2) * random.standard_normal((length, 3))
    kicks[0] = random.standard_normal(3)
    return lfilter([1.0], [1.0, -MEMORY], kicks, axis=0)


def test_green_kubo_of_ions_that_drift_is_that_of_their_fluctuations() -> None:
    found = []
    for seed in range(200):
        currents = [conductor(1000, seed) + DRIFT]
        both = [green_kubo(currents, 1.0, KELVIN, VOLUME, 60.0, drift=drift) for drift in (True, False)]
        found.append([each[name] for each in both for name in ("conductivity", "displacement_conductivity")])
    mean, scatter = np.mean(found, axis=0) / TRUTH, np.std(found, axis=0) / TRUTH / np.sqrt(200)
    # of the integral to 30 to 60 fs 98.5 % are there; four standard errors of 200 runs are some 8 %
    np.testing.assert_allclose(mean[:2], 1.0, atol=4.0 * scatter[:2].max() + 0.015)
    # as of no drift: its square times 45 fs, the mean of 30 to 60
    excess = SIEMENS_PER_METRE / 3.0 * (DRIFT @ DRIFT) * 45.0 / (VOLUME * BOLTZMANN * KELVIN) / TRUTH
    np.testing.assert_allclose(mean[2:], 1.0 + excess, atol=4.0 * scatter[2:].max() + 0.015)
    assert excess > 0.7


def test_a_drift_is_found_warned_of_and_taken_off() -> None:
    still = [conductor(4000, 0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = green_kubo(still, 1.0, KELVIN, VOLUME, 60.0)
    moving = [still[0] + 2.0 * DRIFT]
    with pytest.warns(LesPluginsWarning, match="the current has a mean beyond its scatter"):
        found = green_kubo(moving, 1.0, KELVIN, VOLUME, 60.0)
    # the scatter of the mean of 4000 frames, whose share 2t/T is put back on average
    assert found["conductivity"] == pytest.approx(plain["conductivity"], rel=0.05)
    assert found["displacement_conductivity"] == pytest.approx(plain["displacement_conductivity"], rel=0.05)
    with pytest.warns(LesPluginsWarning, match="taken off"):
        spectrum = conductivity_spectrum(moving, 1.0, KELVIN, VOLUME, Welch(resolution=60.0))
    expected = conductivity_spectrum(still, 1.0, KELVIN, VOLUME, Welch(resolution=60.0))
    np.testing.assert_allclose(spectrum.value[3:], expected.value[3:], rtol=1e-3)  # beyond the window's reach
    np.testing.assert_allclose(spectrum.value[:3], expected.value[:3], rtol=0.25)  # as it is: 30 times as large
    with pytest.warns(LesPluginsWarning, match="taken off"):
        infrared(moving, 1.0, KELVIN, None, Welch(resolution=60.0))


def test_equilibrium_is_no_drift() -> None:
    """Five standard errors of 20 blocks: 1 run in 4000; runs of only 40 correlation times are 1 in 100."""
    assert sum(drifts(conductor(1000, seed)) for seed in range(500)) <= 3
    bounded = np.diff(conductor(2001, 1), axis=0)  # dM/dt of a dipole that levels off
    assert not drifts(bounded)
    wave = np.cos(0.02 * np.arange(3000.0))[:, None] * np.ones(3)
    assert not drifts(wave)
    assert not drifts(np.ones((39, 3)))
    assert drifts(np.ones((40, 3)))


def test_a_dipole_that_levels_off_does_not_grow_and_one_of_ions_does() -> None:
    for seed in range(50):
        dipole = np.cumsum(conductor(2000, seed), axis=0)
        assert not grows(dipole)  # a walk has no direction
        assert not grows(conductor(2000, seed))
        assert grows(dipole + 2.0 * np.arange(2000.0)[:, None] * DRIFT)
    assert not grows(5.0 * (1.0 - np.exp(-np.arange(2000.0) / 200.0))[:, None] + conductor(2000, 0))  # takes its time


def test_ohms_law_is_current_over_field() -> None:
    field, noise = np.array([0.0, 0.03, 0.04]), np.random.default_rng(0).standard_normal((2000, 3))
    sigma = 3.0e-6  # e²/(Å eV fs)
    currents = [sigma * volume * field + 1e-4 * noise[::step] for volume, step in ((900.0, 1), (1100.0, 2))]
    value, error = ohmic_conductivity(currents, field, [900.0, 1100.0])
    assert abs(value - SIEMENS_PER_METRE * sigma) < 4.0 * error
    assert error < 0.05 * value
    assert ohmic_conductivity([sigma * 900.0 * field[None]], field, 900.0)[0] == pytest.approx(
        SIEMENS_PER_METRE * sigma
    )
    with pytest.raises(ConfigError, match="the field is"):
        ohmic_conductivity(currents, np.zeros(3), 900.0)


def test_ions_that_drift_diffuse_as_they_did_without() -> None:
    ions, masses = np.arange(12) < 4, np.ones(12)
    apart = np.where(ions, 1.0, -0.5)[:, None] * np.array([0.0, 0.0, 0.1])
    rows = []
    for seed in range(20):
        walk = np.cumsum(0.1 * np.random.default_rng(seed).standard_normal((1000, 12, 3)), axis=0)
        moving = walk + np.arange(1000.0)[:, None, None] * apart
        plain, found, wrong = (
            diffusion([positions], masses, ions, 10.0, 0.6, 0.2, 3, drift=drift)
            for positions, drift in ((walk, False), (moving, True), (moving, False))
        )
        rows.append([plain.coefficient, found.coefficient, found.time_averaged, wrong.coefficient])
    mean = np.mean(rows, axis=0)
    assert mean[1] == pytest.approx(mean[0], rel=0.03)  # the scatter of the mean velocity, of 20 runs
    assert mean[2] == pytest.approx(mean[0], rel=0.03)
    assert mean[3] > 20.0 * mean[0]
    with pytest.warns(LesPluginsWarning, match="the velocity of the atoms followed has a mean beyond its scatter"):
        found = diffusion([moving], masses, ions, 10.0, 0.6, 0.2, 3)
    assert found.coefficient == rows[-1][1]
