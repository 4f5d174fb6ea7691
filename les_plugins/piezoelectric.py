"""Clamped-ion piezoelectric tensor of a crystal, improper and proper, through its ASE calculator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from les_plugins.errors import ConfigError, GeometryError
from les_plugins.metrics import Floats

#: e/Å² in C/m².
COULOMB_PER_SQUARE_METRE = 16.02176634


@dataclass(frozen=True)
class Piezoelectricity:
    """∂P_a/∂η_bc at fixed fractional coordinates, (3, 3, 3) e/Å², symmetric in b and c.

    Attributes:
        improper: of P = D/V with the positions as given: depends on which image of each atom was given.
        proper: what flows through a strained sample, improper + δ_bc P_a − ½(δ_ab P_c + δ_ac P_b): free of that choice
            for charges that strain does not change.
        charge_response: (N,) largest |∂q/∂η|, e. Where it is not small, moving an atom to another image changes the
            proper tensor too, by ∂q/∂η × lattice vector / V: latent charges do not say which way the charge flowed.
    """

    improper: Floats
    proper: Floats
    charge_response: Floats


def piezoelectric_tensor(calculator: Any, atoms: Atoms, strain: float = 1e-3) -> Piezoelectricity:
    """Clamped-ion piezoelectric tensor by central differences, twelve evaluations.

    Args:
        calculator: ASE calculator with dipole and charges.
        atoms: periodic structure; not changed.
        strain: size of the symmetric strains η.

    Returns:
        Both tensors in e/Å², × 16.02 in C/m². The ions' own relaxation, Z* times internal strain, is not in it.

    Raises:
        GeometryError: not periodic along three axes.
        ConfigError: strain not above zero.

    Source: PHYSICS 6; D. Vanderbilt, J. Phys. Chem. Solids 61, 147 (2000) for proper and improper.
    """
    if not atoms.pbc.all():
        raise GeometryError(f"pbc is {atoms.pbc.tolist()}; a piezoelectric tensor needs three periodic directions")
    if not 0 < strain < 0.1:
        raise ConfigError(f"strain is {strain}; allowed: above 0, below 0.1")

    def strained(eta: Floats) -> tuple[Floats, Floats]:
        copy = atoms.copy()
        copy.set_constraint()
        copy.set_cell(atoms.cell.array @ (np.eye(3) + eta), scale_atoms=False)
        copy.positions = atoms.positions @ (np.eye(3) + eta)
        return (
            np.asarray(calculator.get_property("dipole", copy), dtype=float).copy(),
            np.asarray(calculator.get_property("charges", copy), dtype=float).copy(),
        )

    volume, moment = atoms.get_volume(), strained(np.zeros((3, 3)))[0]
    slopes, flow = np.zeros((3, 3, 3)), np.zeros(len(atoms))
    for b in range(3):
        for c in range(b, 3):
            eta = np.zeros((3, 3))
            eta[b, c] += 0.5 * strain
            eta[c, b] += 0.5 * strain
            (up, more), (down, less) = strained(eta), strained(-eta)
            slopes[:, b, c] = slopes[:, c, b] = (up - down) / (2.0 * strain)
            flow = np.maximum(flow, np.abs(more - less) / (2.0 * strain))
    unit = np.eye(3)
    turned = np.einsum("ab,c->abc", unit, moment)
    proper = (slopes - 0.5 * (turned + turned.transpose(0, 2, 1))) / volume
    improper = (slopes - np.einsum("bc,a->abc", unit, moment)) / volume
    return Piezoelectricity(improper, proper, flow)
