"""Force constants and modes of a crystal at the zone centre (q = 0, no macroscopic field), by displaced atoms.

Called by `piezoelectric.py` for the answer of the ions to a strain; bands and LO–TO splitting are `phonons.py`'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units

from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, DataError, GeometryError

#: cm⁻¹ of sqrt(eV/(Å² u)).
_WAVENUMBER = units._hbar * 1e10 / math.sqrt(units._e * units._amu) / units.invcm


@dataclass(frozen=True)
class ZoneCenter:
    """How a crystal answers forces that are the same in every cell.

    Attributes:
        force_constants: (N, 3, N, 3) eV/Å², Φ = −∂F/∂r, all images of an atom displaced together; symmetric, and zero
            for translations.
        frequencies: (3N − 3,) cm⁻¹, rising, imaginary ones negative; the three translations left out.
        translation_violation: eV/Å², largest element of Σ_j Φ_ij before it was made zero.
    """

    force_constants: Floats
    frequencies: Floats
    translation_violation: float

    def displacements(self, forces: Floats) -> Floats:
        """(N, 3, ...) Å that ions move under (N, 3, ...) eV/Å, their mean zero: the pseudo-inverse of Φ.

        A net force, which translations would answer without end, is left out.
        """
        count = len(forces)
        shift = _translations(count)
        stiff = self.force_constants.reshape(3 * count, 3 * count) + shift  # translations get the force constant 1
        push = forces.reshape(3 * count, -1)
        answer = np.linalg.solve(stiff, push - shift @ push)
        return np.asarray(answer.reshape(forces.shape))


def zone_center(calculator: Any, atoms: Atoms, distance: float = 0.01) -> ZoneCenter:
    """Force constants by central differences, 6 N evaluations.

    Args:
        calculator: ASE calculator with forces.
        atoms: periodic structure of two atoms or more, at rest; not changed. Masses are taken from it.
        distance: displacement, Å.

    Raises:
        GeometryError: not periodic along three axes, a single atom.
        ConfigError: a distance that is not between 0 and 1 Å.
        DataError: a mass that is not above 0, forces that are not finite.
    """
    if not atoms.pbc.all() or len(atoms) < 2:
        raise GeometryError(
            f"{len(atoms)} atoms with pbc {atoms.pbc.tolist()}; modes of the zone centre need two atoms or more and "
            "three periodic directions"
        )
    if not 0 < distance < 1:
        raise ConfigError(f"displacement is {distance}; allowed: a length above 0 and below 1 Å")
    for number, mass in enumerate(atoms.get_masses()):
        if not 0 < mass < math.inf:
            raise DataError(f"atom {number} has the mass {mass:g} u; allowed: above 0")
    size = 3 * len(atoms)
    rows = np.zeros((size, size))
    for number in range(size):
        forces = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.set_constraint()
            moved.positions[number // 3, number % 3] += sign * distance
            found = np.asarray(calculator.get_property("forces", moved), dtype=float).copy()
            if not np.isfinite(found).all():
                raise DataError(f"forces are not finite with atom {number // 3} displaced by {distance:g} Å")
            forces.append(found)
        rows[number] = (forces[1] - forces[0]).ravel() / (2.0 * distance)
    constants = 0.5 * (rows + rows.T)
    violation = float(np.abs(constants.reshape(-1, len(atoms), 3).sum(1)).max())
    keep = np.eye(size) - _translations(len(atoms))
    constants = keep @ constants @ keep
    shape = (len(atoms), 3, len(atoms), 3)
    return ZoneCenter(constants.reshape(shape), _frequencies(constants, atoms.get_masses()), violation)


def _translations(count: int) -> Floats:
    """(3N, 3N) projector on displacements common to all atoms."""
    return np.kron(np.full((count, count), 1.0 / count), np.eye(3))


def _frequencies(constants: Floats, masses: Floats) -> Floats:
    """Of the modes that are no translations, found in the space orthogonal to them."""
    root = np.repeat(np.sqrt(masses), 3)
    common = np.kron(np.sqrt(masses)[:, None], np.eye(3))
    basis = np.linalg.svd(common)[0][:, 3:]  # orthogonal to the three mass-weighted translations
    values = np.linalg.eigvalsh(basis.T @ (constants / np.outer(root, root)) @ basis)
    return np.asarray(_WAVENUMBER * np.sign(values) * np.sqrt(np.abs(values)))
