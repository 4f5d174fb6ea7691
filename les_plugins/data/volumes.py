"""Errors against the volume of the cell: a model can be right on average and wrong in its pressure.

The energy error per atom, ΔE/N, against the volume per atom has a slope; minus that slope is an error of the pressure,
ΔP = −d(ΔE)/dV. Trainings without stress labels fit it only through the frames' different volumes, and a mean over
frames does not show it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import units
from numpy.typing import ArrayLike

from les_plugins.data.metrics import Floats

#: Ranges of volume that frames are sorted into, at most.
RANGES = 4
#: Spread of volumes per atom over their mean below which a file has one volume.
ONE_VOLUME = 2e-3
#: Frames that a slope takes.
FEWEST = 6


@dataclass(frozen=True)
class VolumeRange:
    """Errors of the frames of one range of volume.

    Attributes:
        lowest, highest: volume per atom, Å³.
        frames: how many.
        energy_mean: mean error of the energy, predicted less reference, eV/atom.
        energy_rmse: eV/atom.
        forces_rmse: eV/Å, or None without forces.
    """

    lowest: float
    highest: float
    frames: int
    energy_mean: float
    energy_rmse: float
    forces_rmse: float | None


@dataclass(frozen=True)
class VolumeErrors:
    """Errors by volume.

    Attributes:
        ranges: from small to large volumes.
        pressure_error: −d(ΔE)/dV by least squares over all frames, GPa; None with fewer than `FEWEST` frames.
        pressure_uncertainty: standard error of that, GPa.
    """

    ranges: tuple[VolumeRange, ...]
    pressure_error: float | None
    pressure_uncertainty: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "ranges": [asdict(each) for each in self.ranges],
            "pressure_error_GPa": self.pressure_error,
            "pressure_uncertainty_GPa": self.pressure_uncertainty,
        }


def volume_errors(volumes: ArrayLike, energies: ArrayLike, forces: ArrayLike | None) -> VolumeErrors | None:
    """Errors by volume, or None where all frames have one volume.

    Args:
        volumes: (F,) volume per atom of each frame, Å³.
        energies: (F,) error of the energy of each, predicted less reference, eV/atom.
        forces: (F,) mean square error of the force components of each, eV²/Å², or None.

    The slope is that of errors of one composition; frames of several should be split by it first.
    """
    v, e = np.asarray(volumes, float), np.asarray(energies, float)
    f = None if forces is None else np.asarray(forces, float)
    if len(v) < 2 or np.ptp(v) < ONE_VOLUME * v.mean():
        return None
    found = tuple(_range(v[part], e[part], None if f is None else f[part]) for part in _parts(v))
    pressure, uncertainty = _pressure(v, e)
    return VolumeErrors(found, pressure, uncertainty)


def _parts(volumes: Floats) -> list[np.ndarray]:
    """Indices of the frames of each range: ranges of equal width, those without a frame left out."""
    low, high = volumes.min(), volumes.max()
    which = np.minimum(((volumes - low) / (high - low) * RANGES).astype(int), RANGES - 1)
    return [np.flatnonzero(which == number) for number in np.unique(which)]


def _range(volumes: Floats, energies: Floats, forces: Floats | None) -> VolumeRange:
    rms = float(np.sqrt(np.mean(energies**2)))
    of_forces = None if forces is None else float(np.sqrt(forces.mean()))
    lowest, highest = float(volumes.min()), float(volumes.max())
    return VolumeRange(lowest, highest, len(volumes), float(energies.mean()), rms, of_forces)


def _pressure(volumes: Floats, energies: Floats) -> tuple[float | None, float | None]:
    if len(volumes) < FEWEST:
        return None, None
    shifted = volumes - volumes.mean()
    slope = shifted @ energies / (shifted @ shifted)
    rest = energies - energies.mean() - slope * shifted
    error = np.sqrt(rest @ rest / (len(volumes) - 2) / (shifted @ shifted))
    return -float(slope) / units.GPa, float(error) / units.GPa
