"""The density of states against closed forms (theory, section 11.4)."""

from __future__ import annotations

import numpy as np
import pytest

from les_plugins.spectra import Welch, velocity_spectrum
from les_plugins.units import BOLTZMANN

INTERVAL, HOW = 2.0, Welch(resolution=10.0)


def test_the_density_of_states_integrates_to_the_degrees_of_freedom() -> None:
    masses = np.array([16.0, 1.0, 1.0])
    random = np.random.default_rng(0)
    thermal = np.sqrt(BOLTZMANN * 300.0 / (masses * 103.642696))[:, None]
    velocities = thermal * random.standard_normal((10_000, 3, 3))
    found = velocity_spectrum([velocities], masses, INTERVAL, 300.0, HOW)
    assert np.trapezoid(found.value, found.wavenumber) == pytest.approx(9.0, rel=0.02)
    hydrogen = velocity_spectrum([velocities[:, 1:]], masses[1:], INTERVAL, 300.0, HOW)
    assert np.trapezoid(hydrogen.value, hydrogen.wavenumber) == pytest.approx(6.0, rel=0.02)
