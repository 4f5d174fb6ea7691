"""Which labels have a defined value in a structure of some boundary condition."""

from __future__ import annotations

from ase import Atoms

from les_plugins.data.metrics import Floats


def not_comparable(atoms: Atoms, references: dict[str, Floats], crystal_polarizability: bool) -> dict[str, str]:
    """Labels that a structure of this boundary condition has no defined value for, and why."""
    reasons = {}
    periodic = bool(atoms.pbc.any())
    if periodic and "dipole" in references:
        reasons["dipole"] = "the dipole of a periodic structure is defined up to a quantum only"
    if periodic and "polarizability" in references and not (crystal_polarizability and atoms.pbc.all()):
        reasons["polarizability"] = (
            "periodic: published values follow several definitions; --crystal-polarizability takes those of crystals "
            "for ε0 V (ε_∞ − 1)"
        )
    if not atoms.pbc.all() and "stress" in references:
        reasons["stress"] = "stress needs a cell that is periodic along all three axes"
    return reasons
