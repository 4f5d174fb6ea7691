"""The common sign of all latent moments: a convention, for the energy is even in them (theory 8.5). Set when saving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from les_plugins.errors import LesPluginsError
from les_plugins.model.long_range import LongRange

if TYPE_CHECKING:
    from ase import Atoms

#: Pauling electronegativities, H to Bi (W. M. Haynes, CRC Handbook, 97th ed.); zero: none, the element is not used.
_PAULING = """
2.20 0 0.98 1.57 2.04 2.55 3.04 3.44 3.98 0 0.93 1.31 1.61 1.90 2.19 2.58 3.16 0 0.82 1.00 1.36 1.54 1.63 1.66
1.55 1.83 1.88 1.91 1.90 1.65 1.81 2.01 2.18 2.55 2.96 3.00 0.82 0.95 1.22 1.33 1.60 2.16 1.90 2.20 2.28 2.20
1.93 1.69 1.78 1.96 2.05 2.10 2.66 2.60 0.79 0.89 1.10 1.12 1.13 1.14 1.13 1.17 1.20 1.20 1.20 1.22 1.23 1.24
1.25 1.10 1.27 1.30 1.50 2.36 1.90 2.20 2.20 2.28 2.54 2.00 1.62 2.33 2.02
"""
ELECTRONEGATIVITY = {number: float(value) for number, value in enumerate(_PAULING.split(), 1)}

#: Frames that the sign is read off, at least and at most: Born charges cost several evaluations each.
_FEWEST, _MOST = 2, 16
#: How many times its own scatter the covariance must be, and how large at least, e: below it is round-off.
_SIGNIFICANT, _SMALLEST = 3.0, 1e-6


@dataclass(frozen=True)
class Sign:
    """The common sign of the latent moments, as read off some structures.

    Attributes:
        decided: whether the covariance of electronegativity and Born charge stands out from its scatter.
        turned: whether the sign has to be changed for electronegative elements to be negative.
        covariance: over atoms, of Pauling electronegativity and tr Z*/3, e.
        noise: standard error of it, from the scatter of the charges of each element, e.
        frames: number of structures that it was read off.
        reason: why it could not be decided.
    """

    decided: bool
    turned: bool = False
    covariance: float = 0.0
    noise: float = 0.0
    frames: int = 0
    reason: str = ""

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {key: value for key, value in asdict(self).items() if key != "reason" or value}


def read_sign(calculator: Any, frames: Sequence[Atoms]) -> Sign:
    """Look whether electronegative elements are negative, in frames of more than one element from the whole set.

    Z* rather than latent charges, which leave out what the latent dipoles carry. All elements count: the charge of the
    most electronegative one alone can be a small difference, as that of nitrogen in methylammonium is.

    Args:
        calculator: of a model with a long-range part.
        frames: structures, as a training set has them; some of them are looked at.
    """
    candidates = [number for number, atoms in enumerate(frames) if _has_contrast(atoms)]
    if not candidates:
        return Sign(False, reason="no structure has elements of different electronegativity")
    charges: dict[int, list[float]] = {}
    used, failure = 0, ""
    covariance = noise = 0.0
    for number in _spread(candidates):
        bare = frames[number].copy()  # without the labels that a file may have put into its calculator
        try:
            born = calculator.get_property("born_effective_charges", bare)
        except (LesPluginsError, RuntimeError, ValueError) as error:
            failure = failure or f"frame {number}: {error}"
            continue
        traces = np.trace(np.asarray(born, dtype=float), axis1=1, axis2=2) / 3.0
        if not np.isfinite(traces).all():
            failure = failure or f"frame {number}: the Born effective charges are not finite"
            continue
        for element, charge in zip(bare.numbers, traces, strict=True):
            charges.setdefault(int(element), []).append(float(charge))
        used += 1
        covariance, noise = covariance_with_electronegativity(charges)
        if used >= _FEWEST and _significant(covariance, noise):
            break
    if not used:
        return Sign(False, reason=f"Born effective charges could not be computed: {failure}")
    if not _significant(covariance, noise):
        what = f"the covariance of electronegativity and Born charge, {covariance:.1e} e, does not stand out"
        turned = covariance > _SMALLEST  # the likelier of the two, where it is more than round-off
        return Sign(False, turned, covariance, noise, used, f"{what} from its scatter, {noise:.1e} e")
    return Sign(True, covariance > 0.0, covariance, noise, used)


def covariance_with_electronegativity(charges: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """Covariance, over atoms, of Pauling electronegativity and charge, e, and its standard error.

    The error is that of the mean charges of the elements: what one element's atoms differ by among themselves.

    Args:
        charges: of the atoms of each element (by atomic number), e; elements without an electronegativity are left out.
    """
    rated = {z: np.asarray(values) for z, values in charges.items() if ELECTRONEGATIVITY.get(z, 0) and len(values)}
    total = sum(map(len, rated.values()))
    if not total:
        return 0.0, 0.0
    mean = sum(len(values) * ELECTRONEGATIVITY[z] for z, values in rated.items()) / total
    covariance = variance = 0.0
    for z, values in rated.items():
        pull = (ELECTRONEGATIVITY[z] - mean) * len(values) / total
        covariance += pull * float(values.mean())
        if len(values) > 1:
            variance += pull**2 * float(values.var(ddof=1)) / len(values)
    return covariance, math.sqrt(variance)


def mean_susceptibility(calculator: Any, frames: Sequence[Atoms]) -> float | None:
    """Mean electronic susceptibility χ = tr α/3/(ε0 V) over some periodic structures; None without any, or without α.

    Args:
        calculator: of a model with a long-range part.
        frames: structures, as a training set has them; some of the periodic ones are looked at.
    """
    periodic = [number for number, atoms in enumerate(frames) if atoms.pbc.all()]
    found = []
    for number in _spread(periodic):
        atoms = frames[number].copy()
        calculator.get_property("energy", atoms)
        if (susceptibility := calculator.results.get("susceptibility")) is None:
            return None
        found.append(float(susceptibility))
    return float(np.mean(found)) or None if found else None


def change_sign(model: nn.Module) -> None:
    """Change the common sign of all latent moments of a host model; energy and forces do not change."""
    for part in model.modules():
        if isinstance(part, LongRange):
            part.flip_gauge()


def note_epsilon_infinity(model: nn.Module, susceptibility: float | None) -> bool:
    """Put ε_∞ into the section of a model whose screening was trained; whether it can be known.

    Args:
        model: the host's model.
        susceptibility: ⟨χ⟩ of its training set, or None.
    """
    for part in model.modules():
        if isinstance(part, LongRange) and part.trained_screening() is not None:
            response = part.config.response
            if susceptibility is None and (response.dipole != "none" or response.charge == "pairs"):
                return False
            part.note_epsilon_infinity(susceptibility)
    return True


def _has_contrast(atoms: Atoms) -> bool:
    return len({ELECTRONEGATIVITY.get(int(z), 0) for z in atoms.numbers} - {0}) > 1


def _significant(covariance: float, noise: float) -> bool:
    return abs(covariance) > max(_SIGNIFICANT * noise, _SMALLEST)


def _spread(numbers: Sequence[int]) -> list[int]:
    """At most `_MOST` of some numbers, evenly through the list."""
    step = max(1.0, len(numbers) / _MOST)
    return [numbers[int(i * step)] for i in range(min(len(numbers), _MOST))]
