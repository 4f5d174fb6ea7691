"""Spectra and curves as CSV and PNG, with an experimental curve over them where one is given."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import DataError
from les_plugins.io.files import whole_file
from les_plugins.plots.plotting import STYLE, check_available, fitted

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7b3fa0", "#8c564b")
#: Of the curves in their order: one that lies on an earlier one lets it through.
_DASHES: tuple[Any, ...] = ("-", (0, (5.0, 1.5)), (0, (2.5, 1.5)), (0, (5.0, 1.5, 1.0, 1.5)), (0, (1.0, 1.0)))
#: Inches, and dots per inch.
_SIZE, _DPI = (5.0, 3.2), 300
#: Characters of the longest label in a legend of two columns.
_WIDEST = 40


@dataclass(frozen=True)
class Curve:
    """One line of a figure with its error band.

    Attributes:
        label: in legend and CSV.
        x, y: (M,).
        error: (M,) or None.
        model_error: (M,) or None; a second, lighter band.
    """

    label: str
    x: Floats
    y: Floats
    error: Floats | None = None
    model_error: Floats | None = None

    def columns(self) -> list[tuple[str, Floats]]:
        """Values and errors with their names."""
        named = [(self.label, self.y), (f"error of {self.label}", self.error)]
        named.append((f"model error of {self.label}", self.model_error))
        return [(name, values) for name, values in named if values is not None]


def read_curve(path: Path) -> Curve:
    """Two columns of a CSV file, x and y, separated by commas, semicolons or blanks; lines of words are left out.

    Raises:
        DataError: no such file, or fewer than two points in it.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not a text file in UTF-8; a curve needs two columns, x and y") from None
    points = []
    for line in text.splitlines():
        words = line.replace(",", " ").replace(";", " ").split()
        try:
            points.append((float(words[0]), float(words[1])))
        except (ValueError, IndexError):
            continue
    if len(points) < 2:
        raise DataError(f"{path}: holds {len(points)} lines with two numbers; a curve needs two columns, x and y")
    x, y = np.array(points).T
    if not np.isfinite([x, y]).all():
        raise DataError(f"{path}: holds NaN or infinity")
    order = np.argsort(x)
    return Curve(path.stem, x[order], y[order])


def binned(curve: Curve, most: int = 200) -> Curve:
    """At most `most` means over equal stretches of a curve, with the standard deviation within each as the error."""
    width = -(-len(curve.x) // most)
    if width < 2:
        return curve
    starts = range(0, len(curve.x), width)
    x, y, error = (
        np.array([take(values[start : start + width]) for start in starts])
        for take, values in ((np.mean, curve.x), (np.mean, curve.y), (np.std, curve.y))
    )
    return Curve(f"{curve.label}, means of {width} frames", x, y, error)


def write_csv(path: Path, x_name: str, curves: Sequence[Curve], notes: Mapping[str, Any]) -> None:
    """Curves that share their x as columns, each with its error; notes in lines that begin with #.

    Raises:
        DataError: the file cannot be written.
    """
    with whole_file(path, newline="") as file:
        for name, value in notes.items():
            file.write(f"# {name}: {value}\n")
        writer = csv.writer(file)
        columns = [(x_name, curves[0].x), *(column for curve in curves for column in curve.columns())]
        writer.writerow([name for name, _ in columns])
        numbers = zip(*(values for _, values in columns), strict=True)
        writer.writerows([f"{number:.8g}" for number in row] for row in numbers)


def plot(
    path: Path,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    limits: tuple[float, float] | None = None,
    title: str = "",
    reference: Curve | None = None,
    scale_reference: bool = False,
    marks: Sequence[float] = (),
    marks_label: str = "",
    resolution: float | None = None,
) -> None:
    """Curves with their error bands to a PNG file.

    Args:
        path: the file.
        curves: what was computed.
        x_label, y_label: with units.
        limits: of x.
        title: over the axes.
        reference: a measured curve, dashed.
        scale_reference: give it the height of the first curve, for spectra in arbitrary units.
        marks: positions on the x axis, such as those of measured bands: dotted lines.
        marks_label: what they are, for the legend.
        resolution: drawn as a bar of that length, in the unit of x.

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
        for curve, colour, dashes in zip(curves, cycle(_COLOURS), cycle(_DASHES), strict=False):
            axes.plot(curve.x, curve.y, color=colour, linestyle=dashes, linewidth=1.0, label=curve.label, zorder=3)
            for width, alpha in ((curve.error, 0.35), (curve.model_error, 0.15)):
                if width is not None:
                    low, high = curve.y - width, curve.y + width
                    axes.fill_between(curve.x, low, high, color=colour, alpha=alpha, linewidth=0, zorder=2)
        inside = limits or (min(curve.x.min() for curve in curves), max(curve.x.max() for curve in curves))
        if reference is not None:
            height, label = reference.y, f"{reference.label} (measured)"
            if scale_reference:
                shown = height[(reference.x >= inside[0]) & (reference.x <= inside[1])]
                height = height * (curves[0].y.max() / shown.max() if len(shown) and shown.max() > 0 else 1.0)
                label += ", scaled"
            axes.plot(reference.x, height, color="0.25", linewidth=1.0, linestyle="--", label=label, zorder=4)
        for place, mark in enumerate(marks):
            first = marks_label if marks_label and not place else None
            axes.axvline(mark, color="0.25", linewidth=0.8, linestyle=":", zorder=1, label=first)
        if resolution is not None:
            _bar(axes, inside, resolution)
        axes.axhline(0.0, color="0.7", linewidth=0.6, zorder=1)
        axes.set(xlim=inside, xlabel=x_label, ylabel=y_label)
        axes.ticklabel_format(axis="y", scilimits=(-2, 4), useMathText=True)
        if title:
            axes.set_title(fitted(title, _SIZE[0]), fontsize="medium")
        if len(curves) > 1 or reference is not None or (marks and marks_label):
            # beside the axes: within them it would lie on a band of some spectrum
            longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
            figure.legend(frameon=False, loc="outside lower center", ncols=2 if longest <= _WIDEST else 1)
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")


def _bar(axes: Any, inside: tuple[float, float], resolution: float) -> None:
    """A bar as long as the resolution, in the upper left corner."""
    left = inside[0] + 0.04 * (inside[1] - inside[0])
    height = axes.get_xaxis_transform()
    axes.plot(
        [left, left + resolution], [0.93, 0.93], color="0.25", linewidth=1.5, transform=height, solid_capstyle="butt"
    )
    paper = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
    axes.text(left, 0.91, f"resolution {resolution:.0f} cm⁻¹", transform=height, ha="left", va="top", bbox=paper)
