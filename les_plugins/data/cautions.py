"""What a calculator says once of the structures that it is given: charges that it does not read, vacuum, torn slabs."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from ase import Atoms

from les_plugins.data.given_charge import (
    given_charge,
    ignored_charge,
    unread_initial_charges,
)
from les_plugins.data.vacuum import Vacuum, empty_layer, empty_sphere, torn_slab
from les_plugins.errors import LesPluginsWarning

_place: ContextVar[str] = ContextVar("place", default="structure")


@contextmanager
def coming_from(place: str) -> Iterator[None]:
    """Within it, calculators name a structure by its place, such as `water.xyz, frame 3`."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def place_of_structure() -> str:
    """The name in messages of the structure that is evaluated: its place where a command has one, else "structure"."""
    return _place.get()


class Cautions:
    """The warnings of one calculator, each given once however many structures it evaluates."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._searched: tuple[object, ...] | None = None

    def look(
        self,
        atoms: Atoms,
        where: str,
        screened: bool,
        reads_charge: bool,
        key: str | None = None,
    ) -> None:
        """Warn of what is new.

        Args:
            atoms: the structure.
            where: its name in messages.
            screened: whether moments of periodic structures are scaled by an ε_∞ above 1.
            reads_charge: whether the model reads the total charge of a structure.
            key: as of `given_charge.total_charge_of`.
        """
        if not reads_charge and "charge" not in self._said and (given := given_charge(atoms)) is not None:
            self._say("charge", ignored_charge(given, where))
        if reads_charge and "charge" not in self._said and (initial := unread_initial_charges(atoms, key)) is not None:
            self._say("charge", f"{where}: has {initial}")
        if "torn" not in self._said and (torn := torn_slab(atoms)) is not None:
            self._say("torn", f"{where}: {torn}")
        if screened and "vacuum" not in self._said and (found := self._vacuum(atoms)) is not None:
            self._say("vacuum", screened_vacuum(found, where))

    def look_for_elements(self, atoms: Atoms, where: str, trained: Collection[str]) -> None:
        """Warn of elements that no training frame had: foundation models know them, their long-range heads do not.

        Args:
            atoms: the structure.
            where: its name in messages.
            trained: chemical symbols in the training set of the long-range part.
        """
        strange = sorted({str(symbol) for symbol in atoms.symbols} - set(trained))
        if strange and "elements" not in self._said:
            self._say(
                "elements",
                f"{where}: has {', '.join(strange)}, and the long-range part was last trained on frames that have only "
                f"{', '.join(trained)}: its charges, dipoles and Born charges of other elements may mean nothing",
            )

    def _vacuum(self, atoms: Atoms) -> Vacuum | None:
        """Layers in every structure; spheres, which cost more, in one of each composition and size of the cell."""
        if (layer := empty_layer(atoms)) is not None or not atoms.pbc.all():
            return layer
        kind = (atoms.numbers.tobytes(), round(8.0 * float(np.log(atoms.cell.volume))))
        if kind == self._searched:
            return None
        self._searched = kind
        return empty_sphere(atoms)

    def _say(self, kind: str, text: str) -> None:
        self._said.add(kind)
        warnings.warn(text, LesPluginsWarning, stacklevel=4)


def screened_vacuum(found: Vacuum, where: str) -> str:
    """The line for a vacuum inside a periodic cell whose moments are scaled by ε_∞."""
    return (
        f"{where}: pbc is T T T with {found}; its charges, dipole, Born effective charges and polarizability are "
        "scaled by epsilon_infinity as those inside a material are, and what stands in a vacuum has none around it: "
        "give a molecule pbc F F F and a sheet or slab pbc F along its normal, or set epsilon_infinity to 1"
    )


def warn_of_vacuum_in_phonons(atoms: Atoms, where: str) -> None:
    """Warn where the LO–TO splitting of a bulk crystal is put on what stands in a vacuum.

    Args:
        atoms: the supercell.
        where: the structure's name.
    """
    found = empty_layer(atoms) or empty_sphere(atoms)
    if found is None:
        return
    warnings.warn(
        f"{where}: pbc is T T T with {found}; the LO–TO splitting at Γ is that of a bulk crystal of this cell, vacuum "
        "included, and changes with its size: that of a sheet vanishes at Γ, so leave Born charges out (no --born)",
        LesPluginsWarning,
        stacklevel=3,
    )
