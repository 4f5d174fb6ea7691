"""Copies of structures that keep what `info` says of total charge and spin."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from ase import Atoms

from les_plugins.data.given_charge import NAMES, charge_under, misspelt_charge
from les_plugins.data.spin import CLOSED_SHELL, spins_of


def said_of_charge_and_spin(atoms: Atoms) -> dict[str, Any]:
    """What `info` says of total charge and spin, as it stands there: for copies that shed the rest of it."""
    names = (*NAMES, *CLOSED_SHELL, misspelt_charge(atoms))
    return {name: copy.deepcopy(atoms.info[name]) for name in names if name is not None and name in atoms.info}


def repeated(atoms: Atoms, counts: Sequence[int]) -> Atoms:
    """`atoms.repeat`, with the total charge of all copies together, and without a spin that one copy has.

    Args:
        atoms: the structure.
        counts: copies along each lattice vector.
    """
    found: Atoms = atoms.repeat(counts)
    for name in NAMES:
        if atoms.info.get(name) is not None:
            found.info[name] = charge_under(name, atoms) * math.prod(counts)
    for name in [name for name, value in spins_of(atoms) if value not in CLOSED_SHELL[name]]:
        del found.info[name]
    return found
