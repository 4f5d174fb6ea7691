"""Open boundaries: pair interactions with known closed forms, overlapping atoms, single precision."""

import math

import pytest
import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.units import COULOMB_CONSTANT

FAR = 40.0  # Å: erf(r/(√2 σ)) is 1 to the last digit, the smeared interaction equals the point one


def pair(make_system, distance, direction=(0.3, -0.5, 0.81)):
    axis = torch.tensor(direction, dtype=torch.float64)
    axis = axis / axis.norm()
    system = make_system(n_atoms=2, periodic=False, response=None)
    zero = {name: torch.zeros_like(getattr(system, name)) for name in ("charge", "dipole", "quadrupole")}
    return system._replace(positions=torch.stack([torch.zeros_like(axis), distance * axis]), **zero), axis


def test_two_distant_charges_follow_coulombs_law(make_system, solve):
    system, _ = pair(make_system, FAR)
    system = system._replace(charge=torch.tensor([0.7, -0.4], dtype=torch.float64))
    assert float(solve(system).energy[0]) == pytest.approx(-0.28 * COULOMB_CONSTANT / FAR, rel=1e-12)  # rounding


def test_two_distant_dipoles_follow_the_point_dipole_law(make_system, solve):
    system, axis = pair(make_system, FAR)
    dipole = make_system(n_atoms=2, seed=3).dipole
    a, b = dipole
    expected = COULOMB_CONSTANT * (a @ b - 3.0 * (a @ axis) * (b @ axis)) / FAR**3
    assert float(solve(system._replace(dipole=dipole)).energy[0]) == pytest.approx(float(expected), rel=1e-12)


def test_distant_charge_and_dipole_follow_the_point_law(make_system, solve):
    system, axis = pair(make_system, FAR)
    dipole = torch.stack([make_system(seed=3).dipole[0], torch.zeros(3, dtype=torch.float64)])
    system = system._replace(dipole=dipole, charge=torch.tensor([0.0, 0.6], dtype=torch.float64))
    expected = COULOMB_CONSTANT * 0.6 * (dipole[0] @ axis) / FAR**2  # Φ = k_e u·r̂ / r² at the charge
    assert float(solve(system).energy[0]) == pytest.approx(float(expected), rel=1e-12)


def test_distant_charge_and_quadrupole_follow_the_point_law(make_system, solve):
    system, axis = pair(make_system, FAR)
    quadrupole = torch.stack([make_system(seed=3).quadrupole[0], torch.zeros(3, 3, dtype=torch.float64)])
    system = system._replace(quadrupole=quadrupole, charge=torch.tensor([0.0, 0.6], dtype=torch.float64))
    # Φ = ½ Q:∇∇ (k_e / r) = (3/2) k_e r̂·Q·r̂ / r³ for a traceless Q
    expected = COULOMB_CONSTANT * 0.6 * 1.5 * (axis @ quadrupole[0] @ axis) / FAR**3
    assert float(solve(system).energy[0]) == pytest.approx(float(expected), rel=1e-12)


def test_dipole_is_the_limit_of_two_opposite_charges(make_system, solve):
    system, _ = pair(make_system, 1.7)
    direction = torch.tensor([0.2, 0.9, -0.4], dtype=torch.float64)
    step = 1e-3
    exact = system._replace(
        charge=torch.tensor([0.0, 0.6], dtype=torch.float64), dipole=torch.stack([direction, 0.0 * direction])
    )
    charges = make_system(n_atoms=3, periodic=False, order=0, response=None)._replace(
        positions=torch.stack([0.5 * step * direction, -0.5 * step * direction, system.positions[1]]),
        charge=torch.tensor([1.0 / step, -1.0 / step, 0.6], dtype=torch.float64),
    )
    internal = charges.select(torch.tensor([0, 1]))
    difference = solve(charges).energy[0] - solve(internal).energy[0]
    # the next term of the multipole expansion is step² ~ 1e-6 times smaller
    assert float(difference) == pytest.approx(float(solve(exact).energy[0]), rel=1e-5)


def test_quadrupoles_alone_interact_as_with_zero_dipoles(make_system, solve):
    system = make_system(periodic=False)
    without = solve(system._replace(dipole=None))
    zero = solve(system._replace(dipole=torch.zeros_like(system.dipole)))
    torch.testing.assert_close(without.energy, zero.energy, rtol=1e-13, atol=0.0)  # the same arithmetic
    torch.testing.assert_close(without.field, zero.field, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("periodic", [False, True])
def test_coincident_atoms_have_finite_energy_and_derivatives(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    positions = system.positions.clone()
    positions[1] = positions[0]
    positions.requires_grad_()
    energy = solve(system._replace(positions=positions)).energy.sum()
    (forces,) = torch.autograd.grad(energy, positions, create_graph=True)
    (second,) = torch.autograd.grad((forces * forces).sum(), positions)
    for value in (energy, forces, second):
        assert torch.isfinite(value).all()
    assert second.abs().max() > 0.0


def test_coincident_charges_have_the_smeared_energy_at_zero_distance(make_system, solve):
    system, _ = pair(make_system, 0.0)
    system = system._replace(charge=torch.tensor([0.7, -0.4], dtype=torch.float64))
    expected = -0.28 * COULOMB_CONSTANT * math.sqrt(2.0 / math.pi)  # erf(r/(√2 σ))/r → √(2/π)/σ
    assert float(solve(system).energy[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("distance", [0.01, 0.1, 0.3, 1.0])
def test_single_precision_agrees_with_double_at_short_distance(distance, make_system, solve_with_forces):
    system, _ = pair(make_system, distance)
    moments = make_system(n_atoms=2, periodic=False, response=None, seed=5)
    system = moments._replace(positions=system.positions)
    single = type(system)(*(x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in system))
    same = type(system)(*(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in single))
    result, forces = solve_with_forces(single)
    exact, exact_forces = solve_with_forces(same)
    assert result.energy.dtype == forces.dtype == torch.float32
    # the sums run in float64: what is left is the rounding of the result, 6e-8
    torch.testing.assert_close(result.energy.double(), exact.energy, rtol=2e-7, atol=0.0)
    torch.testing.assert_close(forces.double(), exact_forces, rtol=2e-7, atol=1e-7 * float(exact_forces.abs().max()))


def test_single_precision_agrees_with_double_far_from_the_origin_of_a_periodic_box(make_system, solve_with_forces):
    system = make_system()
    system = system._replace(positions=system.positions + torch.tensor([7, -5, 3.0]).double() @ (40 * system.cell[0]))
    single = type(system)(*(x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in system))
    same = type(system)(*(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in single))
    assert single.positions.abs().max() > 1000.0
    result, forces = solve_with_forces(single)
    exact, exact_forces = solve_with_forces(same)
    torch.testing.assert_close(result.energy.double(), exact.energy, rtol=2e-7, atol=0.0)
    torch.testing.assert_close(forces.double(), exact_forces, rtol=2e-7, atol=1e-7 * float(exact_forces.abs().max()))


def test_forces_lie_in_memory_as_positions_do() -> None:
    """Hosts call `view` on them."""
    positions = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    charge, cell = torch.randn(5, dtype=torch.float64), torch.zeros(1, 3, 3, dtype=torch.float64)
    batch, pbc = torch.zeros(5, dtype=torch.long), torch.zeros(1, 3, dtype=torch.bool)
    energy = LatentElectrostatics()(positions, cell, pbc, batch, Multipoles(charge)).energy.sum()
    (slope,) = torch.autograd.grad(energy, positions)
    assert slope.is_contiguous()
