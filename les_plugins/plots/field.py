"""A figure of polarization against field. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.io.files import whole_file
from les_plugins.plots.plotting import STYLE, check_available, fitted
from les_plugins.plots.spectra import Curve
from les_plugins.units import VACUUM_PERMITTIVITY

_SIZE, _DPI = (4.2, 3.2), 200


class Response(Protocol):
    """What says P (M,) e/Å² at fields (M,) V/Å, as `spectra.field_response.Saturation`."""

    @property
    def at(self) -> Callable[[Floats], Floats]:
        """P of fields."""


def plot_polarization(
    path: Path, measured: Curve, fit: Response | None = None, susceptibility: float | None = None, title: str = ""
) -> None:
    """Points with error bars, the saturating fit and the linear response of the fluctuations to a PNG file.

    Args:
        path: the file.
        measured: P e/Å² against field V/Å.
        fit: or None.
        susceptibility: χ of the fluctuations, or None.
        title: over the axes.

    Raises:
        HostError: matplotlib is missing.
        DataError: the file cannot be written.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        error = np.nan_to_num(measured.error) if measured.error is not None else None
        style: dict[str, Any] = {
            "color": "#0072b2",
            "marker": "o",
            "linestyle": "none",
            "markersize": 4.0,
            "capsize": 2.5,
        }
        axes.errorbar(measured.x, measured.y, error, label="mean of the trajectories", zorder=3, **style)
        field = np.linspace(min(0.0, float(measured.x.min())), 1.05 * float(measured.x.max()), 200)
        if fit is not None:
            axes.plot(field, fit.at(field), color="#d55e00", linewidth=1.0, label="fit, saturating", zorder=2)
        axes.autoscale(False)
        if susceptibility is not None:
            line = VACUUM_PERMITTIVITY * susceptibility * field
            axes.plot(field, line, color="0.25", linewidth=1.0, linestyle="--", label="fluctuations, linear", zorder=1)
        axes.set(xlabel="field (V/Å)", ylabel="polarization (e/Å²)")
        if title:
            axes.set_title(fitted(title, _SIZE[0]), fontsize="medium")
        figure.legend(frameon=False, loc="outside lower center", ncols=2)
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")
