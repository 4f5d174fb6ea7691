"""Errors of predictions against references: RMSE, MAE, R², slope, in total, per element, diagonal and off-diagonal.

Plain NumPy; `evaluation` gathers the values, `les-plugins evaluate` and `plotting` show the results.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from les_plugins.errors import DataError

Floats = NDArray[np.float64]
#: Name of the group of all elements, and of all components.
ALL = "all"
#: Groups of tensor components, and what the `diagonal` mask is in them.
PARTS = {ALL: None, "diagonal": True, "off_diagonal": False}


@dataclass(frozen=True)
class Errors:
    """Errors of M predicted values p against references r, in the unit of the values.

    Attributes:
        count: M.
        rmse: sqrt(mean((p − r)²)).
        mae: mean(|p − r|).
        largest: max(|p − r|).
        r2: 1 − Σ(p − r)² / Σ(r − mean r)², the coefficient of determination against the line p = r; at most 1,
            negative where the mean of the references would predict better; None for a constant reference.
        slope: of the least-squares line p = slope · r + intercept; None for a constant reference.
    """

    count: int
    rmse: float
    mae: float
    largest: float
    r2: float | None
    slope: float | None

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


def errors(reference: ArrayLike, predicted: ArrayLike) -> Errors:
    """Errors of predictions, every number with the same weight.

    Args:
        reference: any shape.
        predicted: the same shape.

    Raises:
        DataError: shapes differ, there is no value, or one is NaN or infinite.
    """
    r, p = _pair(reference, predicted)
    difference = p - r
    squares = float(np.mean(difference**2))
    r2 = slope = None
    if float(np.ptp(r)) > 0:
        centred = r - r.mean()
        variance = float(np.mean(centred**2))
        if variance > 0:
            r2 = 1.0 - squares / variance
            slope = float(np.mean(centred * (p - p.mean()))) / variance
    magnitude = np.abs(difference)
    return Errors(r.size, float(np.sqrt(squares)), float(magnitude.mean()), float(magnitude.max()), r2, slope)


def grouped_errors(
    reference: ArrayLike,
    predicted: ArrayLike,
    elements: ArrayLike | None = None,
    diagonal: ArrayLike | None = None,
) -> dict[tuple[str, str], Errors]:
    """Errors of all values and of every group of them.

    Args:
        reference: (M,) values.
        predicted: (M,) values.
        elements: (M,) atomic number of the atom that each value belongs to, or None.
        diagonal: (M,) bool, whether each value is a diagonal component of a tensor, or None.

    Returns:
        By (element, part): element is "all" or a symbol, in the order of atomic numbers; part is "all", "diagonal" or
        "off_diagonal". Groups without a value are left out.

    Raises:
        DataError: as `errors`.
    """
    r, p = _pair(reference, predicted)
    everything = np.ones(r.shape, dtype=bool)
    of_element = {ALL: everything}
    if elements is not None:
        numbers = np.asarray(elements)
        of_element |= {chemical_symbols[z]: numbers == z for z in np.unique(numbers)}
    of_part = {ALL: everything}
    if diagonal is not None:
        on_diagonal = np.asarray(diagonal, dtype=bool)
        of_part |= {part: on_diagonal == wanted for part, wanted in PARTS.items() if wanted is not None}
    found = {}
    for element, in_element in of_element.items():
        for part, in_part in of_part.items():
            group = in_element & in_part
            if group.any():
                found[element, part] = errors(r[group], p[group])
    return found


def r2_within(reference: ArrayLike, predicted: ArrayLike, groups: ArrayLike) -> float | None:
    """R² against the mean of each group: what is predicted beyond the group that a value belongs to.

    Charges of elements of opposite sign have an R² near 1 for any model that tells the elements apart; this one does
    not count that.

    Args:
        reference: (M,) values.
        predicted: (M,) values.
        groups: (M,) label of each value, such as its atomic number.

    Returns:
        1 − Σ(p − r)² / Σ(r − mean r of the group)²; None where the references of every group are constant.

    Raises:
        DataError: as `errors`.
    """
    r, p = _pair(reference, predicted)
    label = np.asarray(groups)
    each = [r[label == one] for one in np.unique(label)]
    # a constant group has no spread, whatever the rounding of its mean
    spread = sum(float(np.sum((values - values.mean()) ** 2)) for values in each if np.ptp(values) > 0)
    return None if spread <= 0 else 1.0 - float(np.sum((p - r) ** 2)) / spread


def composition_residual(values: ArrayLike, fractions: ArrayLike) -> Floats | None:
    """What is left of per-atom values after the best fit of one constant per element.

    Energies of two sources differ by a constant per element (pseudopotentials, reference atoms). The residuals of
    references and predictions can be compared across such a difference.

    Args:
        values: (F,) energy per atom of every frame.
        fractions: (F, n_elements) fraction of the atoms of each frame that are of each element.

    Returns:
        (F,) values − fractions @ constants, constants from least squares (of smallest norm where the compositions do
        not tell the elements apart); None where there are no more frames than constants that can be told apart,
        because then nothing is left by construction.
    """
    v, x = np.asarray(values, dtype=np.float64), np.asarray(fractions, dtype=np.float64)
    rank = int(np.linalg.matrix_rank(x)) if x.size else 0
    if len(v) <= rank:
        return None
    centre = v.mean()  # fractions sum to one: a common constant can be taken off first, which keeps all digits
    constants, *_ = np.linalg.lstsq(x, v - centre, rcond=None)
    residual: Floats = v - centre - x @ constants
    return residual


def _pair(reference: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    r, p = np.asarray(reference, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if r.shape != p.shape:
        raise DataError(f"references have shape {r.shape}, predictions {p.shape}; they must be the same")
    if r.size == 0:
        raise DataError("no values to compare")
    for name, values in (("references", r), ("predictions", p)):
        if bad := int(np.count_nonzero(~np.isfinite(values))):
            raise DataError(f"{bad} of {values.size} {name} are NaN or infinite")
    return r.ravel(), p.ravel()
