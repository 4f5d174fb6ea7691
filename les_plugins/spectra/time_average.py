"""Slopes of mean squared displacements over all pairs of frames, with errors by a block jackknife (T-MSD)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra.estimate import check_blocks, check_series, student


@dataclass(frozen=True)
class TimeAverage:
    """Slope of a mean squared displacement that uses every pair of frames.

    Attributes:
        slope: of the straight line, displacement² per unit of time.
        error: half a 68 % interval, by leaving out the starts of one block at a time; None with one block.
        time: (M,) of the line, and displacement: (M,), mean squared.
        blocks: how many.
    """

    slope: float
    error: float | None
    time: Floats
    displacement: Floats
    blocks: int


def time_averaged_slope(
    series: Sequence[Floats], interval: float, shortest: float, longest: float, blocks: int | Sequence[int] = 10
) -> TimeAverage:
    """Slope of ⟨|x(s + t) − x(s)|²⟩ between two times, averaged over all starts s of each trajectory.

    Unlike a mean over blocks, pairs across the borders of blocks count, so that lines may be as long as half a
    trajectory. Its error is that of a jackknife: the starts of one block are left out, each block in turn.

    Args:
        series: (T, N, C) of each trajectory: N walkers that are averaged over, C components that are summed.
        interval: between frames.
        shortest, longest: of the line, in the unit of `interval`.
        blocks: of each trajectory, one number for all or one for each.

    Raises:
        ConfigError: times that are not possible, fewer than one block.
        DataError: a trajectory shorter than twice the longest time, values that are not finite.

    Source: the combination is that of arXiv 2503.04281, by its abstract; M. H. Quenouille, Biometrika 43, 353 (1956).
    """
    check_series(series, "series")
    count = [blocks] * len(series) if isinstance(blocks, int) else list(blocks)
    for one in count:
        check_blocks(one, 1)
    if not 0 < interval <= shortest < longest < float("inf"):
        raise ConfigError(f"times from {shortest} to {longest}; allowed: at least one interval of {interval}, rising")
    lags = np.arange(round(shortest / interval), round(longest / interval) + 1)
    if len(lags) < 2:
        raise ConfigError(f"times from {shortest} to {longest}; allowed: at least one interval of {interval} apart")
    sums, counts = list[Floats](), list[Floats]()
    for values, parts in zip(series, count, strict=True):
        if len(values) < 2 * lags[-1]:
            raise DataError(
                f"a trajectory of {len(values) * interval:.3g} is shorter than twice the longest time of {longest:.3g}"
            )
        found = _of_starts(values, lags, parts)
        sums += list(found[0])
        counts += list(found[1])
    total, pairs = np.sum(sums, axis=0), np.sum(counts, axis=0)
    time: Floats = interval * lags.astype(np.float64)
    curve = total / pairs
    error = None
    if len(sums) > 1:
        left_out = [np.polyfit(time, (total - s) / (pairs - c), 1)[0] for s, c in zip(sums, counts, strict=True)]
        spread = float(np.sqrt((len(sums) - 1) * np.var(left_out)))
        error = float(student(len(sums) - 1) * spread)
    return TimeAverage(float(np.polyfit(time, curve, 1)[0]), error, time, curve, len(sums))


def _of_starts(values: Floats, lags: np.ndarray, blocks: int) -> tuple[Floats, Floats]:
    """(blocks, lags) sums of squared displacements, mean over walkers, and numbers of pairs, by block of the start."""
    length = len(values)
    edges = np.linspace(0, length, blocks + 1).astype(int)
    sums, counts = np.zeros((blocks, len(lags))), np.zeros((blocks, len(lags)))
    for place, lag in enumerate(lags):
        squares = np.square(values[lag:] - values[: length - lag]).sum(-1).mean(1)
        running = np.concatenate([[0.0], np.cumsum(squares)])
        ends = np.minimum(edges, length - lag)
        sums[:, place], counts[:, place] = np.diff(running[ends]), np.diff(ends)
    return sums, counts
