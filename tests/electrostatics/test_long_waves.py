"""Dynamical quadrupoles against charges that flow along bonds: their polarization has a closed form (theory 8.4)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.crystals.piezoelectric import from_quadrupoles
from les_plugins.electrostatics.long_waves import (
    LongWaves,
    OneShotResponse,
    long_waves,
    screening_of_longest_wave,
    warn_of_long_waves,
)
from les_plugins.electrostatics.observables import born_effective_charges
from les_plugins.errors import GeometryError, LesPluginsWarning

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


def polarizable(
    repeat: int, soft: float, strain: Tensor | None = None
) -> tuple[Tensor, Tensor, OneShotResponse, Tensor, Tensor]:
    """Rigid ions of wurtzite with a polarizability, which is anisotropic, and a softness: what they induce."""
    atoms = bulk("ZnO", "wurtzite", a=4.0, c=6.4, u=0.37).repeat(repeat)
    turn = torch.eye(3, dtype=torch.float64) + (0.0 if strain is None else strain)
    place = (torch.tensor(atoms.positions) @ turn).requires_grad_()
    cell = torch.tensor(atoms.cell.array) @ turn
    of_zinc = torch.tensor(atoms.numbers == 30)
    moments = Multipoles(torch.where(of_zinc, 0.6, -0.6).double(), torch.full((len(atoms), 3), 0.05).double())
    diagonals = torch.where(of_zinc[:, None], torch.tensor([0.01, 0.01, 0.02]), torch.tensor([0.03, 0.03, 0.04]))
    alpha = torch.diag_embed(diagonals.double())
    kappa = torch.full((len(atoms),), soft, dtype=torch.float64) if soft else None
    layer = LatentElectrostatics(sigma=1.2, dl=0.9, response="one_shot")
    batch = torch.zeros(len(atoms), dtype=torch.long)
    found = layer(place, cell[None], torch.ones(1, 3).bool(), batch, moments, softness=kappa, polarizability=alpha)
    assert found.dipole is not None
    return place, cell, OneShotResponse(moments, 1.2, kappa, alpha), found.charge, found.dipole


def symmetric(tensor: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean([tensor.transpose(order) for order in itertools.permutations(range(3))], axis=0))


def test_what_the_field_of_a_wave_induces_is_no_part_of_the_quadrupoles() -> None:
    """Strained as a whole a crystal has no macroscopic field: Σ Δu of it says what the tensor is, for rigid ions.

    Compared is the part that is symmetric in all three indices, for dipoles that do not turn with the crystal fix no
    more of it.
    """
    step, slopes = 1e-4, torch.zeros(3, 3, 3, dtype=torch.float64)
    dipole = polarizable(1, 0.0)[4]
    for b, c in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[b, c] += 0.5 * step
        strain[c, b] += 0.5 * step
        change = polarizable(1, 0.0, strain)[4].sum(0) - polarizable(1, 0.0, -strain)[4].sum(0)
        slopes[:, b, c] = slopes[:, c, b] = change.detach() / (2.0 * step)
    unit, total = torch.eye(3, dtype=torch.float64), dipole.sum(0).detach()
    turned = torch.einsum("ab,c->abc", unit, total)
    expected = symmetric((slopes - 0.5 * (turned + turned.transpose(1, 2))).numpy())  # the proper one
    errors = []
    for repeat in (3, 5):
        place, wide, response, charge, induced = polarizable(repeat, 0.0)
        quadrupoles = long_waves(place, wide, charge, induced, response=response).quadrupoles[:4]
        found = symmetric(from_quadrupoles(quadrupoles.numpy(), 1.0))  # times the volume of the four atoms' cell
        errors.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
    assert errors[1] < 0.02  # what is left of the fourth order
    assert errors[1] < 0.5 * errors[0]  # and goes away in larger cells, by 0.13 were it all of the fourth order
    screened = symmetric(from_quadrupoles(long_waves(place, wide, charge, induced).quadrupoles[:4].numpy(), 1.0))
    assert float(np.abs(screened - expected).max() / np.abs(expected).max()) > 5.0 * errors[1]


def test_born_charges_of_soft_atoms_do_not_depend_on_the_cell() -> None:
    """Those that a longitudinal wave has fall with the square of the cell's length: atoms are conductors."""
    small, large = (polarizable(repeat, 0.003) for repeat in (3, 4))
    steady, falling = ([], [])
    for place, cell, response, charge, dipole in (small, large):
        steady.append(long_waves(place, cell, charge, dipole, response=response).born[:4])
        batch, pbc = torch.zeros(len(place), dtype=torch.long), torch.ones(1, 3).bool()
        falling.append(born_effective_charges(place, cell[None], pbc, batch, charge, dipole)[:4])
    size = float(steady[1].abs().max())
    assert float((steady[1] - steady[0]).abs().max()) < 0.06 * size  # the fourth order is left
    assert float((falling[1] - falling[0]).abs().max()) > 0.1 * size


def wave(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Charges on a cubic lattice of 2 Å, a cosine along the long axis of the cell, all atoms equally soft."""
    height = 2.0 * torch.arange(length, dtype=torch.float64)
    place = torch.stack([torch.zeros_like(height), torch.zeros_like(height), height], 1)
    cell = torch.diag(torch.tensor([2.0, 2.0, 2.0 * length], dtype=torch.float64))
    charge = torch.cos(2.0 * np.pi * height / (2.0 * length))
    return place, cell, charge, torch.full_like(charge, 0.004)


@pytest.mark.parametrize("length", [12, 24])
def test_the_screening_of_a_wave_is_the_part_of_its_energy(length: int) -> None:
    place, cell, charge, softness = wave(length)
    batch, pbc, sigma = torch.zeros(length, dtype=torch.long), torch.ones(1, 3).bool(), 0.6
    layer = LatentElectrostatics(sigma=sigma, dl=0.5, remove_self_interaction=False, response="one_shot")
    bare, soft = (
        float(layer(place, cell[None], pbc, batch, Multipoles(charge), softness=kappa).energy)
        for kappa in (None, softness)
    )
    part, wavelength = screening_of_longest_wave(softness, cell)
    assert wavelength == pytest.approx(2.0 * length, rel=1e-12)
    smearing = np.exp(-0.5 * (sigma * 2.0 * np.pi / wavelength) ** 2)
    assert soft / bare == pytest.approx(1.0 - part * smearing, abs=0.02 * part)  # waves beyond the lattice's own zone


def test_cells_whose_waves_are_screened_are_told_of() -> None:
    _, cell, _, softness = wave(24)
    part, _ = screening_of_longest_wave(softness, cell)
    with pytest.warns(LesPluginsWarning, match=f"induced charges take {part:.2g} of the field"):
        assert warn_of_long_waves(softness, cell)
    assert not warn_of_long_waves(0.05 / part * softness, cell)


def test_the_longest_wave_of_a_skewed_cell_is_not_along_its_own_vectors() -> None:
    cell = torch.tensor([[10.0, 0.0, 0.0], [40.0, 10.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
    straight = torch.diag(torch.tensor([10.0, 10.0, 5.0], dtype=torch.float64))
    softness = torch.ones(3, dtype=torch.float64)
    assert screening_of_longest_wave(softness, cell) == pytest.approx(screening_of_longest_wave(softness, straight))
