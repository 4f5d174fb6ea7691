"""Parity plots of an evaluation, one PNG a quantity, coloured by element. Needs the extra `les-plugins[plot]`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from les_plugins.errors import DataError, HostError
from les_plugins.evaluation import Comparison, Evaluation
from les_plugins.labels import BORN
from les_plugins.metrics import Errors, Floats, errors

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The usual colours of the common elements, dark enough for white paper and told apart by colour-blind eyes.
_ELEMENT_COLOURS = {"H": "#56789a", "C": "#333333", "N": "#0072b2", "O": "#d55e00", "F": "#009e73", "S": "#c9a800"}
_OTHER_COLOURS = ("#cc79a7", "#e69f00", "#009e73", "#0072b2", "#7b3fa0", "#8c564b", "#56b4e9", "#999933")
_SINGLE_COLOUR = "#0072b2"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "mathtext.fontset": "dejavusans",
}
#: Inches of one square panel, and dots per inch.
_PANEL, _DPI = 3.3, 300
#: Room around the data, as a fraction of its range.
_MARGIN = 0.05


def check_available() -> None:
    """HostError where matplotlib is missing, with the command that installs it."""
    if find_spec("matplotlib") is None:
        raise HostError("plots need matplotlib, which is not installed: pip install 'les-plugins[plot]'")


def parity_plots(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write `<quantity>.png` for every quantity that was compared.

    Args:
        evaluation: result of `evaluation.evaluate`.
        folder: where to write them; made if needed.

    Returns:
        The files, in the order of the quantities.

    Raises:
        HostError: matplotlib is missing.
        DataError: the folder cannot be written to.
    """
    check_available()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [parity_plot(comparison, folder / f"{name}.png") for name, comparison in evaluation.comparisons.items()]
    except OSError as error:
        raise DataError(f"{folder}: plots cannot be written: {error.strerror}") from None


def parity_plot(comparison: Comparison, path: Path) -> Path:
    """Predicted against reference values of one quantity; Born charges in two panels, diagonal and off-diagonal.

    Args:
        comparison: the values.
        path: PNG file to write.

    Returns:
        The file.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels: list[tuple[str, NDArray[np.bool_]]] = [("", np.ones(comparison.reference.shape, dtype=bool))]
    if comparison.name == BORN and comparison.diagonal is not None:
        panels = [("diagonal", comparison.diagonal), ("off-diagonal", ~comparison.diagonal)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_PANEL * len(panels), _PANEL), dpi=_DPI, layout="constrained")
        for axes, (title, chosen) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            if chosen.any():
                _draw(axes, comparison, chosen, title)
        figure.savefig(path, format="png")
    return path


def _draw(axes: Axes, comparison: Comparison, chosen: NDArray[np.bool_], title: str) -> None:
    quantity = comparison.quantity
    factor = _axis_factor(comparison)
    unit = quantity.unit if factor == 1 else quantity.shown_unit
    reference, predicted = factor * comparison.reference[chosen], factor * comparison.predicted[chosen]
    low, high = _limits(reference, predicted)
    axes.plot([low, high], [low, high], color="0.35", linewidth=0.8, zorder=1)
    elements = None if comparison.elements is None else comparison.elements[chosen]
    _scatter(axes, reference, predicted, elements)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"reference {quantity.symbol} ({unit})")
    axes.set_ylabel(f"predicted {quantity.symbol} ({unit})")
    axes.locator_params(nbins=5)
    axes.set_title(f"{quantity.title}, {title}" if title else quantity.title)
    overall = errors(comparison.reference[chosen], comparison.predicted[chosen])
    axes.text(
        0.96,
        0.05,
        _summary(overall, quantity.shown_factor, quantity.shown_unit),
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        linespacing=1.4,
        zorder=4,
    )


def _scatter(axes: Axes, reference: Floats, predicted: Floats, elements: NDArray[Any] | None) -> None:
    """All points in random order, so that no element lies on top of another; a legend names the elements."""
    size, alpha = float(np.clip(4e4 / len(reference), 2.0, 16.0)), float(np.clip(4e3 / len(reference), 0.25, 0.8))
    order = np.random.default_rng(0).permutation(len(reference))
    numbers = np.zeros(len(reference), dtype=int) if elements is None else elements.astype(int)
    present = [int(z) for z in np.unique(numbers)]
    colours = _colours(present)
    points = np.array([colours[int(z)] for z in numbers[order]], dtype=object)
    axes.scatter(reference[order], predicted[order], s=size, c=list(points), alpha=alpha, linewidths=0, zorder=2)
    if elements is None:
        return
    for z in present:
        axes.scatter([], [], s=16, c=colours[z], linewidths=0, label=chemical_symbols[z])
    axes.legend(loc="upper left", frameon=False, handletextpad=0.1, borderaxespad=0.3, labelspacing=0.3)


def _colours(numbers: list[int]) -> dict[int, str]:
    if numbers == [0]:
        return {0: _SINGLE_COLOUR}
    own = {z: _ELEMENT_COLOURS[chemical_symbols[z]] for z in numbers if chemical_symbols[z] in _ELEMENT_COLOURS}
    free = [colour for colour in _OTHER_COLOURS if colour not in own.values()]
    others = [z for z in numbers if z not in own]
    return own | {z: free[place % len(free)] for place, z in enumerate(others)}


def _axis_factor(comparison: Comparison) -> float:
    """The unit of the axes is that of the errors where the values themselves are small."""
    quantity = comparison.quantity
    return quantity.shown_factor if float(np.ptp(comparison.reference)) < 0.3 else 1.0


def _limits(reference: Floats, predicted: Floats) -> tuple[float, float]:
    low, high = min(reference.min(), predicted.min()), max(reference.max(), predicted.max())
    room = _MARGIN * float(high - low) or 1.0
    return float(low) - room, float(high) + room


def _summary(found: Errors, factor: float, unit: str) -> str:
    lines = [f"RMSE {factor * found.rmse:.3g} {unit}", f"MAE {factor * found.mae:.3g} {unit}"]
    if found.r2 is not None:
        lines.append(f"$R^2$ {found.r2:.3f}")
    return "\n".join(lines)
