"""Infrared absorption and conductivity from currents (theory 11.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra.estimate import (
    MOST_BLOCKS,
    Spectrum,
    Welch,
    boltzmann_exponent,
    check_blocks,
    check_series,
    each_of,
    mean_and_error,
    power_spectrum,
)
from les_plugins.spectra.steady import takes_off, without_drift
from les_plugins.spectra.time_average import time_averaged_slope
from les_plugins.units import BOLTZMANN, SIEMENS_PER_METRE, SPEED_OF_LIGHT, VACUUM_PERMITTIVITY

Correction = Literal["harmonic", "standard", "schofield"]
CORRECTIONS: tuple[Correction, ...] = ("harmonic", "standard", "schofield")
#: One value for all trajectories, or one for each.
Each = float | Sequence[float] | Floats
_NAME = "the current"


def infrared(
    currents: Sequence[Floats],
    interval: float,
    temperature: Each,
    volume: Each | None,
    how: Welch,
    correction: Correction = "harmonic",
    drift: bool | None = None,
) -> Spectrum:
    """Infrared absorption from currents J = Σ Z* v.

    Args:
        currents: (T, 3) e·Å/fs of each trajectory.
        interval: fs between frames.
        temperature: K, one for all trajectories or one for each.
        volume: Å³, one for all or one for each, or None for open structures.
        how: segments, window, blocks.
        correction: quantum correction of the classical line shape. The classical absorption n α = G/(12 V kT ε0 c) is
            that of the harmonic correction; "standard" and "schofield" are factors on top of it.
        drift: take the mean of each current off, as of ions that drift in a static field; in equilibrium it is zero.
            None: where it is beyond its scatter, with a warning.

    Returns:
        n(ν) α(ν) in cm⁻¹, absolute, where there is a volume; the power of the current, (e·Å/fs)² fs, otherwise.

    Warns:
        LesPluginsWarning: a current has a mean, and `drift` is None.

    Source: theory 11.2; R. Ramirez et al., J. Chem. Phys. 121, 3973 (2004) for the corrections.
    """
    kelvin = each_of(temperature, len(currents), "temperature")
    drift = takes_off(currents, drift, _NAME)
    if volume is None:
        power = power_spectrum(currents, interval, how, "power of the current", "(e·Å)²/fs", remove_mean=drift)
        factor = _correction(power.wavenumber, float(kelvin.mean()), correction)
        return power.times(factor, "IR intensity", "(e·Å)²/fs")
    power = power_spectrum(_thermal(currents, kelvin, volume), interval, how, remove_mean=drift)
    factor = _correction(power.wavenumber, float(kelvin.mean()), correction)
    scale = 1.0 / (12.0 * VACUUM_PERMITTIVITY * SPEED_OF_LIGHT)
    return power.times(scale * factor, "IR absorption n(ν) α(ν)", "cm⁻¹")


def directed(currents: Sequence[Floats], axis: Floats | Sequence[float], across: bool = False) -> list[Floats]:
    """Currents along an axis or across it, scaled so that a sample without preferred direction keeps its power.

    Args:
        currents: (T, 3) of each trajectory.
        axis: (3,), of any length.
        across: what is left without the component along the axis, by sqrt(3/2); else that component, by sqrt(3).

    Raises:
        ConfigError: an axis that is zero or not finite.
    """
    vector: Floats = np.asarray(axis, dtype=float)
    if vector.shape != (3,) or not 0.0 < np.linalg.norm(vector) < np.inf:
        raise ConfigError(f"the axis is {vector.tolist()}; allowed: three finite numbers that are not all zero")
    unit = vector / np.linalg.norm(vector)
    parts = [values @ unit[:, None] * unit for values in currents]
    if across:
        return [np.sqrt(1.5) * (values - part) for values, part in zip(currents, parts, strict=True)]
    return [np.sqrt(3.0) * part for part in parts]


def conductivity_spectrum(
    currents: Sequence[Floats], interval: float, temperature: Each, volume: Each, how: Welch, drift: bool | None = None
) -> Spectrum:
    """Real part of the conductivity, Re σ(ν) = G/(12 V kT), in S/m; arguments and warning as `infrared`.

    Source: theory 11.2; R. Kubo, J. Phys. Soc. Jpn. 12, 570 (1957).
    """
    drift = takes_off(currents, drift, _NAME)
    power = power_spectrum(_thermal(currents, temperature, volume), interval, how, remove_mean=drift)
    return power.times(SIEMENS_PER_METRE / 12.0, "conductivity Re σ(ν)", "S/m")


def dielectric_loss(
    currents: Sequence[Floats], interval: float, temperature: Each, volume: Each, how: Welch, drift: bool | None = None
) -> Spectrum:
    """Imaginary part of the dielectric function, ε''(ν) = Re σ/(ε0 ω), without the point at zero; as `infrared`.

    Source: theory 11.2.
    """
    found = conductivity_spectrum(currents, interval, temperature, volume, how, drift)
    found = found.between(0.5 * found.wavenumber[1], np.inf)
    frequency = 2.0 * np.pi * SPEED_OF_LIGHT * found.wavenumber
    return found.times(1.0 / (SIEMENS_PER_METRE * VACUUM_PERMITTIVITY * frequency), "dielectric loss ε''(ν)", "1")


def green_kubo(
    currents: Sequence[Floats],
    interval: float,
    temperature: Each,
    volume: Each,
    correlation_time: float,
    blocks: int | None = None,
    drift: bool | None = None,
) -> dict[str, Any]:
    """Static conductivity σ = 1/(3 V kT) ∫ ⟨J(0)·J(t)⟩ dt, averaged over the last half of the integration window.

    Args:
        currents, interval, temperature, volume: as `infrared`.
        correlation_time: fs, the longest t.
        blocks: blocks that each trajectory is cut into, or None for as many as hold two correlation times, at most ten.
        drift: as `infrared`. A mean takes 2t/T of the integral up to t with it, T the length of the trajectory, which
            is put back.

    Returns:
        conductivity and error, S/m; displacement_conductivity and displacement_error, S/m, by the slope of ⟨|∫J dt|²⟩
        over the same times, from all pairs of frames with a jackknife over the same blocks (`time_average`); time (M,)
        fs, integral (M,) and integral_error (M,), S/m: the running integral, whose plateau should lie in the last half.
        Errors are 68 % intervals by Student's t, None with one block.

    Warns:
        LesPluginsWarning: a current has a mean, whose square would be taken for a conductivity, and `drift` is None.

    Raises:
        ConfigError: a correlation time below two frames.
        DataError: a block shorter than twice the correlation time.

    Source: theory 11.2.
    """
    if not 2 * interval <= correlation_time < float("inf"):
        raise ConfigError(f"correlation time {correlation_time} fs; allowed: at least two frames, {2 * interval} fs")
    check_series(currents, "current")
    drift = takes_off(currents, drift, _NAME)
    lags, running, weights = round(correlation_time / interval), list[Floats](), list[int]()
    shortest, counts, paths = max(lags // 2, 1), list[int](), list[Floats]()
    for values in _thermal(currents, temperature, volume):
        counts.append(check_blocks(blocks, min(max(len(values) // (2 * lags), 1), MOST_BLOCKS)))
        size = len(values) // counts[-1]
        if size < 2 * lags:
            raise DataError(
                f"a block of {size * interval / 1000:.3g} ps is shorter than twice the correlation time of "
                f"{correlation_time / 1000:.3g} ps: simulate longer, or give fewer --blocks or a shorter "
                "--correlation-time"
            )
        path = np.concatenate([[np.zeros(3)], np.cumsum(0.5 * interval * (values[1:] + values[:-1]), axis=0)])[:, None]
        kept: Floats = np.ones(lags + 1)
        if drift:
            path, kept = without_drift(path, shortest + lags), 1.0 - 2.0 * np.arange(lags + 1) / len(values)
            values = values - values.mean(0)
        paths.append(path)
        for block in range(counts[-1]):
            correlation = autocorrelation(values[block * size : (block + 1) * size], lags)
            steps = 0.5 * interval * (correlation[1:] + correlation[:-1])
            running.append(np.concatenate([[0.0], np.cumsum(steps)]) / kept)
            weights.append(size)
    moved = time_averaged_slope(paths, interval, shortest * interval, lags * interval, counts)
    integrals = SIEMENS_PER_METRE / 3.0 * np.array(running)
    mean, error = mean_and_error(integrals, weights)
    plateau, spread = mean_and_error(integrals[:, lags // 2 :].mean(1), weights)
    return {
        "conductivity": float(plateau),
        "error": None if spread is None else float(spread),
        "blocks": len(running),
        "displacement_conductivity": SIEMENS_PER_METRE / 6.0 * moved.slope,
        "displacement_error": None if moved.error is None else SIEMENS_PER_METRE / 6.0 * moved.error,
        "time": interval * np.arange(lags + 1),
        "integral": mean,
        "integral_error": error,
    }


def ohmic_conductivity(
    currents: Sequence[Floats], field: Floats | Sequence[float], volume: Each, blocks: int = MOST_BLOCKS
) -> tuple[float, float | None]:
    """σ = ⟨J⟩·E/(V E²) of trajectories in a static field, Ohm's law, S/m, and its error.

    Args:
        currents: (T, 3) e·Å/fs of each trajectory.
        field: (3,) V/Å.
        volume: Å³, one for all trajectories or one for each.
        blocks: of each trajectory.

    Returns:
        The conductivity along the field, and half its 68 % interval over blocks by Student's t; None with one block.

    Raises:
        ConfigError: a field that is zero or not finite.

    Source: theory 11.2.
    """
    vector: Floats = np.asarray(field, dtype=float)
    if vector.shape != (3,) or not 0.0 < np.linalg.norm(vector) < np.inf:
        raise ConfigError(f"the field is {vector.tolist()} V/Å; allowed: three finite numbers that are not all zero")
    check_series(currents, "current")
    along, parts, weights = vector / (vector @ vector), list[float](), list[int]()
    for values, size in zip(currents, each_of(volume, len(currents), "volume"), strict=True):
        for part in np.array_split(values @ along / size, min(check_blocks(blocks, MOST_BLOCKS), len(values))):
            parts.append(float(part.mean()))
            weights.append(len(part))
    mean, error = mean_and_error(SIEMENS_PER_METRE * np.array(parts), weights)
    return float(mean), None if error is None else float(error)


def _thermal(currents: Sequence[Floats], temperature: Each, volume: Each) -> list[Floats]:
    """J/sqrt(V kT) of each trajectory, with its own volume and temperature."""
    kelvin, size = (
        each_of(value, len(currents), name) for value, name in ((temperature, "temperature"), (volume, "volume"))
    )
    scales = 1.0 / np.sqrt(size * BOLTZMANN * kelvin)
    return [scale * values for scale, values in zip(scales, currents, strict=True)]


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
    with np.errstate(over="ignore"):
        factor: Floats = (2.0 / (1.0 + np.exp(-x)) if correction == "standard" else np.exp(0.5 * x)) / harmonic
    return factor
