"""Parity plots of an evaluation, one PNG a quantity, coloured by element. Needs the extra `plot`."""

from __future__ import annotations

import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from les_plugins.data.evaluation import Comparison, Evaluation, Quantity
from les_plugins.data.labels import BORN
from les_plugins.data.metrics import Errors, Floats, errors
from les_plugins.errors import HostError, how_to_install
from les_plugins.io.files import make_folder, whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from les_plugins.crystals.bands import Bands

#: The usual colours of the common elements, dark enough for white paper and told apart by colour-blind eyes.
_ELEMENT_COLOURS = {"H": "#4aa3d9", "C": "#333333", "N": "#7b3fa0", "O": "#d55e00", "F": "#009e73", "S": "#c9a800"}
_OTHER_COLOURS = ("#cc79a7", "#e69f00", "#009e73", "#0072b2", "#7b3fa0", "#8c564b", "#999933")
_SINGLE_COLOUR = "#0072b2"
#: Of every figure.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "mathtext.fontset": "dejavusans",
    # of layout="constrained", inches: a title that touches the edge looks cut
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.06,
}
#: Points below which a plot has neither the line of parity nor R²: both say little of so few.
_FEWEST = 20
#: Inches of one square panel and of bands with their density of states, and dots per inch.
_PANEL, _WIDE, _DPI = 3.3, 5.28, 300
#: Inches that a character of a title takes, on average.
_CHARACTER = 0.062
#: Room around the data, as a fraction of its range.
_MARGIN = 0.06
#: The axes take the unit of the errors (meV) while no number on them is larger than this.
_LARGEST_ON_AXIS = 500.0
#: Below this spread of the references over that of the predictions a scatter would be a blob: a histogram is drawn.
_CONSTANT = 0.02
#: Where the errors are written: x and y in the axes, horizontal and vertical alignment.
_TEXT_PLACES = {"lower right": (0.96, 0.05, "right", "bottom"), "upper left": (0.04, 0.95, "left", "top")}


def check_available() -> None:
    """HostError where matplotlib is missing, with the command that installs it."""
    if find_spec("matplotlib") is None:
        raise HostError(f"plots need matplotlib, which is not installed: {how_to_install('plot')}")


def fitted(title: str, inches: float) -> str:
    """A title in as many lines as keep it within a width: names of checkpoints may be long."""
    most = max(int(0.92 * inches / _CHARACTER), 12)
    return "\n".join(line for part in title.splitlines() for line in textwrap.wrap(part, most))


def parity_plots(evaluation: Evaluation, folder: Path, prefix: str = "", model: str = "") -> list[Path]:
    """Write `<prefix><quantity>.png` for every quantity that was compared.

    Args:
        evaluation: result of `evaluation.evaluate`.
        folder: where to write them; made if needed.
        prefix: of the names.
        model: its name, for the titles.

    Returns:
        The files, in the order of the quantities.

    Raises:
        HostError: matplotlib is missing.
        DataError: the folder cannot be written to.
    """
    check_available()
    make_folder(folder)
    counted = f"{evaluation.frames:,} {'frame' if evaluation.frames == 1 else 'frames'}"
    return [
        parity_plot(comparison, folder / f"{prefix}{name}.png", f"{model}, {counted}" if model else counted)
        for name, comparison in evaluation.comparisons.items()
    ]


def parity_plot(comparison: Comparison, path: Path, caption: str = "") -> Path:
    """Predicted against reference values of one quantity; Born charges in two panels, diagonal and off-diagonal.

    Where all references are alike, as of an element's charge that a file has as one number, the predictions are
    counted in a histogram.

    Args:
        comparison: the values.
        path: PNG file to write.
        caption: model and frames, in the title beside the number of values.

    Returns:
        The file.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels: list[tuple[str, NDArray[np.bool_]]] = [("", np.ones(comparison.reference.shape, dtype=bool))]
    if comparison.name == BORN and comparison.diagonal is not None:
        panels = [("diagonal", comparison.diagonal), ("off-diagonal", ~comparison.diagonal)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_PANEL * len(panels), _PANEL), dpi=_DPI, layout="constrained")
        for axes, (title, chosen) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            if chosen.any():
                _draw(axes, comparison, chosen, title, caption)
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")
    return path


def band_plot(bands: Bands, density: tuple[Floats, Floats], path: Path, title: str = "") -> Path:
    """Phonon bands with and without the term of Z*, and the density of states beside them.

    Args:
        bands: as of `phonons.bands`.
        density: frequencies, THz, and density of states, 1/THz.
        path: PNG file to write.
        title: over the bands.

    Returns:
        The file.

    Raises:
        HostError: matplotlib is missing.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDE, _PANEL), dpi=_DPI, layout="constrained")
        axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=[4, 1])
        sets: list[tuple[list[Floats], dict[str, Any]]] = [(bands.bare, {"color": _SINGLE_COLOUR, "label": "no Z*"})]
        if bands.corrected is not None:
            sets[0][1].update(color="0.6", linestyle="--")
            sets.append((bands.corrected, {"color": _SINGLE_COLOUR, "label": "Z* and ε$_∞$"}))
        for segments, look in sets:
            for distances, values in zip(bands.distances, segments, strict=True):
                lines = axes.plot(distances, values, linewidth=0.8, **{**look, "label": None})
            lines[0].set_label(look["label"])
        ticks, names = _kinks(bands)
        for tick in ticks:
            axes.axvline(tick, color="0.8", linewidth=0.5, zorder=0)
        axes.axhline(0.0, color="0.8", linewidth=0.5, zorder=0)
        axes.set_xticks(ticks, names, minor=False)
        axes.tick_params(axis="x", which="minor", bottom=False, top=False)
        drawn = np.concatenate([values.ravel() for segments, _ in sets for values in segments])
        low, high = _limits(drawn, drawn)
        axes.set(xlim=(ticks[0], ticks[-1]), ylim=(low, high), ylabel="frequency (THz)")
        if bands.corrected is not None:
            axes.legend(loc="upper right", framealpha=0.7, edgecolor="none").set_zorder(4)
        beside.plot(density[1], density[0], color=_SINGLE_COLOUR, linewidth=0.8)
        beside.set(xlabel="DOS (1/THz)", xlim=(0.0, None))
        axes.set_title(fitted(title, 0.7 * _WIDE), fontsize="medium")
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")
    return path


def _kinks(bands: Bands) -> tuple[list[float], list[str]]:
    """Where the segments meet and what stands there: "X|K" where the path jumps."""
    names = iter(bands.labels)
    ticks, shown = [float(bands.distances[0][0])], [next(names)]
    for number, (distances, connected) in enumerate(zip(bands.distances, bands.connected, strict=True)):
        ticks.append(float(distances[-1]))
        end = next(names)
        shown.append(end if connected or number == len(bands.connected) - 1 else f"{end}|{next(names)}")
    return ticks, shown


def _draw(axes: Axes, comparison: Comparison, chosen: NDArray[np.bool_], title: str, caption: str = "") -> None:
    from matplotlib.ticker import AutoMinorLocator, MaxNLocator

    quantity = comparison.quantity
    reference, predicted = comparison.reference[chosen], comparison.predicted[chosen]
    elements = None if comparison.elements is None else comparison.elements[chosen]
    zero = _axis_zero(reference, predicted)
    largest = max(np.abs(reference - zero).max(), np.abs(predicted - zero).max()) * quantity.shown_factor
    factor, unit = (quantity.shown_factor, quantity.shown_unit) if largest < _LARGEST_ON_AXIS else (1.0, quantity.unit)
    x, y = factor * (reference - zero), factor * (predicted - zero)

    name = f"{quantity.title}, {title}" if title else quantity.title
    counted = f"{len(x):,} values"
    title = f"{name}\n{caption}, {counted}" if caption else f"{name}\n{counted}"
    axes.set_title(fitted(title, _PANEL), fontsize="medium")
    if len(x) >= _FEWEST and x.std() < _CONSTANT * y.std():
        _histogram(axes, x, y, quantity.symbol, unit)
        return

    low, high = _limits(x, y)
    if len(x) >= _FEWEST:
        axes.plot([low, high], [low, high], color="0.55", linewidth=0.7, zorder=1)
    _scatter(axes, x, y, elements)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    shift = f" {'+' if zero < 0 else '−'} {abs(zero):.2f} {quantity.unit}" if zero else ""
    axes.set_xlabel(f"reference {quantity.symbol}{shift} ({unit})")
    axes.set_ylabel(f"predicted {quantity.symbol}{shift} ({unit})")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=4, steps=[1, 2, 5, 10]))
        axis.set_minor_locator(AutoMinorLocator(2))

    errors_at, legend_at = _corners(x, y, low, high)
    left, up, across, along = _TEXT_PLACES[errors_at]
    text = _summary(errors(reference, predicted), quantity.shown_factor, quantity.shown_unit)
    place: Any = {"transform": axes.transAxes, "ha": across, "va": along, "zorder": 4, "linespacing": 1.4}
    axes.text(left, up, text, bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5}, **place)
    if elements is not None:
        _legend(axes, reference, predicted, elements, quantity, legend_at)


def _histogram(axes: Axes, reference: Floats, predicted: Floats, symbol: str, unit: str) -> None:
    """Distribution of the predictions, and the one value of the references as a line."""
    axes.hist(predicted, bins=40, color=_SINGLE_COLOUR, alpha=0.6, linewidth=0)
    axes.axvline(reference.mean(), color="0.25", linewidth=1.0, linestyle="--", label="reference")
    axes.set(xlabel=f"predicted {symbol} ({unit})", ylabel="values")
    axes.legend(frameon=False)


def _scatter(axes: Axes, reference: Floats, predicted: Floats, elements: NDArray[Any] | None) -> None:
    """All points in random order, so that no element lies on top of another."""
    count = len(reference)
    size, alpha = float(np.clip(1.6e4 / count, 1.8, 14.0)), float(np.clip(3e3 / count, 0.3, 0.85))
    order = np.random.default_rng(0).permutation(count)
    if elements is None:
        colours: Any = _SINGLE_COLOUR
    else:
        of_element = _colours(elements)
        palette = np.array([of_element.get(z, _SINGLE_COLOUR) for z in range(int(elements.max()) + 1)])
        colours = palette[elements.astype(int)[order]].tolist()
    axes.scatter(reference[order], predicted[order], s=size, c=colours, alpha=alpha, linewidths=0, zorder=2)


def _legend(
    axes: Axes, reference: Floats, predicted: Floats, elements: NDArray[Any], quantity: Quantity, corner: Any
) -> None:
    """Element, its colour and its RMSE."""
    for z, colour in _colours(elements).items():
        rmse = quantity.shown_factor * errors(reference[elements == z], predicted[elements == z]).rmse
        axes.scatter([], [], s=12, c=colour, linewidths=0, label=f"{chemical_symbols[z]}  {_short(rmse)}")
    axes.legend(
        loc=corner,
        title=f"RMSE ({quantity.shown_unit})",
        alignment="left",
        frameon=True,
        framealpha=0.7,
        edgecolor="none",
        handletextpad=0.1,
        borderpad=0.2,
        labelspacing=0.3,
    ).set_zorder(4)


def _corners(reference: Floats, predicted: Floats, low: float, high: float) -> tuple[str, str]:
    """Corners for the errors and for the legend: off the diagonal, the errors where fewer points lie."""
    x, y = ((values - low) / (high - low) for values in (reference, predicted))
    below = np.count_nonzero((x > 0.6) & (y < 0.25))
    above = np.count_nonzero((x < 0.4) & (y > 0.75))
    return ("lower right", "upper left") if below <= above else ("upper left", "lower right")


def _colours(elements: NDArray[Any]) -> dict[int, str]:
    """Colour by atomic number, in the order of atomic numbers."""
    numbers = [int(z) for z in np.unique(elements)]
    own = {z: _ELEMENT_COLOURS[chemical_symbols[z]] for z in numbers if chemical_symbols[z] in _ELEMENT_COLOURS}
    free = [colour for colour in _OTHER_COLOURS if colour not in own.values()]
    others = [z for z in numbers if z not in own]
    chosen = own | {z: free[place % len(free)] for place, z in enumerate(others)}
    return {z: chosen[z] for z in numbers}


def _axis_zero(reference: Floats, predicted: Floats) -> float:
    """What is taken off both axes so that their numbers stay short: zero, but for values far from it."""
    low, high = min(reference.min(), predicted.min()), max(reference.max(), predicted.max())
    return round(float(reference.mean()), 2) if min(abs(low), abs(high)) > 5 * (high - low) else 0.0


def _limits(reference: Floats, predicted: Floats) -> tuple[float, float]:
    low, high = min(reference.min(), predicted.min()), max(reference.max(), predicted.max())
    room = _MARGIN * float(high - low) or 1.0
    return float(low) - room, float(high) + room


def _summary(found: Errors, factor: float, unit: str) -> str:
    lines = [f"RMSE = {_short(factor * found.rmse)} {unit}", f"MAE = {_short(factor * found.mae)} {unit}"]
    if found.count < _FEWEST:
        lines.append(f"{found.count} {'point' if found.count == 1 else 'points'}")
    elif found.r2 is not None:
        lines.append(f"$R^2 = {found.r2:.3f}$" if found.r2 > -10 else "$R^2 < -10$")
    return "\n".join(lines)


def _short(value: float) -> str:
    """Three significant digits, without powers of ten where there is room."""
    return f"{value:.0f}" if 1e3 <= value < 1e6 else f"{value:#.3g}".rstrip(".")
