"""Two atoms in one place are named, whatever the boundary; nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from les_plugins.data.close_atoms import check_distances
from les_plugins.data.frames import check_frame
from les_plugins.errors import DataError

TRICLINIC = np.array([[6.0, 0.3, -0.4], [4.9, 5.2, 0.6], [-2.8, 1.1, 7.0]])


@pytest.mark.parametrize("apart", [0.0, 1e-9, 0.02, 0.099])
def test_two_atoms_in_one_place_are_named_with_their_elements_and_distance(apart: float) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.append("H")
    atoms.positions[-1] = atoms.positions[2] + [0.0, 0.0, apart]
    line = rf"frame 7: atoms 2 \(O\) and 9 \(H\) are {round(apart, 6):.3g} Å apart; allowed: at least 0.1 Å"
    with pytest.raises(DataError, match=line):
        check_frame(atoms, "file, frame 7")


@pytest.mark.parametrize("image", [(0, 0, 0), (1, 0, 0), (-1, 2, 1)])
def test_images_of_a_skew_cell_count(image: tuple[int, int, int]) -> None:
    atoms = Atoms("NaCl", [[0.01, -0.01, 0.0], [3.0, 2.0, 1.0]], cell=TRICLINIC, pbc=True)
    check_distances(atoms, "")
    atoms.append("H")
    atoms.positions[-1] = atoms.positions[0] - [0.02, -0.02, 0.05] + np.array(image) @ TRICLINIC
    with pytest.raises(DataError, match=r"atoms 0 \(Na\) and 2 \(H\) are 0.0574 Å apart, counting periodic images"):
        check_distances(atoms, "")


def test_along_the_normal_of_a_slab_and_in_open_structures_there_are_no_images() -> None:
    positions = [[1.0, 1.0, 0.5], [1.0, 1.0, 7.5]]
    for pbc, folds in (((True, True, True), True), ((True, True, False), False), ((False,) * 3, False)):
        atoms = Atoms("OO", positions, cell=[5.0, 5.0, 7.0], pbc=pbc)
        if folds:
            with pytest.raises(DataError, match="0 Å apart"):
                check_frame(atoms, "")
        else:
            check_frame(atoms, "")
    slab = Atoms("OO", [[0.0, 1.0, 2.0], [5.0, 1.0, 2.03]], cell=[5.0, 5.0, 0.0], pbc=(True, True, False))
    with pytest.raises(DataError, match=r"0\.03 Å apart"):
        check_frame(slab, "")


def test_agrees_with_all_pairs_of_all_images_on_random_cells() -> None:
    generator = np.random.default_rng(0)
    first, second = np.triu_indices(60, 1)
    refused = 0
    for _ in range(40):
        cell = 3.0 * np.eye(3) + generator.normal(size=(3, 3))
        atoms = Atoms("H60", generator.random((60, 3)) @ cell * 3.0, cell=cell, pbc=True)
        images = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 3) @ cell
        wrapped = atoms.get_positions(wrap=True)
        pairs = wrapped[first] - wrapped[second]
        squares = (pairs**2).sum(1)[:, None] + 2.0 * pairs @ images.T + (images**2).sum(1)
        pair, image = np.unravel_index(squares.argmin(), squares.shape)
        closest = np.linalg.norm(pairs[pair] + images[image])
        if closest < 0.1:
            refused += 1
            with pytest.raises(DataError, match=f"{closest:.3g} Å apart"):
                check_distances(atoms, "")
        else:
            check_distances(atoms, "")
    assert 5 < refused < 40  # both answers were tried


def test_dense_matter_and_a_large_cell_pass() -> None:
    check_frame(bulk("C", a=2.0), "")  # compressed beyond any experiment
    check_frame(bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (8, 8, 8), "")
