"""Density of states: the power spectrum of velocities (theory 11.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from les_plugins.data.metrics import Floats
from les_plugins.spectra.estimate import Spectrum, Welch, each_of, power_spectrum
from les_plugins.spectra.optical import Each
from les_plugins.units import BOLTZMANN, MASS_ENERGY, SPEED_OF_LIGHT


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
