"""Displaced structures: molecules stay whole, waves are as long as the doubled cell and displace nothing on average."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from les_plugins.distillation.displacements import ions, moved_ions, of_atoms_in_molecules, rattled, with_waves

NOTHING = of_atoms_in_molecules(0.0)


@pytest.fixture
def salt():
    """Two waters, one of them cut by the boundary, and two ions."""
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    positions = [*(water + 3.0), *(water + np.array([7.7, 6.0, 6.0])), [1.0, 6.0, 1.0], [6.0, 1.0, 6.0]]
    atoms = Atoms("OH2OH2NaCl", positions, cell=[8.0, 8.5, 9.0], pbc=True)
    atoms.wrap()
    return atoms


def bonds(atoms):
    return [atoms.get_distance(o, h, mic=True) for o, h in ((0, 1), (0, 2), (3, 4), (3, 5))]


def test_molecules_are_found_across_the_boundary(salt):
    assert ions(salt).tolist() == [0, 0, 0, 1, 1, 1, 2, 3]


def test_strain_keeps_bonds_and_moves_ions_with_the_cell(salt):
    strained = rattled(salt, np.random.default_rng(1), NOTHING, 0.05)
    assert np.abs(strained.cell.array - salt.cell.array).max() > 0.05  # the strain is there
    assert bonds(strained) == pytest.approx(bonds(salt), abs=1e-12)
    np.testing.assert_allclose(strained.get_scaled_positions()[6:], salt.get_scaled_positions()[6:], atol=1e-12)
    longest = max(np.linalg.norm(strained.positions[h] - strained.positions[o]) for o, h in ((0, 1), (3, 4)))
    assert longest < 1.0  # whole without the minimum image


def test_moved_ions_keep_their_bonds_and_angles(salt):
    whole = rattled(salt, np.random.default_rng(1), NOTHING, 0.0)
    moved = moved_ions(whole, np.random.default_rng(2), 0.3)
    assert np.linalg.norm(moved.positions - whole.positions, axis=1).min() > 0.05
    assert bonds(moved) == pytest.approx(bonds(salt), abs=1e-12)
    assert moved.get_angle(1, 0, 2) == pytest.approx(whole.get_angle(1, 0, 2), abs=1e-9)
    turned = moved.positions[1] - moved.positions[0], whole.positions[1] - whole.positions[0]
    assert np.linalg.norm(turned[0] - turned[1]) > 0.02


def test_waves_double_the_cell_and_keep_the_centre_of_every_kind(salt):
    waved = with_waves(salt, np.random.default_rng(3), NOTHING, 0.0, 0.2)
    assert len(waved) == 2 * len(salt)
    assert waved.get_volume() == pytest.approx(2 * salt.get_volume())
    images = waved.positions.reshape(2, len(salt), 3)
    plain = rattled(salt, np.random.default_rng(3), NOTHING, 0.0)
    # sin(φ) and cos(φ) change sign from one image to the next, half a wave on: the mean of both is undisplaced
    shift = images.mean(axis=0) - plain.positions
    np.testing.assert_allclose(shift[6:], np.tile(shift[6], (2, 1)), atol=1e-12)
    displaced = images[0] - plain.positions
    assert np.abs(displaced[6] - displaced[7]).max() > 0.05  # sodium and chlorine have waves of their own
    assert [waved.get_distance(o, h, mic=True) for o, h in ((0, 1), (8, 9))] == pytest.approx([0.96, 0.96], abs=1e-12)
