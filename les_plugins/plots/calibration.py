"""Errors of a committee against the spread of its members, one PNG a quantity. Needs the extra `plot`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from les_plugins.data.calibration import Calibration
from les_plugins.data.evaluation import QUANTITIES
from les_plugins.io.files import whole_file
from les_plugins.plots.plotting import STYLE, check_available, fitted

#: Inches of the square panel, dots per inch.
_PANEL, _DPI = 3.3, 300


def calibration_plot(calibration: Calibration, path: Path, caption: str = "") -> Path:
    """Error against spread on logarithmic axes: a point a value, and the root mean squares of bins of equal count.

    Args:
        calibration: errors and spread; values without either are left out.
        path: PNG file to write.
        caption: model and frames.

    Returns:
        The file.

    Raises:
        HostError: matplotlib is missing.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    quantity = QUANTITIES[calibration.name]
    factor, unit = quantity.shown_factor, quantity.shown_unit
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_PANEL, _PANEL), dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        seen = (calibration.error > 0) & (calibration.spread > 0)
        error, spread = factor * calibration.error[seen], factor * calibration.spread[seen]
        size, alpha = float(np.clip(1.6e4 / max(len(error), 1), 1.8, 14.0)), 0.35
        axes.scatter(spread, error, s=size, c="#0072b2", alpha=alpha, linewidths=0, zorder=2)
        binned = [factor * values for values in calibration.bins()]
        axes.plot(*binned, "o-", color="#d55e00", markersize=3.5, linewidth=1.0, zorder=3, label="bins of equal count")
        if len(error):
            low, high = min(error.min(), spread.min()), max(error.max(), spread.max())
            axes.plot([low, high], [low, high], color="0.4", linewidth=0.8, zorder=1, label="error = spread")
        axes.set(xscale="log", yscale="log", xlabel=f"spread of the members ({unit})", ylabel=f"error ({unit})")
        number = f"{len(calibration.error):,} values"
        title = f"{quantity.title}\n{caption}, {number}" if caption else f"{quantity.title}\n{number}"
        axes.set_title(fitted(title, _PANEL), fontsize="medium")
        axes.legend(loc="upper left", frameon=True, framealpha=0.7, edgecolor="none")
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")
    return path
