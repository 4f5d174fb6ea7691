"""Errors against hand-made numbers."""

import numpy as np
import pytest

from les_plugins.data.metrics import composition_residual, errors, grouped_errors, r2_within
from les_plugins.errors import DataError


def test_errors_of_a_hand_made_case() -> None:
    found = errors([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 5.0])
    assert found.count == 4
    assert found.rmse == pytest.approx(1.0)
    assert found.mae == pytest.approx(0.5)
    assert found.largest == pytest.approx(2.0)
    assert found.r2 == pytest.approx(1.0 - 4.0 / 5.0)
    assert found.slope == pytest.approx(1.6)


def test_r2_is_against_the_identity_and_the_slope_is_not() -> None:
    reference = np.linspace(-1.0, 1.0, 11)
    found = errors(reference, 2.0 * reference + 1.0)
    assert found.slope == pytest.approx(2.0)
    assert found.r2 == pytest.approx(1.0 - (np.mean(reference**2) + 1.0) / np.mean(reference**2))


def test_perfect_predictions_have_no_error() -> None:
    found = errors([[1.0, 2.0], [3.0, 5.0]], [[1.0, 2.0], [3.0, 5.0]])
    assert (found.rmse, found.mae, found.largest, found.r2, found.slope) == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_a_constant_reference_has_no_r2_and_no_slope() -> None:
    found = errors([0.1, 0.1, 0.1], [0.1, 0.2, 0.3])
    assert found.r2 is None
    assert found.slope is None
    assert found.mae == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("reference", "predicted", "message"),
    [
        ([1.0, 2.0], [1.0], "shape"),
        ([], [], "no values"),
        ([1.0, np.nan], [1.0, 1.0], "1 of 2 references"),
        ([1.0, 1.0], [np.inf, np.nan], "2 of 2 predictions"),
    ],
)
def test_what_has_no_errors_is_refused(reference: list[float], predicted: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        errors(reference, predicted)


def test_groups_are_the_errors_of_their_values() -> None:
    random = np.random.default_rng(0)
    elements = np.repeat([8, 1, 1], 9)
    diagonal = np.tile(np.eye(3, dtype=bool).ravel(), 3)
    reference, predicted = random.normal(size=(2, 27))
    found = grouped_errors(reference, predicted, elements, diagonal)
    assert list(found) == [(e, part) for e in ("all", "H", "O") for part in ("all", "diagonal", "off_diagonal")]
    assert found["all", "all"] == errors(reference, predicted)
    assert found["O", "all"] == errors(reference[:9], predicted[:9])
    assert found["H", "off_diagonal"].count == 12
    wanted = (elements == 1) & diagonal
    assert found["H", "diagonal"] == errors(reference[wanted], predicted[wanted])


def test_groups_without_elements_or_parts_are_left_out() -> None:
    assert list(grouped_errors([1.0, 2.0], [1.0, 2.0])) == [("all", "all")]
    assert list(grouped_errors([1.0, 2.0], [1.0, 2.0], diagonal=[True, True])) == [("all", "all"), ("all", "diagonal")]


def test_constants_of_elements_leave_no_residual() -> None:
    fractions = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    residual = composition_residual(fractions @ [-278858.125, 3.5], fractions)
    np.testing.assert_allclose(residual, 0.0, atol=1e-9)  # 2e5 eV has 3e-11 of rounding


def test_the_residual_of_one_composition_is_the_distance_to_the_mean() -> None:
    residual = composition_residual([1.0, 2.0, 6.0], np.full((3, 2), 0.5))
    np.testing.assert_allclose(residual, [-2.0, -1.0, 3.0], atol=1e-14)


def test_too_few_frames_leave_nothing_to_compare() -> None:
    assert composition_residual([1.0], [[1.0]]) is None
    assert composition_residual([1.0, 2.0], np.eye(2)) is None


def test_r2_within_does_not_count_that_groups_differ() -> None:
    """Every atom given the mean of its element: R² near 1 over both elements, 0 within them."""
    random = np.random.default_rng(0)
    elements = np.repeat([1, 8], [200, 100])
    means = np.where(elements == 1, 0.5, -1.0)
    reference = means + 0.05 * random.standard_normal(300)
    predicted = np.where(elements == 1, reference[:200].mean(), reference[200:].mean())
    assert errors(reference, predicted).r2 > 0.99
    assert r2_within(reference, predicted, elements) == pytest.approx(0.0, abs=1e-12)
    halfway = 0.5 * (reference + predicted)  # a quarter of the squares is left
    assert r2_within(reference, halfway, elements) == pytest.approx(0.75)
    assert r2_within(means, predicted, elements) is None
