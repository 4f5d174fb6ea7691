"""Infrared absorption, conductivity and dielectric constants from currents and dipoles (PHYSICS 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from les_plugins.errors import ConfigError, DataError
from les_plugins.metrics import Floats
from les_plugins.spectra.estimate import Spectrum, Welch, boltzmann_exponent, mean_and_error, power_spectrum
from les_plugins.units import BOLTZMANN, SPEED_OF_LIGHT, VACUUM_PERMITTIVITY

Correction = Literal["harmonic", "standard", "schofield"]
CORRECTIONS: tuple[Correction, ...] = ("harmonic", "standard", "schofield")
#: S/m in one e²/(Å·eV·fs).
SIEMENS_PER_METRE = 1.602176634e6


def infrared(
    currents: Sequence[Floats],
    interval: float,
    temperature: float,
    volume: float | None,
    how: Welch,
    correction: Correction = "harmonic",
) -> Spectrum:
    """Infrared absorption from currents J = Σ Z* v.

    Args:
        currents: (T, 3) e·Å/fs of each trajectory.
        interval: fs between frames.
        temperature: K.
        volume: Å³, or None for open structures.
        how: segments, window, blocks.
        correction: quantum correction of the classical line shape. The classical absorption n α = G/(12 V kT ε0 c) is
            that of the harmonic correction; "standard" and "schofield" are factors on top of it.

    Returns:
        n(ν) α(ν) in cm⁻¹, absolute, where there is a volume; the power of the current, (e·Å/fs)² fs, otherwise.

    Source: PHYSICS 7; R. Ramirez et al., J. Chem. Phys. 121, 3973 (2004) for the corrections.
    """
    power = power_spectrum(currents, interval, how, "power of the current", "(e·Å)²/fs", remove_mean=False)
    factor = _correction(power.wavenumber, temperature, correction)
    if volume is None:
        return power.times(factor, "IR intensity", "(e·Å)²/fs")
    scale = 1.0 / (12.0 * volume * BOLTZMANN * temperature * VACUUM_PERMITTIVITY * SPEED_OF_LIGHT)
    return power.times(scale * factor, "IR absorption n(ν) α(ν)", "cm⁻¹")


def conductivity_spectrum(
    currents: Sequence[Floats], interval: float, temperature: float, volume: float, how: Welch
) -> Spectrum:
    """Real part of the conductivity, Re σ(ν) = G/(12 V kT), in S/m; arguments as `infrared`.

    Source: PHYSICS 7; R. Kubo, J. Phys. Soc. Jpn. 12, 570 (1957).
    """
    power = power_spectrum(currents, interval, how, remove_mean=False)
    scale = SIEMENS_PER_METRE / (12.0 * volume * BOLTZMANN * temperature)
    return power.times(scale, "conductivity Re σ(ν)", "S/m")


def dielectric_loss(
    currents: Sequence[Floats], interval: float, temperature: float, volume: float, how: Welch
) -> Spectrum:
    """Imaginary part of the dielectric function, ε''(ν) = Re σ/(ε0 ω), without the point at zero.

    Source: PHYSICS 7.
    """
    found = conductivity_spectrum(currents, interval, temperature, volume, how)
    found = found.between(0.5 * found.wavenumber[1], np.inf)
    frequency = 2.0 * np.pi * SPEED_OF_LIGHT * found.wavenumber
    return found.times(1.0 / (SIEMENS_PER_METRE * VACUUM_PERMITTIVITY * frequency), "dielectric loss ε''(ν)", "1")


def green_kubo(
    currents: Sequence[Floats],
    interval: float,
    temperature: float,
    volume: float,
    correlation_time: float,
    blocks: int = 5,
) -> dict[str, Any]:
    """Static conductivity σ = 1/(3 V kT) ∫ ⟨J(0)·J(t)⟩ dt, averaged over the last half of the integration window.

    Args:
        currents, interval, temperature, volume: as `infrared`.
        correlation_time: fs, the longest t.
        blocks: blocks that each trajectory is cut into.

    Returns:
        conductivity and error, S/m; time (M,) fs, integral (M,) and integral_error (M,), S/m: the running integral,
        whose plateau should lie in the last half.

    Raises:
        DataError: a block shorter than twice the correlation time.

    Source: PHYSICS 7.
    """
    lags = round(correlation_time / interval)
    if lags < 2:
        raise ConfigError(f"correlation time {correlation_time} fs; allowed: at least two frames, {2 * interval} fs")
    running = []
    for values in currents:
        size = len(values) // blocks
        if size < 2 * lags:
            raise DataError(
                f"a block of {size * interval / 1000:.3g} ps is shorter than twice the correlation time of "
                f"{correlation_time / 1000:.3g} ps: simulate longer, or give fewer --blocks or a shorter "
                "--correlation-time"
            )
        for block in range(blocks):
            correlation = autocorrelation(values[block * size : (block + 1) * size], lags)
            steps = 0.5 * interval * (correlation[1:] + correlation[:-1])
            running.append(np.concatenate([[0.0], np.cumsum(steps)]))
    if len(running) < 2:
        raise DataError("an error bar needs two blocks or two trajectories")
    integrals = SIEMENS_PER_METRE / (3.0 * volume * BOLTZMANN * temperature) * np.array(running)
    mean, error = mean_and_error(integrals)
    plateau, spread = mean_and_error(integrals[:, lags // 2 :].mean(1))
    return {
        "conductivity": float(plateau),
        "error": float(spread),
        "blocks": len(running),
        "time": interval * np.arange(lags + 1),
        "integral": mean,
        "integral_error": error,
    }


def static_dielectric_constant(
    dipoles: Sequence[Floats], temperature: float, volume: float, epsilon_infinity: float, blocks: int = 5
) -> tuple[float, float]:
    """ε_0 = ε_∞ + (⟨M²⟩ − ⟨M⟩²)/(3 ε0 V kT), and its error by the jackknife over blocks.

    Args:
        dipoles: (T, 3) e·Å of each trajectory, without jumps (see `dipole_from_current`).
        temperature: K.
        volume: Å³.
        epsilon_infinity: ε_∞.
        blocks: blocks of each trajectory.

    Returns:
        ε_0 and its standard error. Both are too small for trajectories shorter than the dipole's relaxation, some ps to
        ns in a polar liquid.

    Raises:
        DataError: fewer than two frames in a block.

    Source: PHYSICS 7; M. Neumann, Mol. Phys. 50, 841 (1983): tinfoil boundary.
    """
    moments = []
    for values in dipoles:
        size = len(values) // blocks
        if size < 2:
            raise DataError(f"{len(values)} frames are too few for {blocks} blocks")
        centred = values - values.mean(0)  # each trajectory has a constant of its own
        for block in range(blocks):
            part = centred[block * size : (block + 1) * size]
            moments.append([(part**2).sum(1).mean(), *part.mean(0)])
    sums = np.array(moments)
    if len(sums) < 2:
        raise DataError("an error bar needs two blocks or two trajectories")

    def estimate(rows: Floats) -> float:
        mean = rows.mean(0)
        variance = mean[0] - (mean[1:] ** 2).sum()
        return float(epsilon_infinity + variance / (3.0 * VACUUM_PERMITTIVITY * volume * BOLTZMANN * temperature))

    without = np.array([estimate(np.delete(sums, block, 0)) for block in range(len(sums))])
    error = np.sqrt((len(sums) - 1) * without.var())
    return estimate(sums), float(error)


def dipole_from_current(current: Floats, interval: float) -> Floats:
    """∫ J dt (T, 3) e·Å, zero at the start: the dipole of a periodic structure without branches (Simpson's rule).

    The recorded dipole of a periodic structure depends on which images its atoms started in, and charges that fluctuate
    make that a noise; the integral of J = dP/dt does not.

    Source: PHYSICS 5 and 7.
    """
    from scipy.integrate import cumulative_simpson

    integral: Floats = cumulative_simpson(current, dx=interval, axis=0, initial=0.0)
    return integral


def autocorrelation(series: Floats, lags: int) -> Floats:
    """⟨x(0)·x(t)⟩ for t = 0 … lags frames, components summed, each lag divided by its number of pairs.

    Args:
        series: (T, C).
        lags: largest lag, below T.
    """
    from scipy.signal import correlate

    length = len(series)
    full = sum(correlate(column, column, method="fft") for column in series.T)
    found: Floats = np.asarray(full)[length - 1 : length + lags] / (length - np.arange(lags + 1))
    return found


def _correction(wavenumber: Floats, temperature: float, correction: Correction) -> Floats:
    """A quantum correction over the harmonic one, x/(1 − e^−x)."""
    if correction not in CORRECTIONS:
        raise ConfigError(f"quantum correction {correction!r}; allowed: {', '.join(CORRECTIONS)}")
    if correction == "harmonic":
        return np.ones_like(wavenumber)
    x = boltzmann_exponent(wavenumber, temperature)
    harmonic = np.where(x > 1e-8, x / -np.expm1(-np.maximum(x, 1e-8)), 1.0)
    factor: Floats = (2.0 / (1.0 + np.exp(-x)) if correction == "standard" else np.exp(0.5 * x)) / harmonic
    return factor
