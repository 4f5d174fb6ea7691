"""Power spectra by Welch's method with error bars from blocks. Every spectrum of this folder comes through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError
from les_plugins.units import BOLTZMANN, SPEED_OF_LIGHT, WAVENUMBER_ENERGY

#: cm⁻¹ between the points of a spectrum, as published comparisons with water use.
RESOLUTION = 26.7
#: Most blocks that one trajectory is cut into: fewer than some ten say little about their own scatter.
MOST_BLOCKS = 10


@dataclass(frozen=True)
class Welch:
    """How power spectra are estimated.

    Attributes:
        resolution: cm⁻¹ between points; a segment is 1/(c × resolution) long.
        window: name of a window of SciPy; segments overlap by half.
        blocks: blocks that each trajectory is cut into, or None for as many as hold a segment, at most ten.
    """

    resolution: float = RESOLUTION
    window: str = "hann"
    blocks: int | None = None

    def __post_init__(self) -> None:
        from scipy.signal import get_window

        if not 0 < self.resolution < 1e5:
            raise ConfigError(f"resolution is {self.resolution} cm⁻¹; allowed: above 0")
        check_blocks(self.blocks, 1)
        try:
            get_window(self.window, 8)
        except ValueError:
            raise ConfigError(
                f"window is {self.window!r}; allowed: a window of SciPy, such as hann or blackman"
            ) from None

    def segment(self, interval: float) -> int:
        """Frames in a segment, for frames `interval` fs apart."""
        return max(round(1.0 / (SPEED_OF_LIGHT * self.resolution * interval)), 2)

    def blocks_of(self, series: Sequence[Floats], interval: float) -> list[Floats]:
        """Every series cut into blocks of equal length.

        Raises:
            ConfigError: a resolution so coarse that a segment has fewer than two frames.
            DataError: a series shorter than a segment.
        """
        segment, found = self.segment(interval), list[Floats]()
        if 1.0 / (SPEED_OF_LIGHT * self.resolution * interval) < 1.5:
            raise ConfigError(
                f"resolution is {self.resolution:g} cm⁻¹; allowed for frames {interval:g} fs apart: below "
                f"{1.0 / (1.5 * SPEED_OF_LIGHT * interval):.0f} cm⁻¹"
            )
        for number, values in enumerate(series, 1):
            length = len(values)
            if length < segment:
                which = "a trajectory" if len(series) == 1 else f"trajectory {number} of the {len(series)},"
                raise DataError(
                    f"{which} of {length * interval / 1000:.3g} ps is too short for a resolution of "
                    f"{self.resolution:g} cm⁻¹, which needs {segment * interval / 1000:.3g} ps: simulate longer, or "
                    "give a coarser --resolution"
                )
            count = min(length // segment, MOST_BLOCKS) if self.blocks is None else self.blocks
            size = length // count
            if size < segment:
                raise DataError(
                    f"blocks is {count}: a block of {size * interval / 1000:.3g} ps is shorter than the segment of "
                    f"{segment * interval / 1000:.3g} ps; allowed here: at most {length // segment}"
                )
            found += [values[start * size : (start + 1) * size] for start in range(count)]
        return found


@dataclass(frozen=True)
class Spectrum:
    """An estimate on an axis of wavenumbers.

    Attributes:
        wavenumber: (F,) cm⁻¹.
        value: (F,) in `unit`.
        error: (F,) half the width of the 68 % interval of the mean over blocks, by Student's t; None with one block.
        name: what it is.
        unit: of value and error.
        blocks: number of blocks or trajectories behind the error.
        notes: how it was made, by name.
        model_error: (F,) standard deviation between models, where it is the mean of several (`models.over_models`).
    """

    wavenumber: Floats
    value: Floats
    error: Floats | None
    name: str
    unit: str
    blocks: int
    notes: dict[str, Any]
    model_error: Floats | None = None

    def times(self, factor: Floats | float, name: str, unit: str) -> Spectrum:
        """The spectrum times a number or a function of the wavenumber."""
        with np.errstate(over="ignore", invalid="ignore"):  # a quantum correction may be infinite where nobody looks
            value = factor * self.value
            error, between = (
                None if width is None else np.abs(factor) * width for width in (self.error, self.model_error)
            )
        return replace(self, value=value, error=error, name=name, unit=unit, model_error=between)

    def between(self, low: float, high: float) -> Spectrum:
        """The part from `low` to `high` cm⁻¹."""
        inside = (self.wavenumber >= low) & (self.wavenumber <= high)
        error, between = (None if width is None else width[inside] for width in (self.error, self.model_error))
        return replace(
            self, wavenumber=self.wavenumber[inside], value=self.value[inside], error=error, model_error=between
        )

    @property
    def peak(self) -> float:
        """Wavenumber of the highest point, refined by a parabola, cm⁻¹."""
        return parabolic_peak(self.wavenumber, self.value)


def power_spectrum(
    series: Sequence[Floats], interval: float, how: Welch, name: str = "power", unit: str = "", remove_mean: bool = True
) -> Spectrum:
    """Power spectral density per fs⁻¹ of vector series, summed over components: 2 ∫ ⟨x(0)·x(t)⟩ exp(iωt) dt.

    Args:
        series: (T, ...) for each trajectory; all axes but the first are components.
        interval: fs between frames.
        how: segments, window, blocks.
        name: of the result.
        unit: of the result.
        remove_mean: take the mean of each trajectory off; not for currents, whose mean is zero.

    Returns:
        G(ν), twice the transform of the correlation function at every point, zero and the last one among them. By the
        trapezoid rule ∫ G df = ⟨|x|²⟩ over f = c ν ≥ 0 in fs⁻¹. Trajectories count by their length.

    Raises:
        DataError: too short for the resolution, or a value that is not finite.

    Source: theory 11.1; P. Welch, IEEE Trans. Audio Electroacoust. 15, 70 (1967).
    """
    found = block_spectra(series, interval, how, remove_mean)
    value, error = mean_and_error(found.rows, found.weights)
    return Spectrum(found.wavenumber, value, error, name, unit, len(found.rows), found.notes)


class BlockSpectra(NamedTuple):
    """Power spectra of single blocks, for estimates that are no means over them.

    Attributes:
        wavenumber: (F,) cm⁻¹.
        rows: (n, F), the power spectral density of each block.
        weights: (n,) frames of each block.
        notes: how they were made, by name.
    """

    wavenumber: Floats
    rows: Floats
    weights: Floats
    notes: dict[str, Any]


def block_spectra(series: Sequence[Floats], interval: float, how: Welch, remove_mean: bool = True) -> BlockSpectra:
    """The blocks that `power_spectrum` is the mean of; arguments and errors as there."""
    from scipy.signal import get_window, welch

    check_series(series)
    segment, found = how.segment(interval), []
    blocks = how.blocks_of(series, interval)
    if remove_mean:
        blocks = how.blocks_of([values - values.mean(0) for values in series], interval)
    frequency: Floats = np.zeros(0)
    for block in blocks:
        # not SciPy's mean of each segment: that would take the point at zero with it
        flat = block.reshape(len(block), -1)
        frequency, density = welch(flat, fs=1.0 / interval, window=how.window, nperseg=segment, detrend=False, axis=0)
        found.append(density.sum(1))
    rows = np.array(found)
    # SciPy's one-sided density doubles every point but zero and, of even segments, the last
    rows[:, 0] *= 2.0
    if segment % 2 == 0:
        rows[:, -1] *= 2.0
    if remove_mean:
        window = get_window(how.window, segment)
        leak = np.abs(np.fft.rfft(window)) ** 2 / (window**2).sum() / np.mean([len(values) for values in series])
        # what a mean over so many frames takes with it; nothing is left to correct where they are one flat segment
        rows = np.where(leak < 0.99, rows / np.maximum(1.0 - leak, 0.01), rows)
    notes = {
        "window": how.window,
        "segment_fs": segment * interval,
        "overlap": 0.5,
        "resolution_cm-1": 1.0 / (SPEED_OF_LIGHT * segment * interval),
        "nyquist_cm-1": 0.5 / (SPEED_OF_LIGHT * interval),
        "blocks": len(blocks),
        "block_fs": len(blocks[0]) * interval,
        "trajectories": len(series),
    }
    weights: Floats = np.array([len(block) for block in blocks], dtype=float)
    return BlockSpectra(frequency / SPEED_OF_LIGHT, rows, weights, notes)


def check_series(series: Sequence[Floats], name: str = "series") -> None:
    """DataError for series that hold NaN or infinity, or none at all, with the frame."""
    if not len(series):
        raise DataError(f"no {name} was given")
    for number, values in enumerate(series):
        bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
        if bad.any():
            raise DataError(f"{name} {number}: frame {int(np.argmax(bad))} holds a value that is not finite")


def check_temperature(temperature: float, name: str = "temperature") -> float:
    """The temperature, K.

    Raises:
        ConfigError: it is not between 0.001 and 1e9 K.
    """
    if not 1e-3 <= temperature <= 1e9:
        raise ConfigError(f"{name} is {temperature:g} K; allowed: above 0 (0.001 to 1e9)")
    return temperature


def check_blocks(blocks: int | None, default: int) -> int:
    """The number of blocks, or the default where it is None.

    Raises:
        ConfigError: below one.
    """
    if blocks is not None and blocks < 1:
        raise ConfigError(f"blocks is {blocks}; allowed: at least 1")
    return default if blocks is None else blocks


def each_of(value: float | Sequence[float] | Floats, count: int, name: str) -> Floats:
    """(count,) values, one for each trajectory: the same for all, or a sequence of them.

    Raises:
        ConfigError: another number of values, or one that is not a finite number above 0.
    """
    found: Floats = np.asarray(value, dtype=float)
    if found.ndim == 0:
        found = np.full(count, float(found))
    if found.shape != (count,):
        raise ConfigError(f"{name} has {len(found)} values for {count} trajectories; allowed: one, or one for each")
    for one in found:
        if not 0 < one < float("inf"):
            raise ConfigError(f"{name} is {one:g}; allowed: above 0")
    return found


def mean_and_error(blocks: Floats, weights: Sequence[float] | Floats | None = None) -> tuple[Floats, Floats | None]:
    """Mean over the first axis of independent blocks, and its error from their scatter.

    Args:
        blocks: (n, ...).
        weights: (n,) such as their lengths: a block's variance is inverse to its weight; equal when None.

    Returns:
        Mean, and half the width of its 68.27 % interval by Student's t with n − 1 degrees of freedom: 1.84, 1.32, 1.20,
        … 1.06 (ten blocks) standard errors. None with a single block.

    Source: Student, Biometrika 6, 1 (1908).
    """
    count = len(blocks)
    share: Floats = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    share = share / share.sum()
    mean: Floats = np.tensordot(share, blocks, 1)
    if count < 2:
        return mean, None
    error: Floats = student(count - 1) * np.sqrt(np.tensordot(share, (blocks - mean) ** 2, 1) / (count - 1))
    return mean, error


def student(freedom: int) -> float:
    """Standard errors in half a 68.27 % interval, for an error known from so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.841344746))


def boltzmann_exponent(wavenumber: Floats, temperature: float) -> Floats:
    """ħω / kT."""
    exponent: Floats = WAVENUMBER_ENERGY * wavenumber / (BOLTZMANN * temperature)
    return exponent


def parabolic_peak(x: Floats, y: Floats) -> float:
    """Place of the highest of evenly spaced points, refined with its two neighbors."""
    top = int(np.argmax(y))
    if top in (0, len(y) - 1):
        return float(x[top])
    below, middle, above = y[top - 1 : top + 2]
    curvature = below - 2.0 * middle + above
    shift = 0.0 if curvature == 0 else 0.5 * (below - above) / curvature
    return float(x[top] + shift * (x[1] - x[0]))
