"""Errors of a committee beside the spread of its members."""

from __future__ import annotations

import numpy as np
import pytest

from les_plugins.data.calibration import BINS, Calibration
from les_plugins.plots.calibration import calibration_plot


def drawn(scale: float, count: int = 4000) -> Calibration:
    """Errors from normal distributions whose widths are `scale` times a spread that differs between values."""
    random = np.random.default_rng(0)
    spread = np.exp(random.normal(size=(count, 3)))
    spread[:] = spread[:, :1]
    return Calibration.of("forces", np.zeros((count, 3)), scale * spread * random.normal(size=(count, 3)), spread)


def test_the_factor_is_what_the_spread_lacks() -> None:
    assert drawn(1.0).factor == pytest.approx(1.0, abs=0.1)  # a log-normal spread: few values carry the sum
    assert drawn(3.0).factor == pytest.approx(3.0 * drawn(1.0).factor, rel=1e-12)


def test_bins_follow_the_line_where_the_spread_is_right() -> None:
    spreads, errors = drawn(1.0).bins()
    assert len(spreads) == BINS
    assert (np.diff(spreads) > 0).all()
    np.testing.assert_allclose(errors, spreads, rtol=0.1)  # 400 values of three components in each


def test_rank_correlation_is_nothing_for_spread_that_tells_nothing() -> None:
    random = np.random.default_rng(1)
    unrelated = Calibration("forces", random.random(2000), random.random(2000))
    assert abs(unrelated.rank_correlation) < 0.1  # 4.5 standard errors of 2,000 pairs
    assert drawn(1.0).rank_correlation > 0.5
    assert Calibration("energy", np.ones(2), np.ones(2)).rank_correlation is None
    assert Calibration("energy", np.ones(2), np.zeros(2)).factor is None


def test_plot_is_a_picture(tmp_path: object) -> None:
    from pathlib import Path

    path = calibration_plot(drawn(1.0, 50), Path(str(tmp_path)) / "spread.png", "toy")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
