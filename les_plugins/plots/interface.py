"""Profiles of a slab as a figure of stacked panels, and as HDF5."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from les_plugins.io.files import unwritable, whole_file
from les_plugins.plots.plotting import STYLE, check_available, fitted
from les_plugins.plots.spectra import Curve
from les_plugins.spectra.interface import Interface

#: Label of each panel, and the profiles in it with their colours; those that are not there are left out.
_PANELS = (
    ("density (g/cm³)", (("mass density", "#0072b2"),)),
    ("⟨cos θ⟩, ⟨P₂⟩", (("cosine", "#0072b2"), ("second Legendre polynomial", "#d55e00"))),
    ("dipole density (e/Å²)", (("dipole density", "#0072b2"),)),
    ("potential (V)", (("potential", "#0072b2"), ("potential of molecules", "#d55e00"))),
)
#: Inches of a panel, and dots per inch.
_WIDTH, _HEIGHT, _DPI = 5.0, 1.5, 150


def curves(found: Interface) -> list[Curve]:
    """The profiles as columns of a table, each with its unit in its name."""
    return [
        Curve(f"{name} ({profile.unit})" if profile.unit != "1" else name, found.height, profile.value, profile.error)
        for name, profile in found.profiles.items()
    ]


def write_hdf5(path: Path, found: Interface, notes: Mapping[str, Any]) -> None:
    """HDF5: `height` (Å), a group for each profile with `value` and `error` and its unit, scalars as attributes.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with whole_file(path, "wb") as file, h5py.File(file, "w") as h5:
            h5["height"] = found.height
            h5["height"].attrs["unit"] = "Å"
            for name, profile in found.profiles.items():
                group = h5.create_group(name.replace(" ", "_"))
                group.attrs["unit"] = profile.unit
                group["value"] = profile.value
                if profile.error is not None:
                    group["error"] = profile.error
            for name, value in notes.items():
                h5.attrs[name] = np.nan if value is None else value
    except OSError as error:
        raise unwritable(path, error) from None


def plot_interface(path: Path, found: Interface, title: str = "") -> None:
    """A panel for density, orientation, dipoles and potential each, with error bands.

    Raises:
        HostError: matplotlib is missing.
        DataError: the file cannot be written.
    """
    check_available()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [(label, [(n, c) for n, c in lines if n in found.profiles]) for label, lines in _PANELS]
    shown = [(label, lines) for label, lines in shown if lines]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 0.5 + _HEIGHT * len(shown)), dpi=_DPI, layout="constrained")
        panels = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
        for axes, (label, lines) in zip(panels, shown, strict=True):
            for name, colour in lines:
                profile = found.profiles[name]
                axes.plot(found.height, profile.value, color=colour, linewidth=1.0, label=name)
                if profile.error is not None:
                    low, high = profile.value - profile.error, profile.value + profile.error
                    axes.fill_between(found.height, low, high, color=colour, alpha=0.3, linewidth=0)
            axes.axhline(0.0, color="0.7", linewidth=0.6, zorder=1)
            axes.set(ylabel=label, xlim=(found.height[0], found.height[-1]))
            if len(lines) > 1:
                axes.legend(frameon=False)
        panels[-1].set_xlabel("height above the centre of mass (Å)")
        if title:
            panels[0].set_title(fitted(title, _WIDTH), fontsize="medium")
        with whole_file(path, "wb") as file:
            figure.savefig(file, format="png")
