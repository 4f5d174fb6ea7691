"""Structures far from the origin, brought near it for hosts of single precision."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from les_plugins.data.near_origin import NEAR, near_origin


def _far(pbc: tuple[bool, bool, bool]) -> Atoms:
    atoms = Atoms(
        "OH2", [[0, 0, 0], [0.9, 0.3, 0], [-0.2, 0.9, 0.1]], cell=[[6, 0, 0], [1, 7, 0], [0.5, 2, 8]], pbc=pbc
    )
    atoms.positions += [3e4, -2e5, 1e5]
    return atoms


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, True), (False, False, False)])
def test_distances_and_images_stay(pbc: tuple[bool, bool, bool]) -> None:
    far = _far(pbc)
    far.set_constraint(FixAtoms([0]))
    before = far.positions.copy()
    near = near_origin(far)
    np.testing.assert_array_equal(far.positions, before)
    assert np.abs(near.positions).max() < NEAR
    mic = any(pbc)
    # rounding of float64 at 2e5 Å
    np.testing.assert_allclose(near.get_all_distances(mic=mic), far.get_all_distances(mic=mic), rtol=0, atol=1e-9)
    for axis in np.flatnonzero(~np.array(pbc)):  # open directions move as a whole
        plane = far.cell.array[np.array(pbc)]
        normal = np.cross(*plane) / np.linalg.norm(np.cross(*plane)) if len(plane) == 2 else np.eye(3)[axis]
        height = (near.positions - far.positions) @ normal
        np.testing.assert_allclose(height, height[0], rtol=0, atol=1e-9)


def test_what_is_near_stays_and_so_do_open_directions_of_a_net_charge() -> None:
    atoms = Atoms("OH", [[0, 0, 0], [1, 0, 0]])
    assert near_origin(atoms) is atoms
    far = _far((False, False, False))
    np.testing.assert_array_equal(near_origin(far, keep_open=True).positions, far.positions)
