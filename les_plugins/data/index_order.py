"""Which index of a file's Born charges is the polarization: whoever turns a molecule with its dipole knows."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from les_plugins.data.metrics import Floats

#: One order has to violate the rule this many times more (sum of squares) to be called wrong. Two files of SPICE, 55
#: dipeptides and 121 dimers: 190 and 12,000 times.
CERTAIN = 10.0
#: e²·Å², of all frames: less is rounding, as for symmetric Z*, whose order makes no difference.
NOTHING = 1e-6


def rotation_violation(atoms: Atoms, born: Floats, dipole: Floats) -> float:
    """How far Σ_i Z*_i,ab ε_bcd r_i,d is from ε_acd P_d, as turning a molecule as a whole asks.

    Args:
        atoms: an open structure.
        born: (N, 3, 3) e, ∂P_a/∂r_b.
        dipole: (3,) e·Å, P.

    Returns:
        Sum of squares over a and c, e²·Å².
    """
    levi_civita = np.zeros((3, 3, 3))
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        levi_civita[a, b, c], levi_civita[a, c, b] = 1.0, -1.0
    change = np.einsum("iab,bcd,id->ac", born, levi_civita, atoms.positions)
    return float(np.square(change - np.einsum("acd,d->ac", levi_civita, dipole)).sum())


class IndexOrder:
    """Collects both orders' violations of the rule, over frames that have Z* and dipole and no periodic axis."""

    def __init__(self) -> None:
        self._as_read = self._other = 0.0

    def add(self, atoms: Atoms, born: Floats, dipole: Floats) -> None:
        """One frame; born (N, 3, 3) e as it is compared, dipole (3,) e·Å."""
        self._as_read += rotation_violation(atoms, born, dipole)
        self._other += rotation_violation(atoms, born.transpose(0, 2, 1), dipole)

    def note(self, transposed: bool) -> str | None:
        """What to tell whoever reads the errors, or None when the order is right or cannot be told."""
        if self._as_read < NOTHING or self._as_read <= CERTAIN * self._other:
            return None
        advice = "leave out --born-transposed" if transposed else "give --born-transposed"
        return (
            "the file's Born charges have the other order of indices: where a molecule turns its dipole must turn with "
            f"it, which they violate by {self._as_read:.2g} e²·Å² as read and by {self._other:.2g} in the other order; "
            f"{advice}"
        )
