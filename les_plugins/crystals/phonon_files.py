"""Phonons as files: phonopy's `BORN`, and bands as a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from les_plugins.errors import HostError
from les_plugins.io.files import whole_file
from les_plugins.units import COULOMB_CONSTANT

if TYPE_CHECKING:
    from phonopy import Phonopy

    from les_plugins.crystals.bands import Bands

#: cm⁻¹ in a THz: 10¹²/(100 c).
WAVENUMBER = 1e10 / 299792458.0


def write_born(phonon: Phonopy, path: Path) -> None:
    """Write phonopy's file `BORN`: unit factor, ε_∞, and Z* of the atoms that symmetry does not give.

    Args:
        phonon: with `nac_params`.
        path: the file.

    Raises:
        HostError: no Z* were handed over.
    """
    from phonopy.file_IO import get_BORN_lines

    if phonon.nac_params is None:
        raise HostError(f"{path}: there are no Born charges to write")
    parameters = phonon.nac_params
    comment, *lines = get_BORN_lines(
        phonon.primitive, parameters["born"], parameters["dielectric"], symprec=phonon.symmetry.tolerance
    )
    # phonopy reads a number at the start of the first line as the factor, and takes its own for VASP without one
    with whole_file(path) as file:
        file.write("\n".join([f"{COULOMB_CONSTANT:.8f} {comment}", *lines]) + "\n")


def write_bands(found: Bands, path: Path) -> None:
    """Write a CSV file, a row for each q-point and branch, in THz and cm⁻¹."""
    names = ["bare", *(["with_born"] if found.corrected is not None else [])]
    columns = [f"{name}_{unit}" for name in names for unit in ("THz", "cm-1")]
    with whole_file(path, newline="") as file:
        table = csv.writer(file)
        table.writerow(["segment", "distance_1/A", "q_a", "q_b", "q_c", "branch", *columns])
        for segment, (qpoints, distances) in enumerate(zip(found.qpoints, found.distances, strict=True)):
            for number, (q, distance) in enumerate(zip(qpoints, distances, strict=True)):
                sets = [values[segment][number] for values in (found.bare, found.corrected) if values is not None]
                for branch, values in enumerate(zip(*sets, strict=True)):
                    shown = [f"{factor * value:.6f}" for value in values for factor in (1.0, WAVENUMBER)]
                    table.writerow([segment, f"{distance:.8f}", *(f"{x:.8f}" for x in q), branch, *shown])
