"""Induced charges and dipoles, and the uniform external field on open structures (theory, sections 6 and 7)."""

import pytest
import torch

from les_plugins.electrostatics.observables import polarization, system_polarizability
from les_plugins.electrostatics.response.one_shot import one_shot_response

BOUNDARIES = pytest.mark.parametrize("periodic", [False, True, "slab"], ids=["open", "periodic", "slab"])
RESPONSES = pytest.mark.parametrize("response", ["isotropic", "anisotropic"])
ROUNDING = {"rtol": 1e-12, "atol": 1e-12}
FIELD = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


def as_tensors(polarizability):
    return polarizability if polarizability.dim() == 3 else polarizability[:, None, None] * torch.eye(3).double()


@BOUNDARIES
@RESPONSES
def test_induced_moments_are_linear_in_the_permanent_potential_and_field(periodic, response, make_system, solve):
    system = make_system(periodic=periodic, response=response)
    permanent = solve(system, response=None)
    result = solve(system)
    alpha = as_tensors(system.polarizability)
    torch.testing.assert_close(result.charge - system.charge, -system.softness * permanent.potential, **ROUNDING)
    induced = torch.einsum("nab,nb->na", alpha, permanent.field)
    torch.testing.assert_close(result.dipole - system.dipole, induced, **ROUNDING)
    torch.testing.assert_close(result.potential, permanent.potential, **ROUNDING)
    torch.testing.assert_close(result.field, permanent.field, **ROUNDING)
    work = -0.5 * (system.softness * permanent.potential.square() + (permanent.field * induced).sum(1))
    torch.testing.assert_close(result.atomic_energy - permanent.atomic_energy, work, **ROUNDING)
    assert float(result.energy[0]) < float(permanent.energy[0])


@BOUNDARIES
@pytest.mark.parametrize("kept", ["softness", "polarizability"])
def test_each_kind_of_response_lowers_the_energy_by_itself(periodic, kept, make_system, solve):
    system = make_system(periodic=periodic)
    dropped = {"softness": "polarizability", "polarizability": "softness"}[kept]
    result = solve(system._replace(**{dropped: None}))
    permanent = solve(system, response=None)
    both = solve(system)
    assert float(both.energy[0]) < float(result.energy[0]) < float(permanent.energy[0])
    unchanged = "charge" if dropped == "softness" else "dipole"
    torch.testing.assert_close(getattr(result, unchanged), getattr(system, unchanged), rtol=0.0, atol=0.0)


def test_polarizable_charges_without_permanent_dipoles_have_dipoles(make_system, solve):
    system = make_system(order=0)
    assert solve(system, response=None).dipole is None
    result = solve(system)
    torch.testing.assert_close(
        result.dipole, torch.einsum("nab,nb->na", system.polarizability, result.field), **ROUNDING
    )


def test_response_of_no_kind_is_zero():
    response = one_shot_response(torch.ones(3), torch.ones(3, 3), None, None)
    assert response.charge is None
    assert response.dipole is None
    assert response.atomic_energy.tolist() == [0.0, 0.0, 0.0]


@RESPONSES
@pytest.mark.parametrize("order", [0, 1, 2])
def test_forces_in_a_field_are_central_differences(order, response, make_system, solve):
    system = make_system(periodic=False, order=order, response=response)
    positions = system.positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        solve(system._replace(positions=positions), external_field=FIELD).energy.sum(), positions
    )
    step, numeric = 1e-4, torch.zeros_like(gradient)
    for atom in range(5):
        for axis in range(3):
            shift = torch.zeros_like(numeric)
            shift[atom, axis] = step
            up, down = (
                solve(system._replace(positions=system.positions + s * shift), external_field=FIELD).energy
                for s in (1, -1)
            )
            numeric[atom, axis] = (up - down) / (2.0 * step)
    assert (gradient - numeric).abs().max() < 1e-6 * gradient.abs().max()  # theory 12; the step's own error is 1e-8


@RESPONSES
@pytest.mark.parametrize("charged", [False, True])
def test_polarization_is_minus_the_derivative_of_the_energy_in_the_field(charged, response, make_system, solve):
    system = make_system(periodic=False, response=response)
    system = system._replace(charge=system.charge + (0.1 if charged else 0.0))
    step, numeric = 1e-3, torch.zeros(3, dtype=torch.float64)
    for axis in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[axis]
        up, down = (solve(system, external_field=FIELD + s * shift).energy[0] for s in (1, -1))
        numeric[axis] = -(up - down) / (2.0 * step)  # exact but for rounding: the energy is quadratic in the field
    result = solve(system, external_field=FIELD)
    centre = (system.softness[:, None] * system.positions).sum(0) / system.softness.sum()
    induced = (result.charge - system.charge).sum()
    net = result.charge.sum()[None]  # the layer takes charges as they are
    moment = polarization(system.positions, system.batch, result.charge, result.dipole, net)[0]
    # the gauge of section 7 of the theory: net induced charge counts from the centre of the softness
    torch.testing.assert_close(numeric, moment - induced * centre, rtol=1e-9, atol=1e-9)


@RESPONSES
def test_polarizability_is_minus_the_second_derivative_of_the_energy_in_the_field(response, make_system, solve):
    system = make_system(periodic=False, response=response)
    hessian = torch.autograd.functional.hessian(
        lambda field: solve(system, external_field=field).energy[0], FIELD.clone()
    )
    lever = system.positions - (system.softness[:, None] * system.positions).sum(0) / system.softness.sum()
    flow = torch.einsum("n,na,nb->ab", system.softness, lever, lever)
    # the energy is quadratic in the field: exact
    torch.testing.assert_close(-hessian, as_tensors(system.polarizability).sum(0) + flow, **ROUNDING)
    whole = system_polarizability(system.positions, system.pbc, system.batch, system.softness, system.polarizability)
    torch.testing.assert_close(whole[0], -hessian, **ROUNDING)


def test_polarizability_of_a_periodic_structure_is_that_of_its_dipoles(make_system):
    system = make_system()
    whole = system_polarizability(system.positions, system.pbc, system.batch, system.softness, system.polarizability)
    torch.testing.assert_close(whole[0], system.polarizability.sum(0), **ROUNDING)


def test_uniform_field_moves_no_net_charge(make_system, solve):
    system = make_system(periodic=False)
    without, with_field = solve(system), solve(system, external_field=FIELD)
    assert float(with_field.charge.sum() - without.charge.sum()) == pytest.approx(0.0, abs=1e-13)
    assert (with_field.charge - without.charge).abs().max() > 1e-3


def test_field_acts_on_permanent_moments_alone_without_response(make_system, solve):
    system = make_system(periodic=False, response=None)
    work = solve(system, external_field=FIELD).energy[0] - solve(system).energy[0]
    moment = polarization(system.positions, system.batch, system.charge, system.dipole)[0]
    assert float(work) == pytest.approx(-float(moment @ FIELD), rel=1e-12)


def test_every_structure_of_a_batch_may_have_its_own_field(make_system, solve, join):
    systems = [make_system(n_atoms=n, periodic=False, seed=n) for n in (2, 4)]
    fields = torch.stack([FIELD, -2.0 * FIELD])
    together = solve(join(systems), external_field=fields)
    alone = [solve(system, external_field=field).energy for system, field in zip(systems, fields, strict=True)]
    torch.testing.assert_close(together.energy, torch.cat(alone), **ROUNDING)
