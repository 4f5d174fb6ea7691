"""What frames show of motion, against single vibrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_calculator import Toy, molecule

from les_plugins.dynamics import Settings, run
from les_plugins.spectra import Samples
from les_plugins.spectra.sampling import integrated, unresolved_share
from les_plugins.units import SPEED_OF_LIGHT


def vibration(wavenumber: float, interval: float, atoms: int = 1) -> tuple[np.ndarray, np.ndarray]:
    angular = 2.0 * np.pi * SPEED_OF_LIGHT * wavenumber
    phase = (angular * interval * np.arange(1000.0) + 0.3)[:, None, None] * np.ones((1, atoms, 3))
    return np.sin(phase) / angular, np.cos(phase)


def share(positions: np.ndarray, velocities: np.ndarray, interval: float) -> float:
    return unresolved_share(np.diff(positions, axis=0), velocities, interval)


@pytest.mark.parametrize(
    ("wavenumber", "interval", "low", "high"),
    [
        (1600.0, 4.0, 0.0, 1e-4),  # Nyquist: 4170
        (3400.0, 4.0, 0.0, 0.01),
        (3700.0, 4.0, 0.0, 0.05),
        (3400.0, 5.0, 0.4, 0.7),  # Nyquist: 3336
        (600.0, 20.0, 0.0, 1e-3),  # Nyquist: 834
        (1600.0, 20.0, 0.9, 1.5),
        (3400.0, 20.0, 0.9, 1.5),
    ],
)
def test_motion_beyond_nyquists_wavenumber_is_not_resolved(
    wavenumber: float, interval: float, low: float, high: float
) -> None:
    assert low <= share(*vibration(wavenumber, interval), interval) <= high


def test_the_atom_that_moves_fastest_decides_and_one_at_rest_does_not() -> None:
    slow, fast = vibration(600.0, 10.0, 3), vibration(3400.0, 10.0, 3)
    chosen = np.array([[[1.0], [0.0], [0.0]]])
    positions, velocities = (s * np.roll(chosen, 1, axis=1) + f * chosen for s, f in zip(slow, fast, strict=True))
    alone = share(*vibration(3400.0, 10.0), 10.0)
    assert share(positions, velocities, 10.0) == pytest.approx(alone)
    assert share(positions[:7], velocities[:7], 10.0) == 0.0


def test_the_integral_of_a_wave_is_a_wave() -> None:
    positions, velocities = vibration(1600.0, 4.0)
    np.testing.assert_allclose(
        np.diff(integrated(velocities, 4.0), axis=0)[20:-20], np.diff(positions, axis=0)[20:-20], atol=2e-4
    )


@pytest.mark.parametrize("settings", [{}, {"ensemble": "nvt"}, {"ensemble": "npt", "pressure": 1.0}])
def test_dynamics_with_frames_close_together_is_resolved_in_every_ensemble(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Also in a cell that shrinks to a fifth, as that of springs in a vacuum does, and with rescaled velocities."""
    chosen = Settings.of(temperature=300.0, timestep=1.0, steps=400, every=2, **settings)
    run(Toy(), molecule(1, periodic=True, formula="OHHOHH"), tmp_path / "md.h5", chosen)
    samples = Samples.open([tmp_path / "md.h5"])
    assert 0.0 < samples.unresolved_share() < 2e-3
