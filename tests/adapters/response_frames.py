"""Frames with labels of response and a section that can learn them, for the trainers of every host that reads both."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins.testing import waters

LONG_RANGE: dict[str, Any] = {
    "multipoles": ["charge", "dipole"],
    "response": {"dipole": "isotropic"},
    "total_charge": "conserved",
    "initial_charges": {"O": -0.4, "H": 0.2},
    "element_charges": "fixed",
    "screening": "trained",
    "epsilon_infinity": 1.5,
    "dl": 2.0,
}


def labelled(number: int, pbc: bool = True, born: bool = True) -> Atoms:
    """Two waters whose response is that of charges −0.9 and 0.45 e.

    Args:
        number: of the frame; another one is another structure.
        pbc: periodic with a polarization, or open with a dipole.
        born: with Born effective charges.
    """
    atoms = waters(2, seed=number, pbc=pbc)
    charges = np.where(atoms.numbers == 8, -0.9, 0.45)
    atoms.calc = SinglePointCalculator(atoms, energy=-8.0, forces=0.01 * np.ones((6, 3)))
    if born:
        atoms.arrays["REF_born_effective_charges"] = (charges[:, None, None] * np.eye(3)).reshape(-1, 9)
    atoms.info["polarizability"] = 0.2 * np.eye(3).ravel()
    atoms.info["polarization_dipole" if pbc else "dipole"] = charges @ atoms.positions
    return atoms
