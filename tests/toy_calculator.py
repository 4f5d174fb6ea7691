"""An ASE calculator with closed-form results, and labelled frames, for tests that need no host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator

from les_plugins.errors import GeometryError
from les_plugins.hosting.results import Results, everything

#: Charge and constant energy by element.
CHARGES = {1: 0.4, 8: -0.8}
CONSTANTS = {1: -1.0, 8: -5.0}


class Toy(Calculator):
    """Springs of every atom to the origin, constants and fixed charges by element."""

    implemented_properties = [  # noqa: RUF012 (as ASE has it)
        "energy",
        "forces",
        "stress",
        "charges",
        "dipole",
        "polarizability",
        "born_effective_charges",
    ]
    known_elements = (1, 8)

    def __init__(self, constants: dict[int, float] | None = None, spring: float = 0.3) -> None:
        super().__init__()
        self.constants, self.spring, self.asked = constants or CONSTANTS, spring, list[list[str]]()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        assert atoms is not None
        if atoms.pbc.any() and not atoms.pbc.all():
            raise GeometryError("no slabs")
        self.asked.append(list(properties))
        charges = np.array([CHARGES[z] for z in atoms.numbers])
        self.results: dict[str, Any] = Results(
            {
                "energy": sum(self.constants[z] for z in atoms.numbers)
                + 0.5 * self.spring * (atoms.positions**2).sum(),
                "forces": -self.spring * atoms.positions,
                "stress": 0.01 * np.arange(6.0),
                "charges": charges,
                "dipole": charges @ atoms.positions,
                "polarizability": np.diag([1.0, 2.0, 3.0]),
            }
        )
        if "born_effective_charges" in properties:
            self.results["born_effective_charges"] = charges[:, None, None] * np.eye(3)


def molecule(seed: int, periodic: bool = False, formula: str = "OHH") -> Atoms:
    positions = np.random.default_rng(seed).normal(size=(len(Atoms(formula)), 3))
    return Atoms(formula, positions, cell=np.diag([6.0, 7.0, 8.0]) if periodic else None, pbc=periodic)


def labelled(atoms: Atoms, calculator: Calculator | None = None, **changes: Any) -> Atoms:
    """A frame with the toy's own results, or others given in `changes`, as labels; None leaves a label out."""
    toy = calculator or Toy()
    toy.calculate(atoms, toy.implemented_properties)
    found = {name: value for name, value in (everything(toy.results) | changes).items() if value is not None}
    found.pop("charges", None)
    polarizability = found.pop("polarizability", None)
    if polarizability is not None:
        atoms.info["polarizability"] = np.asarray(polarizability).ravel()
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results.update(found)
    return atoms
