"""Proper and improper piezoelectric tensors against closed forms (theory, section 10.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from toy_calculator import Toy, molecule
from transfers import crystal, evaluated

from les_plugins.crystals.piezoelectric import (
    clamped_piezoelectric_tensor,
    from_quadrupoles,
    piezoelectric_tensor,
)
from les_plugins.electrostatics.long_waves import OneShotResponse, long_waves
from les_plugins.errors import ConfigError, GeometryError
from les_plugins.model.physical import latent_results


class Piezo(Toy):
    """The toy with a dipole D_a = Σ g_abc η_bc of the strain from a cubic cell, and no other."""

    def __init__(self, couplings: np.ndarray) -> None:
        super().__init__()
        self.couplings = couplings

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        strain = atoms.cell.array / 6.0 - np.eye(3)
        self.results["dipole"] = np.einsum("abc,bc->a", self.couplings, strain)


class Screened(Toy):
    """The toy whose moments carry the root of a screening that depends on the volume."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        self.results["latent_charges"] = self.results["charges"]
        for name in ("charges", "dipole"):
            self.results[name] = atoms.get_volume() / 100.0 * self.results[name]


def cubic() -> Atoms:
    return Atoms("OHH", [[0, 0, 0], [1, 0, 0.2], [0, 1, -0.3]], cell=[6.0] * 3, pbc=True)


def test_charges_that_follow_the_strain_have_no_proper_response() -> None:
    found = piezoelectric_tensor(Toy(), molecule(1, periodic=True))
    np.testing.assert_allclose(found.proper, 0.0, atol=1e-12)
    assert np.abs(found.improper).max() > 1e-4
    assert found.charge_response.max() == 0.0


def test_the_improper_response_depends_on_the_image_and_the_proper_one_does_not() -> None:
    start = molecule(1, periodic=True)
    moved = start.copy()
    moved.positions[0] += start.cell[2]
    here, there = piezoelectric_tensor(Toy(), start), piezoelectric_tensor(Toy(), moved)
    assert np.abs(there.improper - here.improper).max() > 1e-3
    np.testing.assert_allclose(there.proper, here.proper, atol=1e-12)


def test_the_screening_is_held_so_that_images_do_not_matter() -> None:
    start = molecule(1, periodic=True)
    moved = start.copy()
    moved.positions[0] += start.cell[2]
    for atoms in (start, moved):
        found = piezoelectric_tensor(Screened(), atoms)
        np.testing.assert_allclose(found.proper, 0.0, atol=1e-11)  # rounding over the strain
        assert found.charge_response.max() < 1e-10
        assert np.abs(found.improper).max() > 1e-4


def test_a_dipole_that_grows_with_strain_is_the_response_with_its_indices_in_order() -> None:
    couplings = np.random.default_rng(0).standard_normal((3, 3, 3))
    couplings += couplings.transpose(0, 2, 1)
    found = piezoelectric_tensor(Piezo(couplings), cubic())
    for tensor in (found.proper, found.improper):  # no dipole without strain: they agree
        np.testing.assert_allclose(tensor, couplings / 216.0, atol=1e-12)
    assert np.abs(found.proper - found.proper.transpose(1, 0, 2)).max() > 1e-3


def test_open_structures_and_strange_strains_are_refused() -> None:
    with pytest.raises(GeometryError, match="needs three periodic directions"):
        piezoelectric_tensor(Toy(), molecule(1))
    bad: Any = -1.0
    with pytest.raises(ConfigError, match=r"strain is -1\.0"):
        piezoelectric_tensor(Toy(), cubic(), bad)


class Flowing(Calculator):
    """Charge that moves between neighbours, dipoles, polarizabilities."""

    implemented_properties = ["energy", "dipole", "charges", "dynamical_quadrupoles"]  # noqa: RUF012 (as ASE has it)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        assert "dynamical_quadrupoles" not in properties  # transfers need no wave
        self.results = {"energy": 0.0, **latent_results(evaluated(atoms))}


def test_transfers_have_the_tensor_of_long_waves_for_every_choice_of_cell_and_images() -> None:
    atoms = crystal()
    found = clamped_piezoelectric_tensor(Flowing(), atoms, strain=1e-4)
    assert found.source == "transfers"
    assert found.charge_response is None
    size = np.abs(found.proper).max()
    moved = atoms.copy()
    moved.positions[[0, 2]] += moved.cell.array[1] - moved.cell.array[2]
    for other in (moved, atoms.repeat((2, 1, 1))):
        again = clamped_piezoelectric_tensor(Flowing(), other, strain=1e-4)
        # strain² times the third derivative, and the rounding of dipoles over the strain
        np.testing.assert_allclose(again.proper, found.proper, rtol=0, atol=1e-6 * size)
    deviations = []
    for number in (3, 4):
        large = evaluated(atoms.repeat(number))
        latent, screening = large.latent, float(large.screening)
        response = OneShotResponse(latent.permanent, 1.0, None, latent.polarizability)
        waves = long_waves(large.positions, large.cell[0], latent.charge, latent.dipole, None, screening, response)
        tensor = from_quadrupoles(waves.quadrupoles[:4].numpy(), atoms.get_volume())
        deviations.append(np.abs(tensor - found.proper).max() / size)
    assert deviations[0] / deviations[1] == pytest.approx((4 / 3) ** 4, rel=0.3)  # the order that long waves leave
    assert deviations[1] < 0.1
