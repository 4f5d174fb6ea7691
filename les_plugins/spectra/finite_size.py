"""Finite-size correction of diffusion coefficients, for a periodic cell of any shape."""

from __future__ import annotations

import numpy as np
from scipy.special import erfc

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError
from les_plugins.units import BOLTZMANN, EV_PER_VISCOSITY


def diffusion_correction(cell: Floats, temperature: float, viscosity: float) -> float:
    """What is to be added to a diffusion coefficient, averaged over directions, for an infinite cell, Å²/ps.

    The trace of the Oseen tensor is 2/(η k²), a Coulomb sum: kT/(6π η) times minus the potential of a unit charge among
    its periodic images in a neutralizing background; 2.837297/L in a cube. In long cells it is negative.

    Args:
        cell: (3, 3) Å.
        temperature: K.
        viscosity: mPa·s, of the infinite liquid.

    Raises:
        ConfigError: a viscosity that is not between 1e-6 and 1e12 mPa·s.

    Source: I.-C. Yeh and G. Hummer, J. Phys. Chem. B 108, 15873 (2004), equations 5 to 12.
    """
    if not 1e-6 <= viscosity <= 1e12:
        raise ConfigError(f"viscosity is {viscosity:g} mPa·s; allowed: above 0 (1e-6 to 1e12)")
    return -image_potential(cell) * BOLTZMANN * temperature / (6.0 * np.pi * viscosity) * EV_PER_VISCOSITY


def image_potential(cell: Floats) -> float:
    """Σ 1/R over the images of a point in a neutralizing background, 1/Å, by Ewald's sum; −2.837297/L in a cube."""
    volume = float(abs(np.linalg.det(cell)))
    reciprocal = 2.0 * np.pi * np.linalg.inv(cell).T
    # both sums end where exp(−x²) is 1e-14, x = 5.7; this width makes them about equally long
    width = np.sqrt(np.pi) / np.cbrt(volume)
    images = _vectors(cell, 5.7 / width)
    waves = (_vectors(reciprocal, 2.0 * 5.7 * width) ** 2).sum(1)
    distance = np.sqrt((images**2).sum(1))
    near = (erfc(width * distance) / distance).sum()
    far = 4.0 * np.pi / volume * (np.exp(-waves / (4.0 * width**2)) / waves).sum()
    return float(near + far - 2.0 * width / np.sqrt(np.pi) - np.pi / (volume * width**2))


def _vectors(basis: Floats, longest: float) -> Floats:
    """Lattice vectors but zero, none longer left out than `longest`."""
    counts = np.ceil(longest * np.linalg.norm(np.linalg.inv(basis), axis=0)).astype(int)
    steps = np.stack(np.meshgrid(*(np.arange(-count, count + 1) for count in counts), indexing="ij"), -1).reshape(-1, 3)
    vectors = steps[(steps != 0).any(1)] @ basis
    found: Floats = vectors[(vectors**2).sum(1) <= longest**2]
    return found
