"""Self-consistent response: first and second derivatives of what it gives, in everything it is given."""

import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold
from self_consistent_cases import BOUNDARIES, CLOSE, TIGHT, TOTALS, stronger
from torch.autograd import gradgradcheck

from les_plugins.electrostatics.observables import born_effective_charges, polarization

FIELD = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def direction():
    """Of a displacement of five atoms, none of whose components is special."""
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def differentiable(system):
    names = ["positions", "charge", "dipole", "quadrupole", "softness", "polarizability"]
    names = [name for name in names if getattr(system, name) is not None]
    if bool(system.pbc.any()):
        names.append("cell")
    return names, [getattr(system, name).clone().requires_grad_() for name in names]


def function_of(system, names, solve, outputs, **settings):
    def evaluate(*values):
        result = solve(system._replace(**dict(zip(names, values, strict=True))), dl=1.7, **settings)
        return tuple(getattr(result, output) for output in outputs)

    return evaluate


def mixture(make_system, join):
    systems = [make_system(n_atoms=2, periodic=periodic, order=1, size=4.5, seed=7) for periodic in (True, False)]
    return stronger(join(systems), 3.0)


@TOTALS
def test_gradients_of_every_output_in_every_input(total_charge, make_system, solve, join):
    system = mixture(make_system, join)
    names, values = differentiable(system)
    evaluate = function_of(
        system, names, solve, ("energy", "atomic_energy", "charge", "dipole"), **TIGHT, total_charge=total_charge
    )
    assert first_derivatives_hold(evaluate, values)


@pytest.mark.slow
@TOTALS
@BOUNDARIES
def test_every_second_derivative_of_the_energy(total_charge, periodic, make_system, solve):
    system = stronger(make_system(n_atoms=2, periodic=periodic, order=1, size=4.5), 3.0)
    names, values = differentiable(system)
    evaluate = function_of(system, names, solve, ("energy",), **TIGHT, total_charge=total_charge)
    assert gradgradcheck(evaluate, values)


@pytest.mark.parametrize("total_charge", [pytest.param("free", marks=pytest.mark.slow), "fixed"])
def test_second_derivatives_of_every_output(total_charge, make_system, solve, join):
    system = mixture(make_system, join)
    names, values = differentiable(system)
    outputs = ("energy", "atomic_energy", "charge", "dipole")
    evaluate = function_of(system, names, solve, outputs, **TIGHT, total_charge=total_charge)
    assert second_derivatives_hold(evaluate, values)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["softness", "polarizability"])
def test_second_derivatives_with_one_kind_of_response(kept, make_system, solve, join):
    system = mixture(make_system, join)
    system = system._replace(**{{"softness": "polarizability", "polarizability": "softness"}[kept]: None})
    names, values = differentiable(system)
    assert second_derivatives_hold(function_of(system, names, solve, ("energy",), **TIGHT), values)


@BOUNDARIES
@TOTALS
def test_forces_at_the_default_tolerance_are_central_differences(
    periodic, total_charge, make_system, solve_with_forces, solve
):
    system = stronger(make_system(periodic=periodic), 10.0)
    settings = {"dl": 0.8, "total_charge": total_charge}
    _, forces = solve_with_forces(system, response="self_consistent", **settings)
    way, step = direction(), 1e-4
    up, down = (
        solve(system._replace(positions=system.positions + s * step * way), **settings, **TIGHT).energy[0]
        for s in (1, -1)
    )
    # theory, section 12: 1e-6 of the largest force; the step's own error is 1e-8
    allowed = 1e-6 * float(forces.abs().max())
    assert float((forces * way).sum()) == pytest.approx(-float(up - down) / (2.0 * step), abs=allowed)


@TOTALS
def test_a_force_loss_has_the_gradient_of_its_central_difference(total_charge, make_system, solve, join):
    system = mixture(make_system, join)

    def loss(scale):
        positions = system.positions.clone().requires_grad_()
        scaled = stronger(system, scale)._replace(positions=positions, charge=scale * system.charge)
        result = solve(scaled, **TIGHT, total_charge=total_charge)
        (gradient,) = torch.autograd.grad(result.energy.sum(), positions, create_graph=True)
        return gradient.square().sum() + result.energy.square().sum()

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(scale), scale)
    step = 1e-4
    up, down = (float(loss(torch.tensor(1.0 + s * step, dtype=torch.float64)).detach()) for s in (1, -1))
    assert float(slope) == pytest.approx((up - down) / (2.0 * step), rel=1e-6)  # step² = 1e-8, third derivative


@TOTALS
def test_born_charges_are_central_differences_of_the_polarization(total_charge, make_system, solve):
    system = stronger(make_system(periodic=False), 10.0)
    settings = {**TIGHT, "total_charge": total_charge}
    positions = system.positions.clone().requires_grad_()
    result = solve(system._replace(positions=positions), **settings)
    born = born_effective_charges(positions, system.cell, system.pbc, system.batch, result.charge, result.dipole)

    def moment(places):
        found = solve(system._replace(positions=places), **settings)
        return polarization(places, system.batch, found.charge - found.charge.mean(), found.dipole)[0]

    way, step = direction(), 1e-4
    numeric = (moment(system.positions + step * way) - moment(system.positions - step * way)) / (2.0 * step)
    # 1e-6 of the largest component; the step's own error is 1e-8
    torch.testing.assert_close(
        torch.einsum("nab,nb->a", born, way), numeric, rtol=0.0, atol=1e-6 * float(born.abs().max())
    )


@TOTALS
def test_polarization_is_minus_the_derivative_of_the_energy_in_the_field(total_charge, make_system, solve):
    system = stronger(make_system(periodic=False), 10.0)
    settings = {**TIGHT, "total_charge": total_charge}
    field = FIELD.clone().requires_grad_()
    result = solve(system, external_field=field, **settings)
    (slope,) = torch.autograd.grad(result.energy[0], field)
    induced = (result.charge - system.charge).sum()
    centre = (system.softness[:, None] * system.positions).sum(0) / system.softness.sum()
    net = result.charge.sum()[None]  # the layer takes charges as they are
    moment = polarization(system.positions, system.batch, result.charge, result.dipole, net)[0]
    torch.testing.assert_close(-slope, moment - induced * centre, **CLOSE)  # the gauge of section 7 of the theory
    if total_charge == "fixed":
        torch.testing.assert_close(-slope, moment, **CLOSE)


@TOTALS
def test_forces_in_a_field_are_central_differences(total_charge, make_system, solve):
    system = stronger(make_system(periodic=False), 10.0)
    settings = {**TIGHT, "total_charge": total_charge, "external_field": FIELD}
    positions = system.positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(solve(system._replace(positions=positions), **settings).energy[0], positions)
    way = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    up, down = (
        solve(system._replace(positions=system.positions + s * 1e-4 * way), **settings).energy[0] for s in (1, -1)
    )
    assert float((gradient * way).sum()) == pytest.approx(float(up - down) / 2e-4, rel=1e-6)
