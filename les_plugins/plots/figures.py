"""Figures of what a model holds: charges by element, and the parts of the energy along a curve. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from les_plugins.data.evaluation import predict
from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.io.files import whole_file
from les_plugins.plots.plotting import STYLE, check_available, fitted
from les_plugins.plots.spectra import Curve

_SIZE, _DPI = (4.2, 3.2), 300
#: Of the distribution of each element.
_BINS = 40
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7b3fa0", "#8c564b")


def charges_by_element(calculator: Any, frames: Iterable[Atoms], source: str = "frames") -> dict[str, Floats]:
    """Physical charges, e, of all atoms of each element.

    Raises:
        HostError: the model has no long-range part.
    """
    if "charges" not in calculator.implemented_properties:
        raise HostError("the model has no charges: it has no long-range part")
    found: dict[int, list[Floats]] = {}
    for number, atoms in enumerate(frames):
        charges = predict(calculator, atoms, ["charges"], f"{source}, frame {number}")["charges"]
        for z in np.unique(atoms.numbers):
            found.setdefault(int(z), []).append(charges[atoms.numbers == z])
    return {chemical_symbols[z]: np.concatenate(found[z]) for z in sorted(found)}


def plot_charges(path: Path, charges: dict[str, Floats], title: str = "") -> None:
    """Distribution of the charge of each element to a PNG file, `title` and the number of atoms above it.

    Raises:
        HostError: matplotlib is missing.
        DataError: the file cannot be written.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    every = np.concatenate(list(charges.values()))
    low, high = float(every.min()), float(every.max())
    room = 0.05 * (high - low) or 0.05
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        for place, (element, values) in enumerate(charges.items()):
            colour = _COLOURS[place % len(_COLOURS)]
            label = f"{element}  {values.mean():+.3f} ± {values.std():.3f}".replace("-", "−")
            # bins of its own: elements lie far apart, each within a narrow range
            reach = max(float(np.ptp(values)), 0.02 * room)
            edges = np.linspace(values.min() - 0.02 * reach, values.min() + 1.02 * reach, _BINS + 1)
            axes.hist(values, edges.tolist(), density=True, color=colour, alpha=0.6, label=label)
        axes.set(xlabel="charge (e)", ylabel="density (1/e)", xlim=(low - room, high + room))
        counted = f"{len(every):,} atoms"
        axes.set_title(fitted(f"{title}, {counted}" if title else counted, _SIZE[0]), fontsize="medium")
        axes.legend(frameon=False, title="mean ± standard deviation (e)", alignment="left")
        _save(figure, path)


def energy_parts(
    calculator: Any, frames: Iterable[Atoms], first: int, source: str = "frames"
) -> tuple[Floats, list[Curve]]:
    """Total, short-range and long-range energy of two fragments, each from its value at the largest distance.

    Args:
        calculator: ASE calculator, as of `les_plugins.load`.
        frames: structures with the atoms in one order.
        first: how many atoms belong to the first fragment.
        source: for messages.

    Returns:
        (M,) Å, distances of the centres of mass, rising, and the three curves in eV.

    Raises:
        DataError: fewer than two frames, frames with other atoms, a fragment without atoms.
    """
    distances, rows, numbers = [], [], None
    for number, atoms in enumerate(frames):
        if numbers is not None and not np.array_equal(numbers, atoms.numbers):
            raise DataError(f"{source}, frame {number}: has other atoms than frame 0")
        numbers = atoms.numbers
        if not 0 < first < len(atoms):
            raise ConfigError(f"the first fragment has {first} atoms of {len(atoms)}; both need at least one")
        centres = [atoms[part].get_center_of_mass() for part in (slice(None, first), slice(first, None))]
        distances.append(float(np.linalg.norm(centres[1] - centres[0])))
        names = ["energy", "short_range_energy", "long_range_energy"]
        values = predict(calculator, atoms, names, f"{source}, frame {number}")
        if missing := [name for name in names if name not in values]:
            raise HostError(f"the model does not give {', '.join(missing)}")
        rows.append([float(values[name]) for name in names])
    if len(rows) < 2:
        raise DataError(f"{source}: {len(rows)} frames; a curve needs at least two")
    order = np.argsort(distances)
    x, energies = np.array(distances)[order], np.array(rows)[order]
    energies = energies - energies[-1]
    labels = ("total", "short range", "long range")
    return x, [Curve(label, x, energies[:, place]) for place, label in enumerate(labels)]


def plot_energy_parts(path: Path, curves: list[Curve], title: str = "") -> None:
    """The three curves of `energy_parts` to a PNG file; the total is a wide line, so that a part on it is seen.

    Raises:
        HostError: matplotlib is missing.
        DataError: the file cannot be written.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    looks: list[dict[str, Any]] = [
        {"color": "0.75", "linewidth": 4.0},
        {"color": _COLOURS[1], "linewidth": 1.2, "linestyle": "--"},
        {"color": _COLOURS[0], "linewidth": 1.2},
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        for curve, look in zip(curves, looks, strict=True):
            axes.plot(curve.x, curve.y, marker="o", markersize=2.0, label=curve.label, **look)
        axes.set(xlabel="distance (Å)", ylabel="energy less that at the largest distance (eV)")
        axes.set_title(fitted(title, _SIZE[0]), fontsize="medium")
        axes.legend(frameon=False)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with whole_file(path, "wb") as file:
        figure.savefig(file, format="png")
