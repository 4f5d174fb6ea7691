"""Polarizabilities of structures with dipole–induced-dipole terms against closed forms (theory, section 9.4)."""

from __future__ import annotations

import math

import pytest
import torch
from pair_cases import neighbours, pairs_of
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.response.mutual import ORDERS, MutualPolarization
from les_plugins.errors import ConfigError, ResponseError
from les_plugins.units import COULOMB_CONSTANT, VACUUM_PERMITTIVITY

OPEN, PERIODIC = torch.tensor([[False] * 3]), torch.tensor([[True] * 3])
# the solution's own tolerance
CLOSE = {"rtol": 1e-7, "atol": 1e-10}


def whole(layer, positions, cell, pbc, alpha, order, softness=None, pairs=None) -> Tensor:
    batch = torch.zeros(len(positions), dtype=torch.long)
    parts = layer.collective_polarizability(positions, cell, pbc, batch, softness, alpha, pairs, mutual=order)
    return parts.sum(0)


def dimer(distance: float) -> tuple[Tensor, Tensor]:
    return torch.tensor([[0.3, -0.2, 0.1], [0.3, -0.2, 0.1 + distance]]).double(), torch.zeros(1, 3, 3).double()


def test_two_atoms_have_the_polarizability_of_silberstein() -> None:
    # at 9 σ the smeared dipoles are points: erfc(9/√2) is 2e-19
    distance, first, second = 9.0, 0.3, 0.5
    positions, cell = dimer(distance)
    alpha = torch.tensor([first, second], dtype=torch.float64)
    t = COULOMB_CONSTANT / distance**3
    expected = {
        "none": (first + second, first + second),
        "first_order": (first + second - 2 * first * second * t, first + second + 4 * first * second * t),
        "self_consistent": (
            (first + second - 2 * first * second * t) / (1 - first * second * t**2),
            (first + second + 4 * first * second * t) / (1 - 4 * first * second * t**2),
        ),
    }
    assert set(expected) == set(ORDERS)
    for order, (across, along) in expected.items():
        found = whole(LatentElectrostatics(), positions, cell, OPEN, alpha, order)
        torch.testing.assert_close(found, torch.tensor([across, across, along]).double().diag(), **CLOSE)


@pytest.mark.parametrize("method", ["direct", "mesh"])
@pytest.mark.parametrize("n", [1, 2])
def test_a_cubic_lattice_obeys_clausius_mossotti(method: str, n: int) -> None:
    # at 9 σ neither the cutoff (exp(−σ²k²/2) = 1e-6 at 0.5 Å less) nor the overlap with images is left
    edge, polarizability = 9.0, 0.12
    cell = n * edge * torch.eye(3, dtype=torch.float64)[None]
    grid = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64)] * 3).reshape(-1, 3)
    positions = edge * grid + torch.tensor([0.4, 1.0, -2.0]).double()
    alpha = torch.full((len(positions),), polarizability, dtype=torch.float64)
    layer = LatentElectrostatics(dl=0.8, method=method, mesh_tolerance=1e-7)
    lorentz = polarizability / (3.0 * VACUUM_PERMITTIVITY * edge**3)
    expected = {"none": 1.0, "first_order": 1.0 + lorentz, "self_consistent": 1.0 / (1.0 - lorentz)}
    for order, factor in expected.items():
        found = whole(layer, positions, cell, PERIODIC, alpha, order)
        unit = n**3 * polarizability * factor * torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(found, unit, rtol=1e-6, atol=1e-6)
        epsilon = 1.0 + float(found[0, 0]) / (VACUUM_PERMITTIVITY * n**3 * edge**3)
        if order == "self_consistent":
            assert (epsilon - 1.0) / (epsilon + 2.0) == pytest.approx(lorentz, rel=1e-5)


@pytest.mark.parametrize("order", ["none", "first_order", "self_consistent"])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("flows", [False, True])
def test_the_polarizability_is_symmetric_and_turns_with_the_structure(order, periodic, flows, make_system) -> None:
    system = make_system(n_atoms=4, periodic=periodic, seed=2)
    listed, layer = neighbours(system), LatentElectrostatics()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)).double())[0]
    turned = system._replace(
        positions=system.positions @ rotation.T,
        cell=system.cell @ rotation.T,
        polarizability=rotation @ system.polarizability @ rotation.T,
    )
    before, after = (
        whole(
            layer,
            each.positions,
            each.cell,
            each.pbc,
            each.polarizability,
            order,
            pairs=pairs_of(each, listed) if flows else None,
        )
        for each in (system, turned)
    )
    torch.testing.assert_close(before, before.T, **CLOSE)
    torch.testing.assert_close(after, rotation @ before @ rotation.T, **CLOSE)
    if order == "none":
        bare = system.polarizability.sum(0)
        if flows:
            bare = bare + pairs_of(system, listed).polarizability(4).sum(0)
        torch.testing.assert_close(before, bare, **CLOSE)


@pytest.mark.parametrize("periodic", [False, True])
def test_orders_are_the_series_of_the_dense_solution(periodic: bool, make_system) -> None:
    system = make_system(n_atoms=4, periodic=periodic, seed=4)
    layer, batch = LatentElectrostatics(), torch.zeros(4, dtype=torch.long)
    columns = []
    for unit in torch.eye(12, dtype=torch.float64).view(-1, 4, 3):
        moments = Multipoles(torch.zeros(4).double(), unit)
        columns.append(-layer(system.positions, system.cell, system.pbc, batch, moments).field.flatten())
    t = torch.stack(columns, 1)  # without the atoms' own
    k = torch.block_diag(*system.polarizability)
    place = (system.positions, system.cell, system.pbc, system.polarizability)
    uniform = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    first = uniform.T @ (k - k @ t @ k) @ uniform
    every = uniform.T @ torch.linalg.solve(torch.eye(12).double() + k @ t, k) @ uniform
    assert (every - first).abs().max() > 1e-3 * every.abs().max()
    torch.testing.assert_close(whole(layer, *place, "first_order"), first, **CLOSE)
    torch.testing.assert_close(whole(layer, *place, "self_consistent"), every, **CLOSE)


def test_a_layer_that_polarizes_mutually_has_its_own_response_at_every_order(make_system) -> None:
    system = make_system(n_atoms=4)
    layer = LatentElectrostatics(response="self_consistent", response_tolerance=1e-12)
    place = (system.positions, system.cell, system.pbc, system.batch, None, system.polarizability)
    self_consistent = layer.collective_polarizability(*place)
    torch.testing.assert_close(
        layer.collective_polarizability(*place, mutual="self_consistent"), self_consistent, **CLOSE
    )
    own_field = 1.0 / (3.0 * VACUUM_PERMITTIVITY * (2.0 * math.pi) ** 1.5)
    alpha = system.polarizability
    bare = torch.linalg.solve(torch.eye(3).double() + own_field * alpha, alpha)  # with each atom's own smeared dipole
    torch.testing.assert_close(layer.collective_polarizability(*place, mutual="none"), bare, **CLOSE)


def test_charges_induced_on_atoms_of_a_molecule_add_up_to_zero(make_system) -> None:
    system = make_system(n_atoms=4, periodic=False)
    place = (system.positions, system.cell, system.pbc, system.polarizability)
    moved = (system.positions + 7.0, *place[1:])
    for order in ORDERS:
        here, there = (whole(LatentElectrostatics(), *each, order, softness=system.softness) for each in (place, moved))
        torch.testing.assert_close(here, there, **CLOSE)


def test_a_polarization_catastrophe_is_an_error() -> None:
    positions, cell = dimer(4.0)
    alpha = torch.full((2,), 4.0**3 / (2 * COULOMB_CONSTANT) * 1.5, dtype=torch.float64)
    layer = LatentElectrostatics()
    assert whole(layer, positions, cell, OPEN, alpha, "first_order").isfinite().all()
    with pytest.raises(ResponseError, match="no minimum over its induced moments"):
        whole(layer, positions, cell, OPEN, alpha, "self_consistent")


def test_another_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="mutual is 'second'; allowed: 'none', 'first_order'"):
        whole(LatentElectrostatics(), *dimer(4.0), OPEN, torch.ones(2).double(), "second")
    assert MutualPolarization().total_charge == "fixed"
