"""Relaxed-ion piezoelectric tensors against a closed form and against relaxed structures under strain (theory 10.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from rigid_ions import RigidIons, rock_salt
from springs import CHARGE, LATTICE, SPRING, Springs, zinc_blende

from les_plugins.crystals.piezoelectric import (
    clamped_piezoelectric_tensor,
    piezoelectric_tensor,
    relax_ions,
    relaxed_piezoelectric_tensor,
    voigt,
)
from les_plugins.crystals.zone_center import zone_center
from les_plugins.errors import ConfigError, DataError, GeometryError


class Ions(RigidIons):
    """Rigid ions with the dipole of the positions as given."""

    implemented_properties = [*RigidIons.implemented_properties, "dipole", "charges"]  # noqa: RUF012 (as ASE has it)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        charges = np.where(atoms.numbers == 11, 1.1, -1.1)
        self.results |= {"charges": charges, "dipole": charges @ atoms.positions}


class AtRest:
    """The second route: dipole and charges of a structure after its ions were relaxed in its own cell."""

    def __init__(self, calculator: Any) -> None:
        self.calculator, self.known = calculator, dict[bytes, Atoms]()

    def get_property(self, name: str, atoms: Atoms) -> Any:
        key = atoms.positions.tobytes()
        if key not in self.known:
            relaxed = relax_ions(self.calculator, atoms, largest_force=3e-7)
            relaxed.positions -= (relaxed.positions - atoms.positions).mean(0)
            self.known[key] = relaxed
        return self.calculator.get_property(name, self.known[key])


def wurtzite() -> Atoms:
    """Of rigid ions, polar along z: its inner parameter is not fixed by symmetry."""
    return relax_ions(Ions(), bulk("NaCl", "wurtzite", a=4.3, c=7.02), largest_force=1e-6)


def test_springs_in_zinc_blende_have_the_tensor_of_a_closed_form() -> None:
    """Bonds keep their length when u_z = −a γ_xy/4 (Kleinman's ζ = 1): e_14 = −q/a² of the ion at (¼, ¼, ¼)."""
    found = relaxed_piezoelectric_tensor(Springs(), zinc_blende())
    expected = np.zeros((3, 6))
    expected[[0, 1, 2], [3, 4, 5]] = -CHARGE / LATTICE**2
    # central differences: the third order of the springs in strain (1e-3)² and displacement (0.01 Å/bond)²
    np.testing.assert_allclose(voigt(found.proper), expected, atol=1e-4 * CHARGE / LATTICE**2)
    np.testing.assert_allclose(voigt(found.clamped.proper), 0.0, atol=1e-12)  # fixed charges: only ions move
    gamma = found.internal_strain[1] - found.internal_strain[0]
    assert gamma[2, 0, 1] == pytest.approx(-LATTICE / 4.0, rel=1e-4)
    # the optical mode of the two ions: 4/3 of a spring, reduced mass
    masses = zinc_blende().get_masses()
    stiff = 4.0 / 3.0 * SPRING * masses.sum() / masses.prod()
    np.testing.assert_allclose(found.center.frequencies, 521.471 * np.sqrt(stiff), rtol=1e-4)


def test_the_formula_and_relaxed_structures_under_strain_agree_in_a_polar_crystal() -> None:
    crystal = wurtzite()
    found = relaxed_piezoelectric_tensor(Ions(), crystal, distance=0.002)
    route = piezoelectric_tensor(AtRest(Ions()), crystal, strain=3e-3)  # what is left of the forces counts less
    scale = np.abs(route.proper).max()
    for name in ("proper", "improper"):
        # third order in strain and displacement
        np.testing.assert_allclose(getattr(found, name), getattr(route, name), atol=2e-4 * scale)
    assert np.abs(found.proper - found.improper).max() > 0.01 * scale  # a polar crystal tells them apart
    e = voigt(found.proper)
    assert e[2, 2] * e[2, 0] < 0  # as in all wurtzites that were measured
    np.testing.assert_allclose(e[[2, 1], [0, 3]], [e[2, 1], e[0, 4]], atol=2e-4 * scale)  # six-fold symmetry
    np.testing.assert_allclose(e[:2, [0, 1, 2, 5]], 0.0, atol=2e-4 * scale)


class Kept(Ions):
    """The same with a net charge of 0.1 e that stays, spread over the two ions of a cell."""

    takes_total_charge = False

    def calculate(self, *arguments: Any, **named: Any) -> None:
        super().calculate(*arguments, **named)
        self.results["charges"] = self.results["charges"] + 0.05
        if "born_effective_charges" in self.results:
            self.results["born_effective_charges"] = self.results["born_effective_charges"] + 0.05 * np.eye(3)


def test_born_charges_add_up_to_the_net_charge_that_a_model_keeps() -> None:
    neutral, kept = (relaxed_piezoelectric_tensor(calculator, wurtzite()) for calculator in (Ions(), Kept()))
    np.testing.assert_allclose(neutral.born.sum(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(kept.born.sum(0), 0.1 * len(kept.born) / 2 * np.eye(3), atol=1e-12)
    assert kept.sum_rule_violation == pytest.approx(neutral.sum_rule_violation, abs=1e-12)
    np.testing.assert_allclose(kept.internal, neutral.internal, atol=1e-10)  # a shift of all ions is no motion


@pytest.mark.parametrize("tensor", [piezoelectric_tensor, clamped_piezoelectric_tensor, relaxed_piezoelectric_tensor])
def test_a_charged_crystal_is_an_error_whoever_has_the_charge(tensor: Any) -> None:
    charged = rock_salt()
    charged.info["charge"] = 1.0
    with pytest.raises(DataError, match="total charge of 1 e; piezoelectric tensors are of neutral crystals"):
        tensor(Ions(), charged)
    calculator = Ions()
    calculator.takes_total_charge, calculator.total_charge_of = True, lambda atoms, where: -2.0
    with pytest.raises(DataError, match="total charge of -2 e"):
        tensor(calculator, rock_salt())


def test_the_proper_tensor_does_not_depend_on_the_image_of_an_ion() -> None:
    start = wurtzite()
    moved = start.copy()
    moved.positions[0] += start.cell[2]
    here, there = (relaxed_piezoelectric_tensor(Ions(), crystal) for crystal in (start, moved))
    np.testing.assert_allclose(there.proper, here.proper, atol=1e-6)  # rounding over the strain
    assert np.abs(there.improper - here.improper).max() > 1e-3


def test_rock_salt_has_no_tensor_by_symmetry() -> None:
    found = relaxed_piezoelectric_tensor(Ions(), rock_salt())
    assert np.abs(found.born).max() > 1.0
    assert found.center.frequencies.min() > 10.0
    for tensor in (found.proper, found.internal, found.clamped.proper):
        np.testing.assert_allclose(tensor, 0.0, atol=1e-9)  # rounding over the strain


def test_a_repeated_cell_gives_the_same_born_charges_and_tensor() -> None:
    one, eight = (relaxed_piezoelectric_tensor(Springs(), zinc_blende(), supercell=(n, n, n)) for n in (1, 2))
    np.testing.assert_allclose(eight.proper, one.proper, atol=1e-12)


def test_ions_that_are_not_at_rest_are_refused_and_can_be_relaxed() -> None:
    moved = zinc_blende()
    moved.positions[1, 0] += 0.05
    with pytest.raises(GeometryError, match=r"not at rest: largest force 0\.\d+ eV/Å, allowed 0\.01"):
        relaxed_piezoelectric_tensor(Springs(), moved)
    relaxed = relax_ions(Springs(), moved)
    bond = relaxed.positions[1] - relaxed.positions[0]
    np.testing.assert_allclose(bond, LATTICE / 4.0, atol=1e-3 / SPRING)  # the force that is left
    with pytest.raises(DataError, match="not at rest after 1 steps"):
        relax_ions(Springs(), moved, steps=1)


@pytest.mark.parametrize(("spring", "words"), [(-SPRING, "i cm⁻¹ \\(imaginary\\)"), (0.0, "mode is 0 cm⁻¹")])
def test_an_unstable_structure_raises_an_error(spring: float, words: str) -> None:
    with pytest.raises(GeometryError, match=f"not stable at the zone centre.*{words}"):
        relaxed_piezoelectric_tensor(Springs(spring), zinc_blende())


def test_open_structures_single_atoms_and_strange_numbers_are_refused() -> None:
    with pytest.raises(GeometryError, match="three periodic directions"):
        relaxed_piezoelectric_tensor(Springs(), Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]]))
    with pytest.raises(GeometryError, match="1 atoms with pbc"):
        zone_center(Springs(), Atoms("Na", cell=[4.0] * 3, pbc=True))
    with pytest.raises(ConfigError, match=r"displacement is 0\.0"):
        relaxed_piezoelectric_tensor(Springs(), zinc_blende(), distance=0.0)
    with pytest.raises(ConfigError, match=r"supercell is \(0, 1, 1\)"):
        relaxed_piezoelectric_tensor(Springs(), zinc_blende(), supercell=(0, 1, 1))


def test_forces_move_ions_by_the_inverse_force_constants_and_never_the_whole_crystal() -> None:
    center = zone_center(Springs(), zinc_blende())
    push = np.array([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    moved = center.displacements(push)
    np.testing.assert_allclose(moved.sum(0), 0.0, atol=1e-12)
    back = np.einsum("iajb,jb->ia", center.force_constants, moved)
    np.testing.assert_allclose(back, push - push.mean(0), atol=1e-10)
    assert center.translation_violation < 1e-9


class Lost(Springs):
    """Forces that are NaN once an atom has left its place, or the cell its size."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def calculate(self, atoms: Atoms | None = None, *arguments: Any, **named: Any) -> None:
        super().calculate(atoms, *arguments, **named)
        assert atoms is not None
        moved = abs(atoms.get_volume() - zinc_blende().get_volume()) > 1e-9
        if self._what == "strain":
            if moved:
                self.results["dipole"] = np.full(3, np.nan)
        elif not moved and np.abs(atoms.positions - zinc_blende().positions).max() > 1e-6:
            self.results["forces"] = np.full((len(atoms), 3), np.nan)


def test_results_that_are_not_finite_and_masses_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match=r"forces are not finite with atom 0 displaced by 0\.01 Å"):
        zone_center(Lost("displacement"), zinc_blende())
    with pytest.raises(DataError, match=r"dipole of the crystal strained by 0\.001 is not finite"):
        piezoelectric_tensor(Lost("strain"), zinc_blende())
    weightless = zinc_blende()
    weightless.set_masses([0.0, 30.0])
    with pytest.raises(DataError, match="atom 0 has the mass 0 u; allowed: above 0"):
        zone_center(Springs(), weightless)
