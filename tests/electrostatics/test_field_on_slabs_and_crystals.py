"""A uniform field along the normal of a slab, where it has an energy, and on the dipoles of what is periodic."""

import math

import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold

from les_plugins.electrostatics.observables import (
    born_effective_charges,
    field_forces,
    polarization,
    system_polarizability,
)
from les_plugins.units import COULOMB_CONSTANT

FINE = {"dl": 0.8}  # no wave vector that crosses the cutoff under a small strain is seen
ROUNDING = {"rtol": 1e-11, "atol": 1e-11}
FIELD = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
ORDERS = pytest.mark.parametrize("order", [0, 2])


def normal_of(cell):
    """Of the fixtures' slabs, open along the second axis."""
    normal = torch.linalg.cross(cell[0, 2], cell[0, 0])
    return normal / normal.norm()


def upright(system, strength=0.4):
    return strength * normal_of(system.cell)


def charged_slab(make_system, **settings):
    system = make_system(periodic="slab", **settings)
    return system._replace(charge=system.charge + 0.1)  # a net charge is moved too


def central(energy, value, step=1e-4):
    """Gradient by central differences, and by autograd."""
    leaf = value.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(leaf), leaf)
    numeric = torch.zeros_like(value)
    for place in range(value.numel()):
        shift = torch.zeros(value.numel(), dtype=value.dtype)
        shift[place] = step
        shift = shift.view_as(value)
        numeric.view(-1)[place] = (energy(value + shift) - energy(value - shift)) / (2.0 * step)
    return slope, numeric


@ORDERS
def test_forces_of_a_slab_in_a_field_are_central_differences(order, make_system, solve):
    system = charged_slab(make_system, order=order)
    field = upright(system)
    slope, numeric = central(
        lambda place: solve(system._replace(positions=place), field, **FINE).energy[0], system.positions
    )
    assert (slope - numeric).abs().max() < 1e-6 * slope.abs().max()  # theory, section 12


def test_in_plane_stress_of_a_slab_in_a_field_is_the_central_difference(make_system, solve):
    system = charged_slab(make_system)
    field, normal = upright(system), normal_of(system.cell)
    flat = torch.eye(3, dtype=torch.float64) - torch.outer(normal, normal)

    def energy(strain):
        deform = torch.eye(3, dtype=torch.float64) + flat @ strain @ flat  # the normal, and with it the field, stays
        strained = system._replace(positions=system.positions @ deform, cell=system.cell @ deform)
        return solve(strained, field, **FINE).energy[0]

    slope, numeric = central(energy, torch.zeros(3, 3, dtype=torch.float64))
    assert (slope - numeric).abs().max() < 1e-6 * slope.abs().max()  # theory, section 12


def test_polarization_and_polarizability_of_a_slab_are_derivatives_in_the_field(make_system, solve):
    system = charged_slab(make_system)
    normal = normal_of(system.cell)
    strength = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    result = solve(system, strength * normal)
    (rate,) = torch.autograd.grad(result.energy.sum(), strength, create_graph=True)
    (curvature,) = torch.autograd.grad(rate, strength)
    net = result.charge.sum()[None]  # the layer takes charges as they are
    moment = polarization(system.positions, system.batch, result.charge, result.dipole, net)[0]
    # the gauge of section 7 of the theory: induced charge counts from the centre of the softness
    centre = (system.softness[:, None] * system.positions).sum(0) / system.softness.sum()
    moment = moment - (result.charge - system.charge).sum() * centre
    torch.testing.assert_close(-rate, moment @ normal, **ROUNDING)
    whole = system_polarizability(
        system.positions, system.pbc, system.batch, system.softness, system.polarizability, system.cell
    )
    torch.testing.assert_close(-curvature, normal @ whole[0] @ normal, **ROUNDING)
    plane = system.cell[0, 0] / system.cell[0, 0].norm()
    dipoles = system.polarizability.sum(0)
    torch.testing.assert_close(whole[0] @ plane, dipoles @ plane, **ROUNDING)  # no charge flows along the plane


def test_second_derivatives_of_a_slab_in_a_field(make_system, solve):
    system = charged_slab(make_system, n_atoms=3, size=4.5)
    names = ("positions", "charge", "dipole", "softness", "polarizability")
    field = upright(system)

    def outputs(strength, *values):
        result = solve(system._replace(**dict(zip(names, values, strict=True))), strength * field, dl=1.7)
        return result.energy, result.charge, result.dipole

    values = [getattr(system, name).clone().requires_grad_() for name in names]
    strength = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert first_derivatives_hold(outputs, (strength, *values))
    assert second_derivatives_hold(outputs, (strength, *values))


def test_a_slab_lifted_in_a_field_gains_its_charge_times_the_way(make_system, solve):
    system = charged_slab(make_system)
    field = upright(system)
    lifted = system._replace(positions=system.positions + 3.0 * normal_of(system.cell))
    gain = solve(lifted, field).energy - solve(system, field).energy
    assert float(gain[0]) == pytest.approx(-float(system.charge.sum()) * 0.4 * 3.0, rel=1e-9)


def test_a_conducting_pair_of_layers_screens_as_its_softness_says(solve, make_system):
    # two layers of one soft atom a cell: the field moves κ d E/2 of charge from one to the other, less one-shot's rest
    system = make_system(n_atoms=2, order=0, response=None, periodic="slab")._replace(
        positions=torch.tensor([[0.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64),
        cell=3.0 * torch.eye(3, dtype=torch.float64)[None],
        charge=torch.zeros(2, dtype=torch.float64),
        softness=torch.full((2,), 0.05, dtype=torch.float64),
    )
    result = solve(system, torch.tensor([0.0, 0.2, 0.0], dtype=torch.float64))
    torch.testing.assert_close(result.charge, torch.tensor([-0.02, 0.02], dtype=torch.float64), **ROUNDING)


@pytest.mark.parametrize("periodic", [True, "slab"], ids=["periodic", "slab"])
def test_a_field_on_dipoles_alone_adds_their_energy_and_nothing_of_the_charges(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    field = FIELD
    if periodic == "slab":  # along the plane
        field = FIELD - (FIELD @ normal_of(system.cell)) * normal_of(system.cell)
    without, within = solve(system), solve(system, field, periodic_field="dipoles")
    alpha, seen = system.polarizability, without.field
    induced = torch.einsum("nab,nb->na", alpha, seen + field)
    expected = (
        without.energy[0]
        - (system.dipole @ field).sum()
        - 0.5 * ((seen + field) * induced).sum()
        + 0.5 * torch.einsum("na,nab,nb->", seen, alpha, seen)
    )
    torch.testing.assert_close(within.energy[0], expected, **ROUNDING)
    torch.testing.assert_close(within.dipole, system.dipole + induced, **ROUNDING)
    torch.testing.assert_close(within.charge, without.charge, **ROUNDING)
    torch.testing.assert_close(within.atomic_energy.sum(), within.energy[0], **ROUNDING)


def test_born_charges_of_a_slab_are_those_of_an_open_structure_along_its_normal(make_system, solve):
    system = make_system(periodic="slab")
    normal = normal_of(system.cell)

    def dipoles(positions):
        """Moments that follow the atoms as a model's do."""
        return solve(system._replace(positions=positions, charge=system.charge * (0.3 * positions @ normal).cos()))

    positions = system.positions.clone().requires_grad_()
    result = dipoles(positions)
    charge = result.charge - result.charge.mean()
    moment = (charge @ positions + result.dipole.sum(0)) @ normal
    (expected,) = torch.autograd.grad(moment, positions, retain_graph=True)
    born = born_effective_charges(positions, system.cell, system.pbc, system.batch, result.charge, result.dipole)
    torch.testing.assert_close(torch.einsum("a,nab->nb", normal, born), expected, **ROUNDING)
    # the field's forces are the same sum, along the normal and along the plane
    result = dipoles(positions)
    forces = field_forces(positions, system.cell, system.pbc, system.batch, result.charge, FIELD, result.dipole)
    torch.testing.assert_close(forces, torch.einsum("a,nab->nb", FIELD, born), **ROUNDING)


def test_born_charges_along_the_plane_are_the_flux_at_the_smallest_wave_vector(make_system):
    system = make_system(periodic="slab", order=0, response=None)
    positions = system.positions.clone().requires_grad_()
    born = born_effective_charges(positions, system.cell, system.pbc, system.batch, system.charge)
    # charges that stay with their atoms
    expected = system.charge[:, None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(born, expected, **ROUNDING)


def test_field_of_two_plates_is_the_external_field_that_replaces_them(make_system, solve):
    """A slab between two charged plates feels what the field of the plates is."""
    system = make_system(periodic="slab", order=1, response=None, size=5.0)
    normal, charge = normal_of(system.cell), 0.05
    area = float(torch.linalg.cross(system.cell[0, 2], system.cell[0, 0]).norm())
    height = system.positions @ normal
    grid = [(a / 8.0) * system.cell[0, 0] + (b / 8.0) * system.cell[0, 2] for a in range(8) for b in range(8)]
    plates = torch.stack([place + z * normal for z in (height.min() - 9.0, height.max() + 9.0) for place in grid])
    both = system._replace(
        positions=torch.cat([system.positions, plates]),
        charge=torch.cat([system.charge, charge * torch.tensor([1.0, -1.0]).double().repeat_interleave(64)]),
        dipole=torch.cat([system.dipole, torch.zeros(128, 3, dtype=torch.float64)]),
        batch=torch.zeros(133, dtype=torch.long),
    )
    field = 4.0 * math.pi * COULOMB_CONSTANT * 64 * charge / area * normal
    within, alone = solve(both, **FINE), solve(system, **FINE)
    # 8 × 8 charges smeared by 1 Å are a homogeneous plate, 9 Å away
    torch.testing.assert_close(within.field[:5] - alone.field, field.expand(5, 3), rtol=1e-7, atol=1e-7)


def test_the_normal_of_a_cell_in_float32_is_along_the_normal(make_system, solve):
    system = make_system(periodic="slab")
    normal = torch.linalg.cross(system.cell[0, 2], system.cell[0, 0])
    field = 0.1 * normal / normal.norm()
    expected = solve(system, external_field=field).energy
    rounded = system._replace(positions=system.positions.float(), cell=system.cell.float())
    found = solve(rounded, external_field=field).energy
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)  # float32
