"""Map of the latent charges of one structure: its atoms seen along an axis, a panel for each element, and a table.

`les-plugins plot map` calls it. Needs matplotlib for the picture.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from les_plugins.committee.agreement import check_single
from les_plugins.data.evaluation import predict
from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, HostError
from les_plugins.io.files import whole_file
from les_plugins.plots.plotting import STYLE, check_available, fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Horizontal and vertical axis of the picture for each axis that points at the reader.
AXES = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}
#: Two hues that every eye tells apart, light in the middle: blue below the mean, red above.
_COLOURS = "RdBu_r"
_PANEL, _DPI, _MOST_COLUMNS = 3.1, 300, 3
#: Radius of an atom in the picture over its covalent radius, and the smallest, Å.
_SIZE, _SMALLEST = 0.55, 0.3


@dataclass(frozen=True)
class ChargeMap:
    """Charges of one structure.

    Attributes:
        atoms: the structure, wrapped into its cell where periodic.
        latent: (N,) e, latent charges, induced part included.
        physical: (N,) e, latent charges × sqrt(ε_e).
    """

    atoms: Atoms
    latent: Floats
    physical: Floats

    def by_element(self) -> dict[str, Floats]:
        """Latent charges, e, of the atoms of each element, in the order of atomic numbers."""
        numbers = self.atoms.numbers
        return {chemical_symbols[z]: self.latent[numbers == z] for z in np.unique(numbers)}


def charge_map(calculator: Any, atoms: Atoms, source: str = "structure") -> ChargeMap:
    """Latent and physical charges of one structure.

    Raises:
        HostError: the model has no long-range part, or is a committee.
    """
    check_single(calculator, "charge map")
    names = ["latent_charges", "charges"]
    if any(name not in calculator.implemented_properties for name in names):
        raise HostError("the model has no latent charges: it has no long-range part")
    found = predict(calculator, atoms, names, source)
    placed = atoms.copy()
    placed.wrap()
    return ChargeMap(placed, found["latent_charges"], found["charges"])


def write_map(path: Path, found: ChargeMap) -> None:
    """CSV file, a row for each atom: number, element, x, y, z (Å), latent and physical charge (e).

    Raises:
        DataError: the file cannot be written.
    """
    with whole_file(path, newline="") as file:
        table = csv.writer(file)
        table.writerow(["atom", "element", "x_A", "y_A", "z_A", "latent_charge_e", "charge_e"])
        rows = zip(found.atoms.symbols, found.atoms.positions, found.latent, found.physical, strict=True)
        for number, (symbol, place, latent, physical) in enumerate(rows):
            where = [f"{x:.6f}" for x in place]
            table.writerow([number, symbol, *where, f"{latent:.8g}", f"{physical:.8g}"])


def plot_map(path: Path, found: ChargeMap, axis: str = "z", title: str = "") -> None:
    """Latent charges to a PNG file; arguments and errors as of `plot_atoms`."""
    plot_atoms(path, found.atoms, found.latent, "latent charge (e)", axis, title)


def plot_atoms(path: Path, atoms: Atoms, values: Floats, label: str, axis: str = "z", title: str = "") -> None:
    """A number of each atom to a PNG file: in each panel one element, coloured about its mean, the other atoms grey.

    Args:
        path: the file.
        atoms: the structure, wrapped into its cell where periodic.
        values: (N,), in e.
        label: of the colour bars.
        axis: x, y or z, the Cartesian axis that points at the reader; nearer atoms hide farther ones.
        title: above all panels.

    Raises:
        ConfigError: another axis.
        HostError: matplotlib is missing.
        DataError: the file cannot be written.
    """
    if axis not in AXES:
        raise ConfigError(f"axis is {axis!r}; allowed: x, y, z")
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    elements = [int(z) for z in np.unique(atoms.numbers)]
    columns = min(len(elements), _MOST_COLUMNS)
    rows = math.ceil(len(elements) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_PANEL * columns, 0.95 * _PANEL * rows), dpi=_DPI, layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
        for axes, z in zip(panels, elements, strict=False):
            drawn = _draw(axes, atoms, values, z, axis)
            bar = figure.colorbar(drawn, cax=axes.inset_axes((1.03, 0.0, 0.05, 1.0)))
            bar.set_label(label)
            bar.ax.axhline(float(drawn.norm.vcenter), color="black", linewidth=0.8)
        for axes in panels[len(elements) :]:
            axes.set_axis_off()
        if title:
            figure.suptitle(fitted(title, _PANEL * columns), fontsize="medium")
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")


def _draw(axes: Axes, atoms: Atoms, of_atoms: Floats, element: int, axis: str) -> Any:
    """One panel; the coloured circles, for a colour bar."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import CenteredNorm
    from matplotlib.ticker import MaxNLocator

    first, second = AXES[axis]
    depth = atoms.positions[:, "xyz".index(axis)]
    _outline(axes, atoms, first, second)
    chosen = atoms.numbers == element
    values = of_atoms[chosen]
    reach = float(np.abs(values - values.mean()).max()) or 0.01
    norm = CenteredNorm(vcenter=float(values.mean()), halfrange=reach)

    def circles(which: NDArray[np.bool_], **look: Any) -> Any:
        order = np.flatnonzero(which)[np.argsort(depth[which])]
        radii = np.maximum(_SIZE * covalent_radii[atoms.numbers[order]], _SMALLEST)
        places = atoms.positions[order][:, [first, second]]
        numbers = {"array": of_atoms[order]} if "norm" in look else {}
        shapes = EllipseCollection(
            2 * radii, 2 * radii, 0.0 * radii, units="xy", offsets=places, offset_transform=axes.transData,
            **numbers, **look,
        )  # fmt: skip
        return axes.add_collection(shapes)

    circles(~chosen, facecolors="0.93", edgecolors="0.8", linewidths=0.3, zorder=1)
    drawn = circles(chosen, norm=norm, cmap=_COLOURS, edgecolors="0.25", linewidths=0.3, zorder=2)
    corners = _corners(atoms)[:, [first, second]]
    low, high = corners.min(0), corners.max(0)
    room = 0.04 * float((high - low).max()) + 0.6
    axes.set(xlim=(low[0] - room, high[0] + room), ylim=(low[1] - room, high[1] + room), aspect="equal")
    axes.set_xlabel(f"{'xyz'[first]} (Å)")
    axes.set_ylabel(f"{'xyz'[second]} (Å)")
    mean = f"{values.mean():+.3f}".replace("-", "−")
    axes.set_title(f"{chemical_symbols[element]}: {mean} ± {values.std():.3f} e")
    for direction in (axes.xaxis, axes.yaxis):
        direction.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    return drawn


def _outline(axes: Axes, atoms: Atoms, first: int, second: int) -> None:
    """The twelve edges of a periodic cell."""
    if not atoms.pbc.any():
        return
    for direction in range(3):
        others = [other for other in range(3) if other != direction]
        for i in (0, 1):
            for j in (0, 1):
                start = i * atoms.cell.array[others[0]] + j * atoms.cell.array[others[1]]
                ends = np.array([start, start + atoms.cell.array[direction]])
                axes.plot(ends[:, first], ends[:, second], color="0.5", linewidth=0.6, zorder=0)


def _corners(atoms: Atoms) -> Floats:
    """(M, 3) Å points that have to be in the picture."""
    if not atoms.pbc.any():
        return np.asarray(atoms.positions)
    steps = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    return np.concatenate([steps @ atoms.cell.array, atoms.positions])
