"""Errors by volume, on errors that are known."""

import numpy as np
import pytest
from ase import units

from les_plugins.data.volumes import volume_errors


def test_a_wrong_pressure_is_found_and_a_right_one_is_zero():
    volumes = np.linspace(20.0, 22.0, 40)
    noise = 1e-4 * np.random.default_rng(0).normal(size=40)
    pressure = -0.6  # GPa, predicted less right
    found = volume_errors(volumes, 0.003 - pressure * units.GPa * volumes + noise, None)
    assert abs(found.pressure_error - pressure) < 3 * found.pressure_uncertainty
    assert found.pressure_uncertainty == pytest.approx(1e-4 / np.sqrt(((volumes - 21) ** 2).sum()) / units.GPa, rel=0.3)
    right = volume_errors(volumes, 0.003 + noise, None)
    assert abs(right.pressure_error) < 3 * right.pressure_uncertainty


def test_ranges_hold_every_frame_once_with_its_errors():
    volumes, energies, forces = [10.0, 10.1, 12.0, 14.0], [1e-3, 3e-3, -2e-3, 5e-3], [1e-4, 3e-4, 4e-4, 9e-4]
    found = volume_errors(volumes, energies, forces)
    assert [each.frames for each in found.ranges] == [2, 1, 1]
    assert [each.energy_mean for each in found.ranges] == pytest.approx([2e-3, -2e-3, 5e-3])
    assert [each.forces_rmse for each in found.ranges] == pytest.approx([np.sqrt(2e-4), 0.02, 0.03])
    assert found.pressure_error is None  # four frames


def test_one_volume_has_no_table():
    assert volume_errors([20.0, 20.0, 20.01], [1e-3, 2e-3, 3e-3], None) is None
