"""Infrared, conductivity and dielectric constants against closed forms (PHYSICS 7)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra import (
    Welch,
    conductivity_spectrum,
    dielectric_loss,
    dipole_from_current,
    green_kubo,
    infrared,
    power_spectrum,
    static_dielectric_constant,
)
from les_plugins.spectra.optical import SIEMENS_PER_METRE, autocorrelation
from les_plugins.units import BOLTZMANN, SPEED_OF_LIGHT, VACUUM_PERMITTIVITY

KELVIN, VOLUME, INTERVAL = 300.0, 1000.0, 2.0
#: eV in one u·Å²/fs².
DALTON = 103.642696
HOW = Welch(resolution=10.0)


def times(picoseconds: float = 40.0) -> np.ndarray:
    return INTERVAL * np.arange(round(1000.0 * picoseconds / INTERVAL))


def angular(wavenumber: float) -> float:
    return 2.0 * np.pi * SPEED_OF_LIGHT * wavenumber


def correlated_noise(length: int, columns: int, time: float, interval: float, seed: int = 0) -> np.ndarray:
    """Ornstein–Uhlenbeck processes of unit variance, exactly, from their stationary state."""
    random, memory = np.random.default_rng(seed), np.exp(-interval / time)
    kicks = np.sqrt(1.0 - memory**2) * random.standard_normal((length, columns))
    kicks[0] = random.standard_normal(columns)
    return lfilter([1.0], [1.0, -memory], kicks, axis=0)


@pytest.mark.parametrize("wavenumber", [400.0, 1637.0, 3400.0])
def test_a_harmonic_dipole_absorbs_at_its_wavenumber_with_the_strength_of_the_sum_rule(wavenumber: float) -> None:
    charge, mass = 0.7, 1.5
    speed = np.sqrt(2.0 * BOLTZMANN * KELVIN / (mass * DALTON))  # of an oscillator with the mean energy
    current = np.zeros((len(times()), 3))
    current[:, 1] = charge * speed * np.cos(angular(wavenumber) * times() + 0.3)
    found = infrared([current], INTERVAL, KELVIN, VOLUME, HOW)
    assert found.unit == "cm⁻¹"
    assert found.peak == pytest.approx(wavenumber, abs=2.0)  # a fifth of the resolution
    # f-sum rule, averaged over directions: ∫ n α dν = q²/(12 m V ε0 c²), with c and ν in cm
    strength = charge**2 / (mass * DALTON) / (12.0 * VOLUME * VACUUM_PERMITTIVITY * SPEED_OF_LIGHT**2)
    assert np.trapezoid(found.value, found.wavenumber) == pytest.approx(strength, rel=1e-3)


def test_a_rigid_rotor_absorbs_at_its_rotation_with_the_square_of_dipole_and_frequency() -> None:
    def line(dipole: float, wavenumber: float) -> tuple[float, float]:
        phase = angular(wavenumber) * times()
        moment = dipole * np.stack([np.cos(phase), np.sin(phase), np.zeros_like(phase)], 1)
        current = angular(wavenumber) * np.stack([-moment[:, 1], moment[:, 0], moment[:, 2]], 1)
        found = infrared([current], INTERVAL, KELVIN, VOLUME, HOW)
        return found.peak, float(np.trapezoid(found.value, found.wavenumber))

    (one, weak), (other, strong) = line(0.4, 150.0), line(0.8, 300.0)
    assert one == pytest.approx(150.0, abs=2.0)
    assert other == pytest.approx(300.0, abs=2.0)
    power = (0.4 * angular(150.0)) ** 2 / SPEED_OF_LIGHT
    scale = 12.0 * VOLUME * BOLTZMANN * KELVIN * VACUUM_PERMITTIVITY * SPEED_OF_LIGHT
    assert weak == pytest.approx(power / scale, rel=1e-3)
    assert strong / weak == pytest.approx(16.0, rel=1e-3)


def test_without_a_volume_the_power_of_the_current_is_returned() -> None:
    current = correlated_noise(len(times()), 3, 50.0, INTERVAL)
    found, power = (
        infrared([current], INTERVAL, KELVIN, None, HOW),
        power_spectrum([current], INTERVAL, HOW, "", "", False),
    )
    np.testing.assert_allclose(found.value, power.value)
    assert found.unit == "(e·Å)²/fs"


def test_quantum_corrections_have_their_factors_over_the_harmonic_one() -> None:
    current = correlated_noise(len(times()), 3, 5.0, INTERVAL)
    base, standard, schofield = (
        infrared([current], INTERVAL, KELVIN, VOLUME, HOW, kind) for kind in ("harmonic", "standard", "schofield")
    )
    at = int(np.argmin(np.abs(base.wavenumber - 1000.0)))
    x = 1.438776877 * base.wavenumber[at] / KELVIN  # hc/k in cm·K
    harmonic = x / (1.0 - np.exp(-x))
    assert standard.value[at] / base.value[at] == pytest.approx(2.0 / (1.0 + np.exp(-x)) / harmonic, rel=1e-5)
    assert schofield.value[at] / base.value[at] == pytest.approx(np.exp(x / 2.0) / harmonic, rel=1e-5)
    assert standard.value[0] == pytest.approx(base.value[0])  # classical at zero
    with pytest.raises(ConfigError, match="quantum correction 'wigner'; allowed: harmonic, standard, schofield"):
        infrared([current], INTERVAL, KELVIN, VOLUME, HOW, "wigner")  # type: ignore[arg-type]


def test_ideal_ions_conduct_as_nernst_and_einstein_say() -> None:
    ions, charge, mass, relaxation = 60, 1.0, 20.0, 40.0
    thermal = np.sqrt(BOLTZMANN * KELVIN / (mass * DALTON))
    velocities = thermal * correlated_noise(25_000, 3 * ions, relaxation, INTERVAL).reshape(-1, ions, 3)
    signs = charge * np.where(np.arange(ions) % 2, -1.0, 1.0)
    current = np.einsum("n,tna->ta", signs, velocities)
    diffusion = thermal**2 * relaxation
    expected = SIEMENS_PER_METRE * ions * charge**2 * diffusion / (VOLUME * BOLTZMANN * KELVIN)
    found = green_kubo([current], INTERVAL, KELVIN, VOLUME, 400.0, blocks=10)
    assert found["error"] < 0.1 * expected
    assert abs(found["conductivity"] - expected) < 4.0 * found["error"]
    assert found["integral"][0] == 0.0
    spectrum = conductivity_spectrum([current], INTERVAL, KELVIN, VOLUME, Welch(resolution=20.0))
    # at low wavenumbers the Lorentzian is flat: 1/(1 + (ω τ)²) is above 0.98 there
    low = (spectrum.wavenumber > 5.0) & (spectrum.wavenumber < 21.0)
    assert spectrum.value[low].mean() == pytest.approx(expected, rel=0.15)


def test_ions_that_move_together_in_pairs_do_not_conduct() -> None:
    pair = correlated_noise(10_000, 3, 40.0, INTERVAL)
    found = green_kubo([pair - pair], INTERVAL, KELVIN, VOLUME, 400.0)
    assert found["conductivity"] == 0.0


def test_the_dielectric_constant_is_that_of_the_dipoles_variance() -> None:
    deviation = 1.3
    dipole = deviation * correlated_noise(60_000, 3, 100.0, INTERVAL, seed=4)
    expected = 1.78 + 3.0 * deviation**2 / (3.0 * VACUUM_PERMITTIVITY * VOLUME * BOLTZMANN * KELVIN)
    value, error = static_dielectric_constant([dipole + 5.0], KELVIN, VOLUME, 1.78)
    assert error < 0.1 * expected
    assert abs(value - expected) < 4.0 * error


def test_the_dipole_is_the_integral_of_the_current() -> None:
    phase = angular(3400.0) * times(5.0)
    moment = np.stack([np.sin(phase), np.cos(0.3 * phase), 0.0 * phase], 1)
    rates = angular(3400.0) * np.array([1.0, 0.3, 0.0])
    current = rates * np.stack([np.cos(phase), -np.sin(0.3 * phase), 0.0 * phase], 1)
    found = dipole_from_current(current, INTERVAL)
    # five frames in a period of the fastest line: Simpson's rule is good to a tenth and does not wander
    np.testing.assert_allclose(found, moment - moment[0], atol=0.15)
    slow = dipole_from_current(current[:, 1:2], INTERVAL)
    np.testing.assert_allclose(slow, (moment - moment[0])[:, 1:2], atol=2e-3)


def test_the_loss_is_conductivity_over_frequency() -> None:
    current = correlated_noise(len(times()), 3, 50.0, INTERVAL)
    loss = dielectric_loss([current], INTERVAL, KELVIN, VOLUME, HOW)
    conductivity = conductivity_spectrum([current], INTERVAL, KELVIN, VOLUME, HOW)
    assert loss.wavenumber[0] > 0
    expected = conductivity.value[1:] / (
        SIEMENS_PER_METRE * VACUUM_PERMITTIVITY * angular(1.0) * conductivity.wavenumber[1:]
    )
    np.testing.assert_allclose(loss.value, expected, rtol=1e-12)


def test_the_correlation_function_is_the_mean_over_pairs_of_frames() -> None:
    series = np.random.default_rng(0).standard_normal((40, 3))
    direct = [np.mean([series[t] @ series[t + lag] for t in range(40 - lag)]) for lag in range(8)]
    np.testing.assert_allclose(autocorrelation(series, 7), direct, atol=1e-12)


@pytest.mark.parametrize("window", ["hann", "blackman", "boxcar"])
def test_the_power_of_noise_is_its_variance_for_every_window(window: str) -> None:
    noise = np.random.default_rng(1).standard_normal((20_000, 2)) * np.array([1.0, 2.0])
    found = power_spectrum([noise], INTERVAL, Welch(resolution=20.0, window=window))
    assert np.trapezoid(found.value, SPEED_OF_LIGHT * found.wavenumber) == pytest.approx(5.0, rel=0.03)
    assert found.notes["window"] == window


def test_error_bars_cover_the_truth_as_often_as_they_should() -> None:
    noise = np.random.default_rng(2).standard_normal((40_000, 1))
    found = power_spectrum([noise], INTERVAL, Welch(resolution=40.0))
    truth = 2.0 * INTERVAL
    inside = np.abs(found.value - truth)[2:-2] < found.error[2:-2]
    # ten blocks: Student's t within one standard error 66 % of the time; 200 points scatter by 3 %
    assert 0.5 < inside.mean() < 0.8


def test_several_trajectories_count_as_blocks() -> None:
    noise = [np.random.default_rng(seed).standard_normal((900, 1)) for seed in range(4)]
    found = power_spectrum(noise, INTERVAL, Welch(resolution=20.0))
    assert found.blocks == 4
    assert found.notes["trajectories"] == 4


def test_what_is_too_short_or_unknown_is_refused_in_words() -> None:
    series = np.zeros((500, 3))
    with pytest.raises(DataError, match=r"1 ps is too short for a resolution of 10 cm⁻¹, which needs 3\.34 ps"):
        power_spectrum([series], INTERVAL, HOW)
    with pytest.raises(DataError, match="an error bar needs two blocks"):
        power_spectrum([series], INTERVAL, Welch(resolution=40.0))
    with pytest.raises(DataError, match=r"blocks is 3: .* allowed here: at most 2"):
        power_spectrum([series], INTERVAL, Welch(resolution=70.0, blocks=3))
    with pytest.raises(ConfigError, match="window is 'square'; allowed: a window of SciPy"):
        Welch(window="square")
    with pytest.raises(ConfigError, match="resolution is -1"):
        Welch(resolution=-1.0)
    with pytest.raises(DataError, match="shorter than twice the correlation time"):
        green_kubo([series], INTERVAL, KELVIN, VOLUME, 900.0)
