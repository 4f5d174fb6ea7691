"""The common sign of all latent moments: a convention, for the energy is even in them (PHYSICS 6). Set when saving."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from les_plugins import plugins
from les_plugins.long_range import LongRange

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


#: Frames that the sign is read off, at most: Born charges cost several evaluations each.
_FRAMES = 4


def fix_gauge(model: nn.Module, mean_charge: Mapping[int, float], count: Mapping[int, int] | None = None) -> bool:
    """Choose the sign of the latent moments so that electronegative elements are negative.

    The covariance, over atoms, of Pauling electronegativity and charge becomes negative. All elements count: the charge
    of the most electronegative one alone can be a small difference, as that of nitrogen in methylammonium is.

    Args:
        model: a host model; nothing happens to one without a long-range part.
        mean_charge: mean charge of every element (by atomic number), e.
        count: atoms of every element; one each when None.

    Returns:
        Whether the sign was changed. Energy and forces never change.
    """
    rated = [z for z in mean_charge if ELECTRONEGATIVITY.get(z, 0)]
    parts = [module for module in model.modules() if isinstance(module, LongRange)]
    if not rated or not parts:
        return False
    weight = {z: 1 if count is None else count[z] for z in rated}
    total = sum(weight.values())
    mean = sum(weight[z] * ELECTRONEGATIVITY[z] for z in rated) / total
    # one element alone has no contrast: then its own sign decides
    pull = {z: ELECTRONEGATIVITY[z] - mean if len(rated) > 1 else 1.0 for z in rated}
    if sum(weight[z] * pull[z] * mean_charge[z] for z in rated) <= 0.0:
        return False
    for part in parts:
        part.flip_gauge()
    return True


def mean_born_charges(model: nn.Module, host: str, frames: Sequence[Atoms]) -> tuple[dict[int, float], dict[int, int]]:
    """Mean isotropic Born charge tr Z*/3, e, of every element (by atomic number), and how many atoms it is of.

    Z* rather than latent charges, which leave out what the latent dipoles carry.

    Args:
        model: a host model; empty results for one without a long-range part. It is not changed.
        host: name of the adapter.
        frames: structures; the first few are used.
    """
    if not any(isinstance(module, LongRange) for module in model.modules()):
        return {}, {}
    device = next(model.parameters()).device
    calculator = plugins.host(host).les_calculator(model=copy.deepcopy(model), metadata={}, device=str(device))
    charges: dict[int, list[float]] = {}
    for atoms in frames[:_FRAMES]:
        bare = atoms.copy()  # without the labels that a file may have put into its calculator
        born = calculator.get_property("born_effective_charges", bare)
        for number, tensor in zip(bare.numbers, born, strict=True):
            charges.setdefault(int(number), []).append(float(tensor.trace()) / 3.0)
    means = {number: sum(values) / len(values) for number, values in charges.items()}
    return means, {number: len(values) for number, values in charges.items()}
