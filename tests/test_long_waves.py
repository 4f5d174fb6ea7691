"""Dynamical quadrupoles against charges that flow along bonds: their polarization has a closed form (PHYSICS 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from torch import Tensor

from les_plugins.errors import GeometryError
from les_plugins.long_waves import LongWaves, long_waves
from les_plugins.piezoelectric import from_quadrupoles

#: Lattice constant, Å; charge of a bond, e, and its slope, e/Å; slope of the dipole of a bond over its length, e/Å.
LATTICE, FLOW, SLOPE, DIPOLE_SLOPE = 5.4, 0.2, 0.3, 0.1


def moments(atoms: Atoms, place: Tensor, rest: float) -> tuple[Tensor, Tensor]:
    """Every bond takes f(d) from its Cl to its Na and puts a dipole g(d) d on its Na, d from Na to Cl."""
    first, second, shift = neighbor_list("ijS", atoms, 1.1 * rest)
    from_sodium = atoms.numbers[first] == 11
    first, second, shift = first[from_sodium], second[from_sodium], shift[from_sodium]
    bond = place[second] - place[first] + torch.tensor(shift @ atoms.cell.array)
    length = bond.norm(dim=1)
    flow = FLOW + SLOPE * (length - rest)
    charge = torch.zeros(len(atoms), dtype=place.dtype).index_add(0, torch.tensor(first), flow)
    charge = charge.index_add(0, torch.tensor(second), -flow)
    dipole = torch.zeros_like(place).index_add(
        0, torch.tensor(first), (0.1 + DIPOLE_SLOPE * (length - rest))[:, None] * bond
    )
    return charge, dipole


def waves_of(structure: str, repeat: int, *, dipoles: bool = True, epsilon: float = 1.0) -> tuple[Atoms, LongWaves]:
    """The primitive cell, and what belongs to it in a crystal of repeat³ cells."""
    one = bulk("NaCl", structure, a=LATTICE)
    rest = LATTICE * (np.sqrt(3.0) / 4.0 if structure == "zincblende" else 0.5)
    atoms = one.repeat(repeat)
    place = torch.tensor(atoms.positions, requires_grad=True)
    charge, dipole = moments(atoms, place, rest)
    found = long_waves(place, torch.tensor(atoms.cell.array), charge, dipole if dipoles else None, epsilon=epsilon)
    return one, LongWaves(found.born[: len(one)], found.quadrupoles[: len(one)])


def tensor_of(structure: str, repeat: int, **options: Any) -> np.ndarray:
    one, found = waves_of(structure, repeat, **options)
    return from_quadrupoles(found.quadrupoles.numpy(), one.get_volume())


@pytest.mark.parametrize("dipoles", [False, True])
def test_the_proper_tensor_of_zinc_blende_is_that_of_its_bonds(dipoles: bool) -> None:
    """P = Σ (g − f)(d) d/V over bonds, so the proper e_14 is (g' − f')/(√3 a): no image of any atom is chosen."""
    expected = ((DIPOLE_SLOPE if dipoles else 0.0) - SLOPE) / (np.sqrt(3.0) * LATTICE)
    wide, wider = (tensor_of("zincblende", repeat, dipoles=dipoles) for repeat in (4, 8))
    errors = [abs(tensor[0, 1, 2] - expected) for tensor in (wide, wider)]
    assert errors[1] / errors[0] == pytest.approx(0.5**4, rel=0.3)  # fourth order in the smallest k, and higher ones
    pattern = np.zeros((3, 3, 3))
    for a, b, c in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        pattern[a, b, c] = expected
    np.testing.assert_allclose(wider, pattern, atol=3e-3 * abs(expected))  # the fourth order is left


@pytest.mark.parametrize("dipoles", [False, True])
def test_born_charges_of_zinc_blende_are_those_of_its_bonds(dipoles: bool) -> None:
    """Displacing Na changes Σ (g − f)(d) d by −4 (g − f) − 4/3 d (g' − f'), and Cl by as much the other way."""
    bond = LATTICE * np.sqrt(3.0) / 4.0
    size, slope = (0.1, DIPOLE_SLOPE) if dipoles else (0.0, 0.0)
    expected = -4.0 * (size - FLOW) - 4.0 / 3.0 * bond * (slope - SLOPE)
    errors = []
    for repeat in (4, 8):
        _, found = waves_of("zincblende", repeat, dipoles=dipoles)
        errors.append(np.abs(found.born.numpy() - expected * np.array([1.0, -1.0])[:, None, None] * np.eye(3)).max())
    assert errors[1] < 5e-3 * expected  # the fourth order is left
    assert errors[1] / errors[0] < 0.5**3.5  # fourth order in the smallest k, and higher ones


def test_rock_salt_whose_charges_change_with_strain_has_no_tensor() -> None:
    np.testing.assert_allclose(tensor_of("rocksalt", 3), 0.0, atol=1e-13)  # rounding


def test_the_screening_scales_by_its_square_root() -> None:
    np.testing.assert_allclose(tensor_of("zincblende", 2, epsilon=4.0), 2.0 * tensor_of("zincblende", 2), rtol=1e-12)


def test_fixed_charges_have_no_quadrupoles_and_latent_ones_are_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    place = (6.0 * torch.rand(4, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    cell = torch.tensor([[6.0, 0.3, -0.4], [1.9, 5.2, 0.6], [-0.8, 1.1, 7.0]], dtype=torch.float64)
    charge = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    found = long_waves(place, cell, charge)
    np.testing.assert_allclose(found.quadrupoles, 0.0, atol=1e-12)  # rounding
    np.testing.assert_allclose(found.born, charge[:, None, None] * torch.eye(3), atol=1e-12)
    # the moment of a dipole that moves: u_a (r − r_i)_c of an atom displaced along b is δ_bc u_a + δ_ab u_c
    dipole = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found = long_waves(place, cell, charge, dipole)
    unit = torch.eye(3, dtype=torch.float64)
    expected = torch.einsum("na,bc->nbac", dipole, unit) + torch.einsum("nc,ab->nbac", dipole, unit)
    torch.testing.assert_close(found.quadrupoles, expected, rtol=0, atol=1e-12)


def test_positions_without_a_graph_are_refused() -> None:
    with pytest.raises(GeometryError, match="requires_grad is False"):
        long_waves(torch.zeros(1, 3), torch.eye(3), torch.zeros(1))
