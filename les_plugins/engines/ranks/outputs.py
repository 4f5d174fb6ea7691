"""Charges and dipoles of atoms as properties of LAMMPS. P(t) and J(t) are `recorder.py`'s."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from les_plugins.data.metrics import Floats
from les_plugins.engines.ranks.engine import Evaluation, Observer
from les_plugins.engines.ranks.moments import Moments

#: Names under which LAMMPS knows them: `d_les_charge`, `d2_les_dipole[1]` …
CHARGE, DIPOLE = "les_charge", "les_dipole"


class AtomProperties(Observer):
    """Charges (e) and dipoles (e·Å) of atoms as properties of LAMMPS, for its dumps and computes.

    Args:
        moments: of the model.
    """

    def __init__(self, moments: Moments) -> None:
        self._moments = moments

    def attached(self, lmp: Any, energy_unit: float) -> None:
        """Adds `fix property/atom`."""
        self._lmp = lmp
        add_properties(lmp)

    def look(self, step: int, found: Evaluation, ids: NDArray[Any]) -> None:
        """Writes them."""
        write_properties(self._lmp, *self._moments.of_atoms(found))


def add_properties(lmp: Any) -> None:
    """Make room for charges and dipoles in LAMMPS' atoms, which they move with."""
    lmp.command(f"fix les_properties all property/atom d_{CHARGE} d2_{DIPOLE} 3 writedata no")


def write_properties(lmp: Any, charge: Floats, dipole: Floats) -> None:
    """Charges (own,) and dipoles (own, 3) of own atoms, in LAMMPS' order."""
    if len(charge):
        lmp.numpy.extract_atom(f"d_{CHARGE}")[: len(charge)] = charge
        lmp.numpy.extract_atom(f"d2_{DIPOLE}")[: len(charge)] = dipole
