"""Which labels of response count, and what is said of a set that has others."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from les_plugins.data.response_labels import LabelledFrame, check_response_labels, label_counts, response_labels
from les_plugins.errors import DataError, LesPluginsWarning
from les_plugins.testing.structures import waters

PERIODIC, SLAB, OPEN = [True] * 3, [True, True, False], [False] * 3


def frames(*kinds: tuple[list[bool], str]) -> list[LabelledFrame]:
    """Frames with one label each."""
    return [(f"a.xyz, frame {number}", pbc, [name]) for number, (pbc, name) in enumerate(kinds)]


def check(some: list[LabelledFrame], name: str, is_training_set: bool = True) -> list[str]:
    """Warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_response_labels(some, {}, [name], {name}, "a.xyz", is_training_set)
    assert all(issubclass(item.category, LesPluginsWarning) for item in caught)
    return [str(item.message) for item in caught]


def test_a_label_counts_where_the_structure_has_what_it_is_of() -> None:
    found = {name: [label_counts(name, pbc) for pbc in (PERIODIC, SLAB, OPEN)] for name in ("dipole", "polarization")}
    assert found == {"dipole": [False, True, True], "polarization": [True, False, False]}
    for name in ("born_effective_charges", "polarizability"):
        assert all(label_counts(name, pbc) for pbc in (PERIODIC, SLAB, OPEN))


@pytest.mark.parametrize(
    ("name", "pbc", "other"), [("dipole", PERIODIC, "polarization"), ("polarization", SLAB, "dipole")]
)
def test_a_training_set_without_a_label_that_counts_is_an_error_that_says_which_label_would(
    name: str, pbc: list[bool], other: str
) -> None:
    some = frames((pbc, name), (pbc, name), (OPEN, "polarizability"))
    message = rf"weight for {name}, and none of 2 frames with it counts: .* is {other}; set response_loss.{name}: 0"
    with pytest.raises(DataError, match=message):
        check(some, name)
    (text,) = check(some, name, is_training_set=False)
    assert text.endswith(f"is {other}; its error is not validated")


def test_labels_of_which_some_count_are_warned_of_once_with_their_numbers() -> None:
    some = frames((OPEN, "dipole"), (PERIODIC, "dipole"), (PERIODIC, "dipole"), (PERIODIC, "polarization"))
    for is_training_set in (True, False):
        (text,) = check(some, "dipole", is_training_set)
        assert text.startswith("a.xyz: of 3 frames with dipole 2 do not count: ")
    assert check(frames((OPEN, "dipole"), (SLAB, "dipole")), "dipole") == []


def test_a_polarization_of_an_open_structure_which_has_no_volume_does_not_count() -> None:
    atoms = waters(1, pbc=False)
    atoms.info["polarization"] = np.array([0.1, 0.0, -0.2])
    found = response_labels(atoms, "a.xyz, frame 0")
    with pytest.raises(DataError, match="none of 1 frames with it counts"):
        check([("a.xyz, frame 0", atoms.pbc, found)], "polarization")
