"""Raman spectra from polarizabilities (theory 11.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra.estimate import (
    Spectrum,
    Welch,
    block_spectra,
    boltzmann_exponent,
    check_temperature,
    mean_and_error,
)
from les_plugins.units import SPEED_OF_LIGHT

UNIT = "(e²·Å²/eV)²/fs"


@dataclass(frozen=True)
class Raman:
    """Raman spectra of a sample without preferred direction, light scattered by 90°.

    Attributes:
        isotropic: of the mean polarizability, ω² S[a], a = tr α/3.
        anisotropic: of the anisotropy, ω² S[γ], γ² = ½ ((α_xx − α_yy)² + …) + 3 (α_xy² + …) = 3/2 Σ β_ij², β = α − a.
        parallel: VV, scattered light polarized as the incident: isotropic + 4/45 anisotropic.
        perpendicular: VH, polarized across it: 3/45 anisotropic.
        depolarization: VH/VV at every wavenumber, its error that of the quotient over blocks.
        blocks: (2, n, F) VV and VH of single blocks.
        weights: (n,) frames of each.
    """

    isotropic: Spectrum
    anisotropic: Spectrum
    parallel: Spectrum
    perpendicular: Spectrum
    depolarization: Spectrum
    blocks: Floats
    weights: Floats

    def depolarization_ratio(self, low: float, high: float) -> tuple[float, float | None]:
        """VH over VV intensity, both integrated from `low` to `high` cm⁻¹, and its error.

        Returns:
            0 to 3/4, NaN of no intensity; half the 68 % interval over blocks, None with one of them.
        """
        inside = (self.parallel.wavenumber >= low) & (self.parallel.wavenumber <= high)
        straight, crossed = self.blocks[:, :, inside].sum(2)
        value, error = _quotient(crossed[:, None], straight[:, None], self.weights)
        return float(value[0]), None if error is None else float(error[0])


def raman(
    polarizabilities: Sequence[Floats],
    interval: float,
    how: Welch,
    temperature: float | None = None,
    laser: float | None = None,
    susceptibility: bool = False,
    photons: bool = False,
) -> Raman:
    """Raman spectra from the polarizability of the system.

    Args:
        polarizabilities: (T, 3, 3) e²·Å²/eV of each trajectory.
        interval: fs between frames.
        how: segments, window, blocks.
        temperature: K; with it the Bose factor, x²/(x (1 − e^−x)) in the place of x² ∝ ω², x = ħω/kT: the classical
            power with the harmonic quantum correction, Stokes side.
        laser: nm, wavelength of the incident light; with it the factor (1 − ν/ν0)⁴ of the power that it scatters.
        susceptibility: χ'' in the place of the intensity, which is (n + 1) χ'' (1 − ν/ν0)⁴, n + 1 = 1/(1 − e^−x): with
            that divided out ω² S/x ∝ ω S is left, in which low wavenumbers are shown. Needs a temperature. Reduced
            intensities R(ν) have one more ν, R ∝ ν χ'' ∝ ω² S: the spectrum without any factor.
        photons: count scattered photons in the place of their power, of which each carries ν0 − ν: (1 − ν/ν0)³. Needs a
            laser.

    Returns:
        The spectra in (e²·Å²/eV)²/fs, S the one-sided power spectral density.

    Raises:
        ConfigError: a laser below 0 nm or with `susceptibility`, that without a temperature, photons without a laser.
        DataError: too short.

    Source: theory 11.3; D. A. Long, The Raman Effect (2002), section 5.4, for the averages over orientations and the
    conventions 45a² + 4γ², 3γ², and for power and photons; M. H. Brooker, O. F. Nielsen, E. Praestgaard, J. Raman
    Spectrosc. 19, 71 (1988) for R(ν).
    """
    means = [np.trace(alpha, axis1=1, axis2=2)[:, None] / 3.0 for alpha in polarizabilities]
    mean = block_spectra(means, interval, how)
    anisotropy = 1.5 * block_spectra([_deviator(alpha) for alpha in polarizabilities], interval, how).rows
    factor = _factor(mean.wavenumber, temperature, laser, susceptibility, 3 if photons else 4)
    if photons and laser is None:
        raise ConfigError("photons are counted of light that a laser scatters: give one")
    quantity = "Raman χ''" if susceptibility else "Raman"
    rows = {
        "isotropic": mean.rows,
        "anisotropic": anisotropy,
        "VV (parallel)": mean.rows + 4.0 / 45.0 * anisotropy,
        "VH (perpendicular)": 3.0 / 45.0 * anisotropy,
    }
    parts = []
    for name, each in rows.items():
        value, error = mean_and_error(each, mean.weights)
        part = Spectrum(mean.wavenumber, value, error, name, "", len(each), mean.notes)
        parts.append(part.times(factor, f"{quantity}, {name}", UNIT))
    isotropic, anisotropic, parallel, perpendicular = parts
    straight, crossed = rows["VV (parallel)"], rows["VH (perpendicular)"]
    quotient, error = _quotient(crossed, straight, mean.weights)
    ratio = Spectrum(mean.wavenumber, quotient, error, "depolarization ratio VH/VV", "1", len(straight), mean.notes)
    single: Floats = factor * np.array([straight, crossed])
    return Raman(isotropic, anisotropic, parallel, perpendicular, ratio, single, mean.weights)


def _factor(
    wavenumber: Floats, temperature: float | None, laser: float | None, susceptibility: bool, power: int
) -> Floats:
    """(F,) 1/fs², what the power of the polarizability is multiplied by."""
    factor: Floats = (2.0 * np.pi * SPEED_OF_LIGHT * wavenumber) ** 2
    if susceptibility and (temperature is None or laser is not None):
        raise ConfigError("a susceptibility needs a temperature and has no factor of the laser: give no laser")
    if temperature is not None:
        check_temperature(temperature)
        x = np.maximum(boltzmann_exponent(wavenumber, temperature), 1e-8)
        factor = factor / (x if susceptibility else x * -np.expm1(-x))
    if laser is not None:
        if not 0 < laser < float("inf"):
            raise ConfigError(f"laser is {laser} nm; allowed: above 0")
        factor = factor * np.clip(1.0 - wavenumber * laser * 1e-7, 0.0, None) ** power
    return factor


def _quotient(above: Floats, below: Floats, weights: Floats) -> tuple[Floats, Floats | None]:
    """Quotient of two means over blocks (n, F), and the error of it to first order, as the blocks vary together."""
    top, bottom = mean_and_error(above, weights)[0], mean_and_error(below, weights)[0]
    there = np.where(bottom > 0.0, bottom, np.nan)
    value: Floats = top / there
    return value, mean_and_error((above - value * below) / there, weights)[1]


def check_anisotropic(polarizabilities: Sequence[Floats], where: str = "trajectory") -> None:
    """DataError for polarizabilities that change in all directions alike, as those of scalar heads do.

    Their Raman spectrum would have a depolarization ratio of 0, which is the model's and not the material's.

    Args:
        polarizabilities: (T, 3, 3) e²·Å²/eV of each trajectory.
        where: the file, in messages.
    """
    directed = moving = False
    for alpha in polarizabilities:
        smallest, change = 1e-9 * np.abs(alpha).max(initial=0.0), alpha - alpha.mean(0)
        if np.abs(_deviator(change)).max(initial=0.0) > smallest:
            return
        directed |= bool(np.abs(_deviator(alpha)).max(initial=0.0) > smallest)
        moving |= bool(np.abs(change).max(initial=0.0) > smallest)
    if directed and not moving:
        return  # all of its spectra are 0
    raise DataError(
        f"{where}: its polarizability changes in all directions alike, so that the anisotropic Raman spectrum is none: "
        "train the model with long_range: {response: {dipole: anisotropic}}, or record one with dipole–induced dipoles "
        "(md --polarizability did)"
    )


def _deviator(alpha: Floats) -> Floats:
    """What is left of (T, 3, 3) tensors without a third of their trace."""
    left: Floats = alpha - np.trace(alpha, axis1=1, axis2=2)[:, None, None] / 3.0 * np.eye(3)
    return left
