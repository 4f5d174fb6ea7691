"""Slopes over all pairs of frames, and what their jackknife errors are worth."""

from __future__ import annotations

import numpy as np
import pytest

from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra import green_kubo
from les_plugins.spectra.time_average import time_averaged_slope
from les_plugins.units import BOLTZMANN, SIEMENS_PER_METRE


def walk(length: int, walkers: int, seed: int) -> np.ndarray:
    """Steps of variance 1 a component: the mean squared displacement is 3 an interval."""
    return np.cumsum(np.random.default_rng(seed).standard_normal((length, walkers, 3)), axis=0)


def test_a_straight_line_has_its_slope_and_no_error() -> None:
    moving = np.sqrt(np.arange(200.0))[:, None, None] * np.ones((1, 2, 1))
    pairs = [np.mean((moving[lag:] - moving[: 200 - lag])[:, 0, 0] ** 2) for lag in (5, 6)]
    found = time_averaged_slope([moving], 1.0, 5.0, 6.0, blocks=1)
    np.testing.assert_allclose(found.displacement, pairs, rtol=1e-12)
    assert found.slope == pytest.approx(pairs[1] - pairs[0], rel=1e-9)  # a difference of two numbers that are alike
    assert found.error is None


def test_every_pair_of_frames_counts_once_whatever_the_blocks() -> None:
    values = walk(300, 4, 0)
    slopes = [time_averaged_slope([values], 0.5, 2.0, 20.0, blocks).slope for blocks in (1, 3, 10)]
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-12)
    direct = np.mean((values[10:] - values[:-10]) ** 2) * 3
    curve = time_averaged_slope([values], 0.5, 2.0, 20.0, 3)
    assert curve.displacement[6] == pytest.approx(direct, rel=1e-12)  # lag 10, the seventh of 4 … 40


def test_error_bars_of_random_walks_cover_the_truth() -> None:
    """300 walks of 8 atoms; 68 % are meant, and starts in neighbouring blocks are not independent."""
    found = [time_averaged_slope([walk(1000, 8, seed)], 1.0, 5.0, 20.0, 10) for seed in range(300)]
    slopes = np.array([each.slope for each in found])
    assert slopes.mean() == pytest.approx(3.0, abs=4 * slopes.std() / np.sqrt(300))
    covered = np.mean([abs(each.slope - 3.0) < each.error for each in found])
    assert 0.58 < covered < 0.78  # 68 % less and more than three standard errors of 300 trials


@pytest.mark.parametrize("times", [4, 8, 20])
def test_error_bars_of_conductors_cover_the_truth(times: int) -> None:
    """200 white currents of `times` correlation times: 68 % are meant, and the shortest have two blocks."""
    truth = SIEMENS_PER_METRE / 3.0 * 1.5 / (1000.0 * BOLTZMANN * 300.0)
    found = []
    for seed in range(200):
        current = np.random.default_rng(seed).standard_normal((20 * times, 3))
        found.append(green_kubo([current], 1.0, 300.0, 1000.0, 20.0))
    for name in ("", "displacement_"):
        values = np.array([each[f"{name}conductivity"] for each in found])
        errors = np.array([each[f"{name}error"] for each in found])
        assert values.mean() == pytest.approx(truth, abs=4.0 * values.std() / np.sqrt(200))
        assert 0.54 < np.mean(np.abs(values - truth) < errors) < 0.78  # 64 % and three standard errors of 200 trials


def test_one_block_of_a_conductor_has_no_error_bar() -> None:
    found = green_kubo([np.random.default_rng(0).standard_normal((60, 3))], 1.0, 300.0, 1000.0, 20.0)
    assert (found["blocks"], found["error"], found["displacement_error"]) == (1, None, None)


def test_conductivity_of_white_currents_is_the_same_by_both_ways() -> None:
    random = np.random.default_rng(3)
    currents = [random.standard_normal((20000, 3)) for _ in range(2)]
    found = green_kubo(currents, 1.0, 300.0, 1000.0, 20.0, blocks=10)
    # ∫⟨J·J⟩ dt = 3/2 by the trapezoid rule, whose first step has half the variance; displacements have the whole
    expected = SIEMENS_PER_METRE / 3.0 * 1.5 / (1000.0 * BOLTZMANN * 300.0)
    assert found["displacement_conductivity"] == pytest.approx(expected, abs=3 * found["displacement_error"])
    assert found["displacement_error"] < 0.2 * expected


def test_impossible_times_are_refused() -> None:
    values = walk(100, 2, 0)
    for shortest, longest in ((0.0, 5.0), (5.0, 5.0), (6.0, 5.0), (5.0, float("inf"))):
        with pytest.raises(ConfigError):
            time_averaged_slope([values], 1.0, shortest, longest)
    with pytest.raises(DataError):
        time_averaged_slope([values], 1.0, 5.0, 60.0)
    with pytest.raises(ConfigError):
        time_averaged_slope([values], 1.0, 5.0, 20.0, blocks=0)
