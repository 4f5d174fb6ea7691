"""First and second derivatives of the layer, against finite differences."""

import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold
from torch.autograd import gradcheck, gradgradcheck

from les_plugins.electrostatics.multipoles import traceless

BOUNDARIES = pytest.mark.parametrize("periodic", [False, True, "slab"], ids=["open", "periodic", "slab"])
RESPONSES = pytest.mark.parametrize("response", ["isotropic", "anisotropic"])
#: Each order of the permanent moments, and each response.
ORDERS = pytest.mark.parametrize(("order", "response"), [(0, "anisotropic"), (1, "isotropic"), (2, "anisotropic")])
# with k_c this high a vector that crosses the cutoff sphere under a small strain changes the energy by 1e-12 only
FINE = {"dl": 0.8}
COARSE = {"dl": 1.7}


def differentiable(system):
    names = ["positions", "charge", "dipole", "quadrupole", "softness", "polarizability"]
    names = [name for name in names if getattr(system, name) is not None]
    if bool(system.pbc.any()):
        names.append("cell")
    return names, [getattr(system, name).clone().requires_grad_() for name in names]


def function_of(system, names, solve, outputs, settings):
    def evaluate(*values):
        given = dict(zip(names, values, strict=True))
        if "quadrupole" in given:
            given["quadrupole"] = traceless(given["quadrupole"])
        result = solve(system._replace(**given), **settings)
        return tuple(getattr(result, output) for output in outputs)

    return evaluate


@BOUNDARIES
@RESPONSES
def test_gradients_of_every_output_in_every_input(periodic, response, make_system, solve):
    system = make_system(n_atoms=3, periodic=periodic, response=response, size=4.5)
    names, values = differentiable(system)
    outputs = ("energy", "atomic_energy", "potential", "field", "charge", "dipole")
    function = function_of(system, names, solve, outputs, COARSE)
    # all entries of the richest at gradcheck's own eps 1e-6, atol 1e-5, rtol 1e-3; of others one projection
    full = (periodic, response) == (True, "anisotropic")
    assert gradcheck(function, values) if full else first_derivatives_hold(function, values)


@BOUNDARIES
@RESPONSES
@pytest.mark.parametrize("order", [0, 2])
def test_second_derivatives_of_the_energy(periodic, response, order, make_system, solve):
    system = make_system(n_atoms=3, periodic=periodic, order=order, response=response, size=4.5)
    names, values = differentiable(system)
    assert second_derivatives_hold(function_of(system, names, solve, ("energy",), COARSE), values)


@pytest.mark.slow
@BOUNDARIES
def test_every_second_derivative_of_the_energy(periodic, make_system, solve):
    system = make_system(n_atoms=3, periodic=periodic, size=4.5)
    names, values = differentiable(system)
    assert gradgradcheck(function_of(system, names, solve, ("energy",), COARSE), values)


@BOUNDARIES
@pytest.mark.parametrize("output", ["atomic_energy", "potential", "field", "charge", "dipole"])
def test_second_derivatives_of_other_outputs(periodic, output, make_system, solve):
    system = make_system(n_atoms=3, periodic=periodic, size=4.5)
    names, values = differentiable(system)
    assert second_derivatives_hold(function_of(system, names, solve, (output,), COARSE), values)


@BOUNDARIES
def test_second_derivatives_without_quadrupoles_and_response(periodic, make_system, solve):
    system = make_system(n_atoms=3, periodic=periodic, order=1, response=None, size=4.5)
    names, values = differentiable(system)
    assert second_derivatives_hold(function_of(system, names, solve, ("energy", "field"), COARSE), values)


@BOUNDARIES
@ORDERS
def test_forces_are_central_differences_of_the_energy(periodic, response, order, make_system, solve, solve_with_forces):
    system = make_system(periodic=periodic, order=order, response=response)
    _, forces = solve_with_forces(system, **FINE)
    step = 1e-4
    numeric = torch.zeros_like(forces)
    for atom in range(len(forces)):
        for axis in range(3):
            shift = torch.zeros_like(forces)
            shift[atom, axis] = step
            up, down = (
                solve(system._replace(positions=system.positions + sign * shift), **FINE).energy for sign in (1, -1)
            )
            numeric[atom, axis] = -(up - down) / (2.0 * step)
    # theory, section 12: 1e-6; the difference itself is good to step² ~ 1e-8
    assert (forces - numeric).abs().max() < 1e-6 * forces.abs().max()


@BOUNDARIES
@ORDERS
def test_stress_is_the_central_difference_of_the_energy_in_the_strain(periodic, response, order, make_system, solve):
    system = make_system(periodic=periodic, order=order, response=response)

    def energy(strain):
        deform = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
        strained = system._replace(positions=system.positions @ deform, cell=system.cell @ deform)
        return solve(strained, **FINE).energy.sum()

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (virial,) = torch.autograd.grad(energy(strain), strain)
    step = 1e-4
    numeric = torch.zeros(3, 3, dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            shift = torch.zeros(3, 3, dtype=torch.float64)
            shift[a, b] = step
            numeric[a, b] = (energy(shift) - energy(-shift)) / (2.0 * step)
    # 1e-6 as for the forces, with the third derivative in the strain some ten times the first: step² · 10
    assert (virial - numeric).abs().max() < 1e-6 * virial.abs().max()


@BOUNDARIES
def test_gradients_do_not_depend_on_which_outputs_are_used_beside_the_energy(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    names, values = differentiable(system)
    (energy,) = function_of(system, names, solve, ("energy",), {})(*values)
    (atomic,) = function_of(system, names, solve, ("atomic_energy",), {})(*values)
    for name, one, other in zip(
        names,
        torch.autograd.grad(energy.sum(), values),
        torch.autograd.grad(atomic.sum(), values),
        strict=True,
    ):
        # two ways to the same derivative: rounding only
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@BOUNDARIES
def test_gradients_can_be_taken_after_a_first_use_in_inference_mode(periodic, make_system, solve):
    system = make_system(periodic=periodic, seed=9)
    with torch.inference_mode():
        expected = solve(system).energy.clone()
    names, values = differentiable(system)
    (energy,) = function_of(system, names, solve, ("energy",), {})(*values)
    gradients = torch.autograd.grad(energy.sum(), values)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    torch.testing.assert_close(energy.detach(), expected, rtol=1e-12, atol=1e-12)  # the order of sums differs


@BOUNDARIES
def test_energy_is_the_same_without_a_graph(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    names, values = differentiable(system)
    with_graph = function_of(system, names, solve, ("energy", "potential", "field"), {})(*values)
    with torch.no_grad():
        without = function_of(system, names, solve, ("energy", "potential", "field"), {})(*values)
    for one, other in zip(with_graph, without, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)  # the order of sums differs
