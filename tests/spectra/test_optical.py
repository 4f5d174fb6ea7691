"""Infrared, conductivity and dielectric constants against closed forms (theory, section 11.2)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra import (
    Welch,
    conductivity_spectrum,
    dielectric_loss,
    green_kubo,
    infrared,
    power_spectrum,
)
from les_plugins.spectra.estimate import mean_and_error
from les_plugins.spectra.optical import autocorrelation
from les_plugins.units import BOLTZMANN, SIEMENS_PER_METRE, SPEED_OF_LIGHT, VACUUM_PERMITTIVITY

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


@pytest.mark.parametrize("resolution", [10.0, 10.02])  # 1,668 and 1,665 frames: with and without a point at Nyquist
def test_every_point_is_that_of_the_sampled_process_zero_and_the_last_one_too(resolution: float) -> None:
    memory, length = np.exp(-INTERVAL / 20.0), 400_000
    current = 0.01 * correlated_noise(length, 3, 20.0, INTERVAL, seed=1)
    how = Welch(resolution=resolution, window="boxcar", blocks=10)
    found = conductivity_spectrum([current], INTERVAL, KELVIN, VOLUME, how)
    # of the autoregressive process: ∫ C dt at each frequency is C(0) dt (1 − m²)/(1 − 2 m cos ω + m²)/2
    phase = 2.0 * np.pi * SPEED_OF_LIGHT * found.wavenumber * INTERVAL
    form = INTERVAL * (1.0 - memory**2) / (1.0 - 2.0 * memory * np.cos(phase) + memory**2) / 2.0
    exact = SIEMENS_PER_METRE / (3.0 * VOLUME * BOLTZMANN * KELVIN) * 3.0 * 1e-4 * form
    ratio = found.value / exact
    # 480 segments, three components; at the ends half as many degrees of freedom: 3.7 % and, elsewhere, 2.6 %
    assert ratio[0] == pytest.approx(1.0, abs=0.12)
    assert ratio[-1] == pytest.approx(1.0, abs=0.12)
    assert ratio[1:-1].std() < 0.05
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    green = green_kubo([current], INTERVAL, KELVIN, VOLUME, 200.0)
    assert abs(green["conductivity"] - exact[0]) < 4.0 * green["error"]
    absorbed = infrared([current], INTERVAL, KELVIN, VOLUME, how)
    np.testing.assert_allclose(
        absorbed.value, found.value / SIEMENS_PER_METRE / (VACUUM_PERMITTIVITY * SPEED_OF_LIGHT), rtol=1e-12
    )


def test_taking_a_mean_off_leaves_the_point_at_zero() -> None:
    noise = correlated_noise(100_000, 3, 20.0, INTERVAL, seed=3) + np.array([40.0, 0.0, -7.0])
    memory = np.exp(-INTERVAL / 20.0)
    found = power_spectrum([noise], INTERVAL, Welch(resolution=40.0))
    assert found.value[0] == pytest.approx(3.0 * 2.0 * INTERVAL * (1.0 + memory) / (1.0 - memory), rel=0.15)
    # as many trajectories as segments: each mean takes most of the point with it, which is corrected
    short = [correlated_noise(417, 3, 5.0, INTERVAL, seed) for seed in range(400)]
    memory = np.exp(-INTERVAL / 5.0)
    found = power_spectrum(short, INTERVAL, Welch(resolution=40.0))
    expected = 3.0 * 2.0 * INTERVAL * (1.0 + memory) / (1.0 - memory)
    np.testing.assert_allclose(found.value[:2], expected, rtol=0.2)


def test_each_trajectory_is_scaled_by_its_own_volume_and_temperature() -> None:
    current = correlated_noise(len(times()), 3, 50.0, INTERVAL)
    alone = [infrared([current], INTERVAL, kelvin, volume, HOW) for kelvin, volume in ((290.0, 900.0), (310.0, 1100.0))]
    both = infrared([current, current], INTERVAL, [290.0, 310.0], [900.0, 1100.0], HOW)
    np.testing.assert_allclose(both.value, 0.5 * (alone[0].value + alone[1].value), rtol=1e-12)
    longer = infrared([current, current[: len(current) // 4]], INTERVAL, [290.0, 310.0], [900.0, 1100.0], HOW)
    part = infrared([current[: len(current) // 4]], INTERVAL, 310.0, 1100.0, HOW)
    np.testing.assert_allclose(longer.value, 0.8 * alone[0].value + 0.2 * part.value, rtol=1e-2)


def test_ions_that_move_together_in_pairs_do_not_conduct() -> None:
    pair = correlated_noise(10_000, 3, 40.0, INTERVAL)
    found = green_kubo([pair - pair], INTERVAL, KELVIN, VOLUME, 400.0)
    assert found["conductivity"] == 0.0


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


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_bar_of_few_blocks_covers_the_truth_in_68_of_100_cases(count: int) -> None:
    values = np.random.default_rng(count).standard_normal((count, 20_000))
    for weights in (None, np.linspace(1.0, 4.0, count)):
        blocks = values if weights is None else values / np.sqrt(weights)[:, None]
        mean, error = mean_and_error(blocks, weights)
        assert np.mean(np.abs(mean) < error) == pytest.approx(0.6827, abs=0.012)  # 3.6 σ of 20,000 cases


def test_one_block_gives_a_spectrum_without_an_error_bar() -> None:
    noise = np.random.default_rng(0).standard_normal((900, 3))
    found = power_spectrum([noise], INTERVAL, Welch(resolution=40.0, blocks=1))
    assert (found.error, found.blocks) == (None, 1)
    assert found.times(2.0, "", "").between(0.0, 1000.0).error is None
    assert np.trapezoid(found.value, SPEED_OF_LIGHT * found.wavenumber) == pytest.approx(3.0, rel=0.1)
    assert green_kubo([noise], INTERVAL, KELVIN, VOLUME, 40.0, blocks=1)["error"] is None


def test_several_trajectories_count_as_blocks() -> None:
    noise = [np.random.default_rng(seed).standard_normal((900, 1)) for seed in range(4)]
    found = power_spectrum(noise, INTERVAL, Welch(resolution=20.0))
    assert found.blocks == 4
    assert found.notes["trajectories"] == 4


def test_what_is_too_short_or_unknown_raises_an_error() -> None:
    series = np.zeros((500, 3))
    with pytest.raises(DataError, match=r"1 ps is too short for a resolution of 10 cm⁻¹, which needs 3\.34 ps"):
        power_spectrum([series], INTERVAL, HOW)
    for name, value in (("temperature", -300.0), ("temperature", 0.0), ("volume", float("nan"))):
        values = {"temperature": KELVIN, "volume": VOLUME} | {name: value}
        with pytest.raises(ConfigError, match=f"{name} is {value:g}; allowed: above 0"):
            conductivity_spectrum([series], INTERVAL, values["temperature"], values["volume"], Welch(resolution=40.0))
    with pytest.raises(ConfigError, match="temperature has 2 values for 1 trajectories"):
        infrared([series], INTERVAL, [300.0, 301.0], None, Welch(resolution=40.0))
    broken = series.copy()
    broken[17, 1] = np.nan
    with pytest.raises(DataError, match="series 1: frame 17 holds a value that is not finite"):
        power_spectrum([series, broken], INTERVAL, Welch(resolution=40.0))
    with pytest.raises(ConfigError, match="resolution is 20000 cm⁻¹; allowed for frames 2 fs apart: below 11119"):
        power_spectrum([series], INTERVAL, Welch(resolution=20000.0))
    with pytest.raises(ConfigError, match="correlation time nan fs"):
        green_kubo([series], INTERVAL, KELVIN, VOLUME, float("nan"))
    with pytest.raises(DataError, match=r"blocks is 3: .* allowed here: at most 2"):
        power_spectrum([series], INTERVAL, Welch(resolution=70.0, blocks=3))
    with pytest.raises(ConfigError, match="window is 'square'; allowed: a window of SciPy"):
        Welch(window="square")
    with pytest.raises(ConfigError, match="resolution is -1"):
        Welch(resolution=-1.0)
    with pytest.raises(DataError, match="shorter than twice the correlation time"):
        green_kubo([series], INTERVAL, KELVIN, VOLUME, 900.0)
