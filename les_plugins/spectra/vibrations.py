"""Raman spectra from polarizabilities, and the power spectrum of velocities (theory 11.3 and 11.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra.estimate import Spectrum, Welch, boltzmann_exponent, check_temperature, each_of, power_spectrum
from les_plugins.spectra.optical import Each
from les_plugins.units import BOLTZMANN, MASS_ENERGY, SPEED_OF_LIGHT

UNIT = "(e²·Å²/eV)²/fs"


@dataclass(frozen=True)
class Raman:
    """Raman spectra of a sample without preferred direction.

    Attributes:
        isotropic: ω² S[a], a = tr α/3.
        anisotropic: ω² Σ S[β_ij], β = α − a 1.
        parallel: scattered light polarized as the incident: isotropic + 2/15 anisotropic.
        perpendicular: polarized across it: 1/10 anisotropic.
    """

    isotropic: Spectrum
    anisotropic: Spectrum
    parallel: Spectrum
    perpendicular: Spectrum

    def depolarization_ratio(self, low: float, high: float) -> float:
        """Perpendicular over parallel intensity, from `low` to `high` cm⁻¹: 0 to 3/4, NaN of no intensity."""
        crossed, straight = (part.between(low, high).value.sum() for part in (self.perpendicular, self.parallel))
        return float(crossed / straight) if straight > 0 else float("nan")


def raman(
    polarizabilities: Sequence[Floats],
    interval: float,
    how: Welch,
    temperature: float | None = None,
    laser: float | None = None,
) -> Raman:
    """Raman spectra from the polarizability of the system.

    Args:
        polarizabilities: (T, 3, 3) e²·Å²/eV of each trajectory.
        interval: fs between frames.
        how: segments, window, blocks.
        temperature: K; with it the Bose factor, kT/(ħω)/(1 − exp(−ħω/kT)), which tends to (kT/ħω)² at low wavenumbers.
        laser: nm, wavelength of the incident light; with it the factor (1 − ν/ν0)⁴.

    Returns:
        The four spectra in (e²·Å²/eV)²/fs, S the one-sided power spectral density.

    Raises:
        DataError: too short.

    Source: theory 11.3; D. A. Long, The Raman Effect (2002), for the averages over orientations.
    """
    means = [np.trace(alpha, axis1=1, axis2=2)[:, None] / 3.0 for alpha in polarizabilities]
    deviators = [_deviator(alpha) for alpha in polarizabilities]
    parts = [power_spectrum(series, interval, how) for series in (means, deviators)]
    parallel = power_spectrum(
        # one series, so that its error bar knows how the two parts vary together
        [np.hstack([a, np.sqrt(2.0 / 15.0) * b.reshape(len(b), 9)]) for a, b in zip(means, deviators, strict=True)],
        interval,
        how,
    )
    wavenumber = parts[0].wavenumber
    factor = (2.0 * np.pi * SPEED_OF_LIGHT * wavenumber) ** 2
    if temperature is not None:
        check_temperature(temperature)
        x = np.maximum(boltzmann_exponent(wavenumber, temperature), 1e-8)
        factor = factor / (x * -np.expm1(-x))
    if laser is not None:
        if not 0 < laser < float("inf"):
            raise ConfigError(f"laser is {laser} nm; allowed: above 0")
        factor = factor * np.clip(1.0 - wavenumber * laser * 1e-7, 0.0, None) ** 4
    return Raman(
        parts[0].times(factor, "Raman, isotropic", UNIT),
        parts[1].times(factor, "Raman, anisotropic", UNIT),
        parallel.times(factor, "Raman, parallel", UNIT),
        parts[1].times(0.1 * factor, "Raman, perpendicular", UNIT),
    )


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
        "train the model with long_range: {response: {dipole: anisotropic}}"
    )


def _deviator(alpha: Floats) -> Floats:
    """What is left of (T, 3, 3) tensors without a third of their trace."""
    left: Floats = alpha - np.trace(alpha, axis1=1, axis2=2)[:, None, None] / 3.0 * np.eye(3)
    return left


def velocity_spectrum(
    velocities: Sequence[Floats], masses: Floats, interval: float, temperature: Each, how: Welch
) -> Spectrum:
    """Vibrational density of states: power of the velocities, Σ m G_v/kT, in modes per cm⁻¹.

    Args:
        velocities: (T, N, 3) Å/fs of each trajectory.
        masses: (N,) u.
        interval: fs between frames.
        temperature: K, one for all trajectories or one for each.
        how: segments, window, blocks.

    Returns:
        Spectrum whose integral over wavenumbers is the number of degrees of freedom at equilibrium, 3 for each atom.

    Source: theory 11.4; P. Dickey and A. Paskin, Phys. Rev. 188, 1407 (1969).
    """
    kelvin = each_of(temperature, len(velocities), "temperature")
    weights = [np.sqrt(masses / one)[:, None] for one in kelvin]
    weighted = [weight * values for weight, values in zip(weights, velocities, strict=True)]
    power = power_spectrum(weighted, interval, how, remove_mean=False)
    return power.times(MASS_ENERGY * SPEED_OF_LIGHT / BOLTZMANN, "vibrational density of states", "cm")
