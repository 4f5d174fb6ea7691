"""Static dielectric constant from the fluctuations of the dipole (theory 11.5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.spectra.estimate import MOST_BLOCKS, check_blocks, check_series, each_of, mean_and_error
from les_plugins.spectra.optical import Each
from les_plugins.spectra.sampling import integrated
from les_plugins.units import BOLTZMANN, VACUUM_PERMITTIVITY

#: Relaxation times that the longest of M trajectories must hold, over sqrt(M); a random walk looks like one of
#: fewer in nine of ten cases, in 3,000 synthetic dipoles.
_FEWEST_TIMES = 5.0
#: Relaxation times at which what is refused widens the error of what is not by sqrt(2).
_SELECTION = 7.0
#: Relaxation times from which on the scatter of ten blocks says the error, and not the relaxation time.
_MANY_TIMES = 100.0
#: What relaxes within 1/200 of the longest trajectory, as a share of ½⟨|ΔM|²⟩ there: tried in the fit of a relaxation
#: time, and in that of the slowest part, which ions among fast dipoles move without end.
_COARSE_SHARES = (0.0, 0.3, 0.6, 0.9)
_FAST_SHARES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.94, 0.97, 0.985)
#: Share of a current's power above 0.7 of Nyquist's wavenumber from which on there is a warning.
_FAST_SHARE = 0.02


def static_dielectric_constant(
    dipoles: Sequence[Floats], temperature: Each, volume: Each, epsilon_infinity: float, blocks: int = MOST_BLOCKS
) -> tuple[float, float]:
    """ε_0 = ε_∞ + (⟨M²⟩ − ⟨M⟩²)/(3 ε0 V kT), corrected for the length of the trajectories, and its error.

    The variance about a trajectory's own mean is too small by the factor 1 − (2τ/T)(1 − (1 − e^(−T/τ)) τ/T). τ comes
    from ½⟨|M(s + t) − M(s)|²⟩, which needs no mean: c + a (1 − e^(−t/τ)) is fitted to it for t up to T/2.

    Args:
        dipoles: (T, 3) e·Å of each trajectory, without jumps (see `dipole_from_current`).
        temperature: K, one for all trajectories or one for each.
        volume: Å³, likewise.
        epsilon_infinity: ε_∞.
        blocks: blocks of each trajectory, where it is much longer than the relaxation.

    Returns:
        ε_0 and half the width of its 68 % interval: sqrt(2τ/(3 T)) over the factor above, relative to the fluctuation,
        and wider where T is below some 15 τ; from the scatter of blocks (Student's t) where T is above 100 τ.

    Raises:
        ConfigError: ε_∞ below 1, a temperature or a volume that is not above 0.
        DataError: fewer than 40 frames, or a dipole that does not level off: mobile ions, or too short a trajectory.

    Source: theory 11.5; M. Neumann, Mol. Phys. 50, 841 (1983): tinfoil boundary.
    """
    if not 1 <= epsilon_infinity < float("inf"):
        raise ConfigError(f"ε_∞ is {epsilon_infinity}; allowed: a number of at least 1")
    check_series(dipoles, "dipole")
    check_blocks(blocks, MOST_BLOCKS)
    kelvin, size = (
        each_of(value, len(dipoles), name) for value, name in ((temperature, "temperature"), (volume, "volume"))
    )
    shortest = min(len(values) for values in dipoles)
    if shortest < 40:
        raise DataError(f"a trajectory of {shortest} frames is too short for a dielectric constant: 40 at least")
    scales = 1.0 / np.sqrt(3.0 * VACUUM_PERMITTIVITY * size * BOLTZMANN * kelvin)
    scaled = [scale * (values - values.mean(0)) for scale, values in zip(scales, dipoles, strict=True)]
    lengths = np.array([len(values) for values in scaled])
    own = np.array([(values**2).sum(1).mean() for values in scaled])
    if not own.any():
        return float(epsilon_infinity), 0.0
    time = _relaxation_time(scaled)
    _check_levels_off(scaled, own, lengths, time, _relaxation_time(scaled, _FAST_SHARES))
    if lengths.min() > _MANY_TIMES * time:
        parts, weights = list[float](), list[int]()
        for values in scaled:
            for part in np.array_split(values, blocks):
                parts.append(((part - part.mean(0)) ** 2).sum(1).mean() / _kept(len(part) / time))
                weights.append(len(part))
        spread = mean_and_error(np.array(parts), weights)[1]
        if spread is not None:
            return float(epsilon_infinity + _pooled(own, lengths, time)), float(spread)
    fluctuation = _pooled(own, lengths, time)
    kept = (lengths * _kept(lengths / time)).sum() / lengths.sum()
    error = fluctuation * np.sqrt(2.0 * time / (3.0 * lengths.sum())) / kept
    # of short trajectories those pass as levelling off that look longer than they are, and their values are too small
    error *= np.hypot(1.0, _SELECTION * time / (float(lengths.max()) * np.sqrt(len(lengths))))
    return float(epsilon_infinity + fluctuation), float(error)


def dipole_from_current(current: Floats, interval: float) -> Floats:
    """∫ J dt (T, 3) e·Å, zero at the start: the dipole of a periodic structure without branches.

    The recorded dipole of a periodic structure depends on which images its atoms started in, and charges that fluctuate
    make that a noise; the integral of J = dP/dt does not (`sampling.integrated`).

    Warns:
        LesPluginsWarning: more than 2 % of the current's power lies above 0.7 of Nyquist's wavenumber.

    Source: theory 11.5.
    """
    check_series([current], "current")
    if len(current) < 8:
        raise DataError(f"{len(current)} frames of a current; its integral needs at least 8")
    power = (np.abs(np.fft.rfft(current - current.mean(0), axis=0)) ** 2).sum(1)
    share = float(power[round(0.7 * (len(power) - 1)) :].sum() / power.sum()) if power.sum() > 0 else 0.0
    if share > _FAST_SHARE:
        warnings.warn(
            f"{share:.0%} of the current's power lies near or above the highest wavenumber that frames {interval:g} fs "
            "apart can show: record frames more often (md --every)",
            LesPluginsWarning,
            stacklevel=2,
        )
    return integrated(current, interval)


def _kept(times: Floats | float) -> Floats:
    """What the variance about its own mean keeps of the true one, for so many relaxation times of exponential decay."""
    count = np.asarray(times, dtype=float)
    kept: Floats = 1.0 - 2.0 / count * (1.0 + np.expm1(-count) / count)
    return kept


def _pooled(own: Floats, lengths: Floats, time: float) -> float:
    return float((lengths * own).sum() / (lengths * _kept(lengths / time)).sum())


def _relaxation_time(scaled: Sequence[Floats], shares: tuple[float, ...] = _COARSE_SHARES) -> float:
    """τ in frames, from ½⟨|M(s + t) − M(s)|²⟩ ≈ c + a (1 − e^(−t/τ)), 0 ≤ c, all trajectories together."""
    longest = max(len(values) for values in scaled)
    lags = np.unique(np.round(np.geomspace(max(longest / 200.0, 1.0), longest // 2, 20)).astype(int))
    rise = np.zeros(len(lags))
    for place, lag in enumerate(lags):
        used = [values for values in scaled if len(values) >= 2 * lag]
        pairs = [0.5 * ((values[lag:] - values[:-lag]) ** 2).sum(1) for values in used]
        rise[place] = np.concatenate(pairs).mean()
    if not rise.all():
        return 1.0  # it repeats itself exactly
    times = np.geomspace(longest / 400.0, 3.0 * longest, 200)
    weights = (1.0 / lags) / (1.0 / lags).sum()  # of few independent pairs, long times are known badly
    best = (np.inf, float(times[0]))
    for offset in shares:
        left = np.log(np.maximum(rise - offset * rise[0], 1e-300))
        form = np.log(-np.expm1(-lags[:, None] / times))
        apart = left[:, None] - form
        found = (weights[:, None] * (apart - weights @ apart) ** 2 * (1.0 - offset * rise[0] / rise[:, None]) ** 2).sum(
            0
        )
        if found.min() < best[0]:
            best = (float(found.min()), float(times[found.argmin()]))
    return best[1]


def _check_levels_off(scaled: Sequence[Floats], own: Floats, lengths: Floats, time: float, slowest: float) -> None:
    """DataError where the variance goes on growing with the length of the trajectory."""
    count, times = len(scaled), float(lengths.max()) / time
    halves = [half - half.mean(0) for values in scaled for half in np.array_split(values, 2)]
    within = sum(float((half**2).sum()) for half in halves) / lengths.sum()
    whole = float((lengths * own).sum() / lengths.sum())
    expected = (lengths * _kept(lengths / time)).sum() / (lengths * _kept(0.5 * lengths / time)).sum()
    growth = whole / within / expected if within > 0 else np.inf
    # 1.65 τ/T is the scatter of that ratio for one trajectory of T = 5 … 50 τ, in 3,000 synthetic dipoles
    fewest = max(_FEWEST_TIMES / np.sqrt(count), 2.5)
    if times < fewest or lengths.max() < fewest * slowest or np.log(growth) > max(5.0 / times / np.sqrt(count), 0.1):
        raise DataError(
            f"the dipole does not level off: its variance is {whole / within:.2f} times that within halves of the "
            f"trajectories, and its relaxation time is {max(time, slowest) / lengths.max():.2g} of the longest one. "
            "Where ions move freely there is no static dielectric constant (see the conductivity); otherwise simulate "
            "longer, at least ten relaxation times"
        )
