"""Born charges that phonons take from models whose polarization is made with transfers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from transfers import EPSILON, crystal, evaluated

from les_plugins.crystals import phonons
from les_plugins.errors import DataError
from les_plugins.model.physical import born_results

pytest.importorskip("phonopy", reason="phonopy is not installed (extra phonons)")


def computed(atoms: Atoms, supercell: tuple[int, int, int], calculator: Any) -> phonons.Phonons:
    phonon, supercells = phonons.displaced_supercells(atoms, supercell)
    return phonons.with_born_charges(phonons.phonons(calculator, phonon, supercells), calculator)


class Transferring(Calculator):
    """Charge that moves between neighbours; keeps which structures it was asked for Born charges of."""

    implemented_properties = ["energy", "forces", "born_effective_charges"]  # noqa: RUF012 (as ASE has it)
    epsilon_infinity = EPSILON

    def __init__(self, source: str = "transfers") -> None:
        super().__init__()
        self.source, self.sizes = source, []

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        found = evaluated(atoms)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3)), "polarization_source": self.source}
        if "born_effective_charges" in properties:
            self.sizes.append(len(atoms))
            self.results["born_effective_charges"] = born_results(found)


def test_born_charges_by_transfers_are_those_of_the_unit_cell_and_equal_those_of_the_supercell() -> None:
    small, large = Transferring(), Transferring("phases")
    found, repeated = (computed(crystal(), (2, 1, 1), calculator) for calculator in (small, large))
    assert (small.sizes, large.sizes) == ([4], [8])
    born, same = (phonon.phonopy.nac_params["born"] for phonon in (found, repeated))
    assert np.abs(born).max() > 0.5
    np.testing.assert_allclose(born, same, rtol=0, atol=1e-10)  # sums over k of two cells, to rounding


def test_a_charge_that_the_calculator_has_for_every_structure_is_an_error_too() -> None:
    calculator = Transferring()
    calculator.takes_total_charge, calculator.total_charge_of = True, lambda atoms, where: 1.0
    with pytest.raises(DataError, match="total charge of 1 e; phonons are of neutral crystals"):
        computed(crystal(), (1, 1, 1), calculator)
