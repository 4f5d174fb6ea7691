"""Choice: farthest points, a fingerprint that symmetry leaves alone, a committee that disagrees."""

from __future__ import annotations

import argon
import numpy as np
import pytest
from ase.calculators.lj import LennardJones

from les_plugins.distillation.choice import chosen, disagreements, farthest_points, fingerprints
from les_plugins.errors import HostError, LesPluginsWarning


def rattles(count):
    frames = [argon.crystal() for _ in range(count)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.05 * (number + 1), seed=number)
    return frames


def test_each_point_is_the_farthest_from_those_before():
    points = np.array([[0.0], [1.0], [10.0], [6.0], [2.0]])
    assert farthest_points(points, 4) == [0, 2, 3, 4]
    assert farthest_points(points, 99, first=1) == [1, 2, 3, 0, 4]


def test_fingerprints_do_not_change_under_rotation_translation_permutation_and_doubling():
    frames = rattles(3)
    same = [atoms.copy() for atoms in frames]
    for atoms in same:
        atoms.rotate(37, (1, 2, 3), rotate_cell=True)
        atoms.positions += 1.3
        atoms.wrap()
    same = [atoms[[2, 0, 3, 1]].repeat((1, 2, 1)) for atoms in same]
    found = fingerprints([*frames, *same])
    np.testing.assert_allclose(found[:3], found[3:], atol=1e-9)
    assert np.linalg.norm(found[0] - found[1]) > 1.0  # and tell structures apart


def test_copies_are_chosen_last():
    frames = rattles(4)
    order = chosen([*frames, frames[0].copy(), frames[1].copy()], 4)
    assert {min(number, number - 4 if number > 3 else number) for number in order} == {0, 1, 2, 3}


def test_a_model_without_features_is_an_error():
    with pytest.raises(HostError, match="--features: the model has no long-range part in this process"):
        chosen(rattles(3), 2, student=LennardJones())


def test_a_committee_disagrees_where_its_members_differ():
    committee = [LennardJones(sigma=3.4, epsilon=epsilon, rc=5.0, smooth=True) for epsilon in (0.01, 0.02)]
    frames = rattles(4)
    found = disagreements(frames, committee)
    forces = [np.linalg.norm(committee[0].get_property("forces", atoms), axis=1).max() for atoms in frames]
    # forces F and 2F: standard deviation F/√2 with one degree of freedom
    assert found == pytest.approx(np.array(forces) / np.sqrt(2), rel=1e-9)
    assert set(chosen(frames, 2, committee)) == set(np.argsort(-found)[:2].tolist())


def test_a_committee_of_one_model_is_passed_over():
    frames = [argon.crystal() for _ in range(6)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.02 * number, seed=number)
    with pytest.warns(LesPluginsWarning, match="its models give the same forces on all candidates"):
        found = chosen(frames, 2, [argon.teacher(), argon.teacher()])
    assert found == chosen(frames, 2)
