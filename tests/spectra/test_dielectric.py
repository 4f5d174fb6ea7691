"""The static dielectric constant and its error bar, on dipoles whose variance and relaxation time are known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.signal import lfilter

from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.spectra import dipole_from_current, static_dielectric_constant
from les_plugins.units import BOLTZMANN, SPEED_OF_LIGHT, VACUUM_PERMITTIVITY

KELVIN, VOLUME = 300.0, 1000.0
#: ε_0 − ε_∞ of a dipole with components of unit variance.
FLUCTUATION = 3.0 / (3.0 * VACUUM_PERMITTIVITY * VOLUME * BOLTZMANN * KELVIN)


def relaxing(frames: int, relaxation: float, seed: int, columns: int = 3) -> np.ndarray:
    """Ornstein–Uhlenbeck processes of unit variance from their stationary state, `relaxation` in frames."""
    random, memory = np.random.default_rng(seed), np.exp(-1.0 / relaxation)
    kicks = np.sqrt(1.0 - memory**2) * random.standard_normal((frames, columns))
    kicks[0] = random.standard_normal(columns)
    return lfilter([1.0], [1.0, -memory], kicks, axis=0)


def estimates(times: float, trajectories: int, repeats: int, frames: int = 300) -> np.ndarray:
    """(repeats, 2): fluctuation over the true one and error, for trajectories of so many relaxation times."""
    found = []
    for seed in range(repeats):
        columns = relaxing(frames, frames / times, seed, 3 * trajectories) + 5.0
        dipoles = np.split(columns, trajectories, axis=1)
        try:
            value, error = static_dielectric_constant(dipoles, KELVIN, VOLUME, 1.78)
        except DataError:  # it did not look like levelling off
            continue
        found.append(((value - 1.78) / FLUCTUATION, error / FLUCTUATION))
    return np.array(found)


@pytest.mark.parametrize(("times", "trajectories"), [(10.0, 3), (20.0, 1), (50.0, 1), (50.0, 3), (400.0, 1)])
def test_the_value_has_no_bias_and_the_bar_covers_it_in_two_of_three_cases(times: float, trajectories: int) -> None:
    found = estimates(times, trajectories, 120, frames=1200 if times > 100 else 300)
    assert len(found) > 110
    # the mean of 120 estimates is known to a tenth of their scatter
    scatter = found[:, 0].std() / np.sqrt(len(found))
    assert abs(found[:, 0].mean() - 1.0) < 3.5 * scatter
    covered = np.mean(np.abs(found[:, 0] - 1.0) < found[:, 1])
    assert 0.55 < covered < 0.82  # 0.683 ± 3 × 0.042


def test_the_variance_about_the_own_mean_alone_would_be_too_small() -> None:
    raw = np.mean([relaxing(300, 30.0, seed).var(0).sum() / 3.0 for seed in range(120)])
    assert raw == pytest.approx(1.0 - 0.2 * (1.0 - 0.1), abs=0.05)  # 1 − (2τ/T)(1 − τ/T), T = 10 τ
    found = estimates(10.0, 3, 60)
    assert found[:, 0].mean() == pytest.approx(1.0, abs=0.08)


def test_ions_that_move_slowly_among_fast_dipoles_are_seen() -> None:
    """A walk with three times the variance of the dipoles, which hides behind their fast rise."""
    refused = 0
    for seed in range(20):
        steps = 0.03 * np.random.default_rng(100 + seed).standard_normal((20_000, 3))
        try:
            static_dielectric_constant([relaxing(20_000, 20.0, seed) + np.cumsum(steps, axis=0)], KELVIN, VOLUME, 1.0)
        except DataError:
            refused += 1
    assert refused >= 15  # nine of ten are


def test_each_trajectory_is_scaled_by_its_own_volume_and_temperature() -> None:
    dipoles = [relaxing(4000, 40.0, seed) for seed in range(2)]
    value, _ = static_dielectric_constant([2.0 * dipoles[0], dipoles[1]], [600.0, 300.0], [2000.0, 1000.0], 1.0)
    alike, _ = static_dielectric_constant(dipoles, KELVIN, VOLUME, 1.0)
    assert value == pytest.approx(alike, rel=1e-9)


def test_a_dipole_that_does_not_level_off_has_no_dielectric_constant() -> None:
    steps = np.random.default_rng(0).standard_normal((4, 5000, 3))
    with pytest.raises(DataError, match="the dipole does not level off"):
        static_dielectric_constant(list(np.cumsum(steps, axis=1)), KELVIN, VOLUME, 1.78)
    # bound charges beside the mobile ones: it grows with the length of the trajectory
    steps = np.random.default_rng(2).standard_normal((4, 20_000, 3))
    mixed = [20.0 * relaxing(20_000, 50.0, seed) + walk for seed, walk in enumerate(np.cumsum(steps, axis=1))]
    with pytest.raises(DataError, match="Where ions move freely there is no static dielectric constant"):
        static_dielectric_constant(mixed, KELVIN, VOLUME, 1.78)


@pytest.mark.parametrize("frames", [40, 41, 43, 167])
def test_short_trajectories_of_any_length_have_a_value(frames: int) -> None:
    value, error = static_dielectric_constant([relaxing(frames, 0.5, 3)], KELVIN, VOLUME, 1.78)
    assert abs(value - 1.78 - FLUCTUATION) < 5.0 * error


def test_without_fluctuations_the_electronic_constant_is_left() -> None:
    assert static_dielectric_constant([np.ones((100, 3))], KELVIN, VOLUME, 1.78) == (1.78, 0.0)


def test_what_cannot_be_is_refused_by_name() -> None:
    dipole = relaxing(300, 10.0, 0)
    with pytest.raises(DataError, match="a trajectory of 30 frames is too short"):
        static_dielectric_constant([dipole, dipole[:30]], KELVIN, VOLUME, 1.78)
    with pytest.raises(ConfigError, match=r"ε_∞ is 0\.5; allowed: a number of at least 1"):
        static_dielectric_constant([dipole], KELVIN, VOLUME, 0.5)
    with pytest.raises(ConfigError, match="temperature is 0; allowed: above 0"):
        static_dielectric_constant([dipole], 0.0, VOLUME, 1.78)
    dipole[3] = np.nan
    with pytest.raises(DataError, match="dipole 0: frame 3 holds a value that is not finite"):
        static_dielectric_constant([dipole], KELVIN, VOLUME, 1.78)


@pytest.mark.parametrize(("share", "tolerance"), [(0.1, 1e-4), (0.5, 1e-3), (0.7, 0.011), (0.8, 0.07)])
def test_the_dipole_is_the_integral_of_the_current_up_to_high_wavenumbers(share: float, tolerance: float) -> None:
    frequency = np.pi * share / 2.0  # rad/fs, frames 2 fs apart
    phase = frequency * 2.0 * np.arange(3000) + 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LesPluginsWarning)
        found = dipole_from_current(frequency * np.cos(phase)[:, None], 2.0)[:, 0]
    inside = slice(500, 2500)
    assert found[inside].std() == pytest.approx(np.sin(phase)[inside].std(), rel=tolerance)


def test_a_current_near_the_highest_wavenumber_is_warned_of_and_does_not_blow_up() -> None:
    frequency = np.pi * 0.97 / 2.0
    phase = frequency * 2.0 * np.arange(3000)
    with pytest.warns(LesPluginsWarning, match="record frames more often"):
        found = dipole_from_current(frequency * np.cos(phase)[:, None], 2.0)
    assert np.ptp(found) < 2.1  # Simpson's rule: 28
    wave = 2.0 * np.pi * SPEED_OF_LIGHT * 1000.0 * 2.0 * np.arange(3000)
    dipole_from_current(np.cos(wave)[:, None], 2.0)  # nothing to warn of: an error in this suite
