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


def fix_gauge(model: nn.Module, mean_charge: Mapping[int, float]) -> bool:
    """Choose the sign of the latent moments so that the most electronegative element is negative on average.

    Args:
        model: a host model; nothing happens to one without a long-range part.
        mean_charge: mean latent charge of every element (by atomic number), e.

    Returns:
        Whether the sign was changed. Energy and forces never change.
    """
    rated = [z for z in mean_charge if ELECTRONEGATIVITY.get(z, 0)]
    parts = [module for module in model.modules() if isinstance(module, LongRange)]
    if not rated or not parts:
        return False
    mean = sum(mean_charge[z] for z in rated) / len(rated)
    most = max(rated, key=lambda z: ELECTRONEGATIVITY[z])
    # one element alone has no contrast: then its own sign decides
    contrast = mean_charge[most] - (mean if len(rated) > 1 else 0.0)
    if contrast <= 0.0:
        return False
    for part in parts:
        part.flip_gauge()
    return True


def mean_charges(model: nn.Module, host: str, frames: Sequence[Atoms]) -> dict[int, float]:
    """Mean latent charge, e, of every element (by atomic number) over some structures.

    Args:
        model: a host model; empty result for one without a long-range part. It is not changed.
        host: name of the adapter.
        frames: the structures.
    """
    if not any(isinstance(module, LongRange) for module in model.modules()):
        return {}
    device = next(model.parameters()).device
    calculator = plugins.host(host).les_calculator(model=copy.deepcopy(model), metadata={}, device=str(device))
    charges: dict[int, list[float]] = {}
    for atoms in frames:
        bare = atoms.copy()  # without the labels that a file may have put into its calculator
        for number, charge in zip(bare.numbers, calculator.get_property("latent_charges", bare), strict=True):
            charges.setdefault(int(number), []).append(float(charge))
    return {number: sum(values) / len(values) for number, values in charges.items()}
