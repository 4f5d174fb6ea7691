"""Permittivity of a crystal whose ions oscillate harmonically, and the infrared modes that make it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from les_plugins.crystals.phonon_files import WAVENUMBER
from les_plugins.errors import ConfigError, HostError
from les_plugins.io.files import whole_file
from les_plugins.units import COULOMB_CONSTANT

if TYPE_CHECKING:
    from phonopy import Phonopy

Floats = NDArray[np.float64]

#: cm⁻¹: squares of frequencies smaller than this are not told from zero; such a mode has no static response.
SOFT = 1.0
#: Damping of the files and pictures of the command, cm⁻¹.
DAMPING = 5.0


@dataclass(frozen=True)
class Permittivity:
    """Electrons and harmonic ions of a crystal in a slow uniform field, at fixed cell.

    Attributes:
        wavenumbers: (modes,) cm⁻¹ of the transverse modes at Γ but for the translations, ascending; imaginary ones
            are negative.
        strengths: (modes, 3, 3) ε(ω) = ε_∞ + Σ S/(ω_m² − ω² − iγω), cm⁻².
        electronic: (3, 3) ε_∞.
    """

    wavenumbers: Floats
    strengths: Floats
    electronic: Floats

    @property
    def unstable(self) -> int:
        """Modes that are imaginary, or too soft to be told from zero."""
        return int((self.wavenumbers < SOFT).sum())

    @property
    def static(self) -> Floats | None:
        """(3, 3) ε_0 at fixed cell; None where a mode is unstable, for the ions then do not come back."""
        if self.unstable:
            return None
        return np.asarray(self.electronic + np.einsum("mab,m->ab", self.strengths, self.wavenumbers**-2.0))

    def at(self, wavenumbers: ArrayLike, damping: float = DAMPING) -> NDArray[np.complex128]:
        """(frequencies, 3, 3) ε(ω), one damping for all modes; unstable modes are left out.

        Args:
            wavenumbers: (frequencies,) cm⁻¹.
            damping: γ, cm⁻¹, the full width at half maximum of a weak line.

        Raises:
            ConfigError: a damping that is not positive.
        """
        if not damping > 0.0:
            raise ConfigError(f"damping is {damping}; allowed: a width above 0 cm⁻¹")
        grid, kept = np.asarray(wavenumbers, dtype=float), self.wavenumbers >= SOFT
        denominators = self.wavenumbers[kept] ** 2 - grid[:, None] ** 2 - 1j * damping * grid[:, None]
        return np.asarray(self.electronic + np.einsum("mab,wm->wab", self.strengths[kept], 1.0 / denominators))


def permittivity(phonon: Phonopy) -> Permittivity:
    """Infrared modes of a crystal and its permittivity, from force constants, Z* and ε_∞.

    Args:
        phonon: with force constants and `nac_params`.

    Raises:
        HostError: no Z* were handed over.

    Source: M. Born and K. Huang, Dynamical Theory of Crystal Lattices (1954); X. Gonze and C. Lee, PRB 55, 10355
    (1997), eq. 53 and 54: ε = ε_∞ + (4π k_e/V) Σ_m Z_m Z_m/(ω_m² − ω²), Z_m = Σ_i Z*_i e_m,i/√M_i.
    """
    parameters = phonon.nac_params
    if parameters is None:
        raise HostError("permittivity needs Born charges, which were not handed over")
    try:
        phonon.nac_params = None  # transverse modes: those of no macroscopic field
        phonon.run_qpoints([[0.0, 0.0, 0.0]], with_eigenvectors=True)
        found: Any = phonon.qpoints
        frequencies, vectors = np.array(found.frequencies[0]), np.array(found.eigenvectors[0])
    finally:
        phonon.nac_params = parameters
    masses = np.asarray(phonon.primitive.masses, dtype=float)
    modes = vectors.T.reshape(len(frequencies), len(masses), 3)
    weights = np.sqrt(masses / masses.sum())
    translation = np.einsum("i,mia->ma", weights, modes)
    kept = np.sort(np.argsort((np.abs(translation) ** 2).sum(axis=1))[:-3])
    charges = np.einsum("iab,mib,i->ma", np.asarray(parameters["born"]), modes, masses**-0.5)[kept]
    # (e²/u) · (eV Å/e²)/Å³ is a squared angular frequency in eV/(Å² u), as the force constants over masses are
    per_volume = 4.0 * np.pi * COULOMB_CONSTANT / float(abs(phonon.primitive.volume))
    scale = (float(phonon.unit_conversion_factor) * WAVENUMBER) ** 2
    strengths = scale * per_volume * np.einsum("ma,mb->mab", charges, charges.conj()).real
    return Permittivity(WAVENUMBER * frequencies[kept], strengths, np.asarray(parameters["dielectric"], dtype=float))


def write_permittivity(found: Permittivity, path: Path, damping: float = DAMPING) -> None:
    """Write a CSV file of ε(ω) up to a tenth above the highest mode: real and imaginary parts in cm⁻¹ steps of one.

    Args:
        found: of a crystal.
        path: the file.
        damping: cm⁻¹, of all modes.
    """
    grid = np.arange(0.0, 1.1 * max(float(found.wavenumbers.max(initial=0.0)), 100.0))
    values = found.at(grid, damping)
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    names = [f"{part}_{'xyz'[a]}{'xyz'[b]}" for a, b in pairs for part in ("real", "imaginary")]
    with whole_file(path, newline="") as file:
        table = csv.writer(file)
        table.writerow(["wavenumber_cm-1", *names])
        for wavenumber, tensor in zip(grid, values, strict=True):
            parts = [part for a, b in pairs for part in (tensor[a, b].real, tensor[a, b].imag)]
            table.writerow([f"{wavenumber:.1f}", *(f"{part:.6g}" for part in parts)])
