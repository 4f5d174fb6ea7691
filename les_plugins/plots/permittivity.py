"""Transverse and longitudinal modes of a harmonic crystal: Im ε and Im(−1/ε), one PNG. Needs the extra `plot`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from les_plugins.crystals.permittivity import DAMPING, SOFT, Permittivity
from les_plugins.io.files import whole_file
from les_plugins.plots.plotting import STYLE, check_available, fitted

_WIDTH, _HEIGHT, _DPI = 4.6, 3.6, 300


def permittivity_plot(found: Permittivity, path: Path, title: str = "", damping: float = DAMPING) -> Path:
    """Im ε, whose peaks are transverse modes, above Im(−1/ε), whose peaks are longitudinal ones, along x, y and z.

    Args:
        found: of a crystal; drawn up to 1.8 times the mode below which 99 % of the static response lie.
        path: PNG file to write.
        title: over both panels.
        damping: cm⁻¹, of all modes.

    Returns:
        The file.

    Raises:
        HostError: matplotlib is missing.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    grid = np.linspace(0.0, highest := _highest(found), 2001)
    along = np.einsum("waa->wa", found.at(grid, damping))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), dpi=_DPI, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        for axis, colour in enumerate(("#0072b2", "#d55e00", "#009e73")):
            above.plot(grid, along[:, axis].imag, color=colour, linewidth=0.9, label="xyz"[axis])
            below.plot(grid, (-1.0 / along[:, axis]).imag, color=colour, linewidth=0.9)
        above.set(ylabel="Im ε", ylim=(0.0, None), xlim=(0.0, highest))
        below.set(ylabel="Im (−1/ε)", ylim=(0.0, None), xlabel="wavenumber (cm$^{-1}$)")
        above.set_title(fitted(title, _WIDTH), fontsize="medium")
        above.legend(loc="upper right", frameon=False, ncols=3)
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")
    return path


def _highest(found: Permittivity) -> float:
    """End of the axis, cm⁻¹."""
    stable = found.wavenumbers >= SOFT
    parts = np.einsum("maa,m->m", found.strengths[stable], found.wavenumbers[stable] ** -2.0)
    if not parts.sum() > 0.0:
        return 100.0
    return 1.8 * float(found.wavenumbers[stable][np.searchsorted(parts.cumsum(), 0.99 * parts.sum())])
