"""Power spectra by Welch's method with error bars from blocks. Every spectrum of this folder comes through here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from les_plugins.errors import ConfigError, DataError
from les_plugins.metrics import Floats
from les_plugins.units import BOLTZMANN, SPEED_OF_LIGHT

#: h c in eV·cm: the energy of 1 cm⁻¹.
WAVENUMBER_ENERGY = 1.239841984e-4
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
        if self.blocks is not None and self.blocks < 1:
            raise ConfigError(f"blocks is {self.blocks}; allowed: at least 1")
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
            DataError: a series shorter than a segment, or fewer than two blocks in all.
        """
        segment, found = self.segment(interval), list[Floats]()
        for values in series:
            length = len(values)
            if length < segment:
                raise DataError(
                    f"a trajectory of {length * interval / 1000:.3g} ps is too short for a resolution of "
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
        if len(found) < 2:
            raise DataError(
                f"an error bar needs two blocks of {segment * interval / 1000:.3g} ps or two trajectories: simulate "
                "longer, or give a coarser --resolution"
            )
        return found


@dataclass(frozen=True)
class Spectrum:
    """An estimate on an axis of wavenumbers.

    Attributes:
        wavenumber: (F,) cm⁻¹.
        value: (F,) in `unit`.
        error: (F,) standard error of the mean over blocks.
        name: what it is.
        unit: of value and error.
        blocks: number of blocks or trajectories behind the error.
        notes: how it was made, by name.
    """

    wavenumber: Floats
    value: Floats
    error: Floats
    name: str
    unit: str
    blocks: int
    notes: dict[str, Any]

    def times(self, factor: Floats | float, name: str, unit: str) -> Spectrum:
        """The spectrum times a number or a function of the wavenumber."""
        return replace(self, value=factor * self.value, error=np.abs(factor) * self.error, name=name, unit=unit)

    def between(self, low: float, high: float) -> Spectrum:
        """The part from `low` to `high` cm⁻¹."""
        inside = (self.wavenumber >= low) & (self.wavenumber <= high)
        return replace(self, wavenumber=self.wavenumber[inside], value=self.value[inside], error=self.error[inside])

    @property
    def peak(self) -> float:
        """Wavenumber of the highest point, refined by a parabola, cm⁻¹."""
        return parabolic_peak(self.wavenumber, self.value)


def power_spectrum(
    series: Sequence[Floats], interval: float, how: Welch, name: str = "power", unit: str = "", remove_mean: bool = True
) -> Spectrum:
    """One-sided power spectral density per fs⁻¹ of vector series, summed over components.

    Args:
        series: (T, ...) for each trajectory; all axes but the first are components.
        interval: fs between frames.
        how: segments, window, blocks.
        name: of the result.
        unit: of the result.
        remove_mean: take the mean off every segment; not for currents, whose zero frequency is the conductivity.

    Returns:
        G(ν) with ∫ G df = ⟨|x|²⟩ over f = c ν > 0 in fs⁻¹: twice the transform of the correlation function.

    Raises:
        DataError: too short for the resolution or for an error bar.

    Source: PHYSICS 7; P. Welch, IEEE Trans. Audio Electroacoust. 15, 70 (1967).
    """
    from scipy.signal import welch

    segment, found = how.segment(interval), []
    blocks = how.blocks_of(series, interval)
    frequency: Floats = np.zeros(0)
    for block in blocks:
        frequency, density = welch(
            block.reshape(len(block), -1),
            fs=1.0 / interval,
            window=how.window,
            nperseg=segment,
            detrend="constant" if remove_mean else False,
            axis=0,
        )
        found.append(density.sum(1))
    value, error = mean_and_error(np.array(found))
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
    return Spectrum(frequency / SPEED_OF_LIGHT, value, error, name, unit, len(blocks), notes)


def mean_and_error(blocks: Floats) -> tuple[Floats, Floats]:
    """Mean over the first axis and its standard error, from the scatter of independent blocks."""
    mean: Floats = blocks.mean(0)
    error: Floats = blocks.std(0, ddof=1) / np.sqrt(len(blocks))
    return mean, error


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
