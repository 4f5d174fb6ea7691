"""How the self-consistent response is solved: starts, iterations, and what it says where there is no solution."""

import copy
import pickle

import pytest
import torch
from self_consistent_cases import BOUNDARIES, TOTALS, call, iterate, stronger

from les_plugins import LatentElectrostatics
from les_plugins.errors import ResponseError


@pytest.fixture
def iterated(monkeypatch):
    """No structure is small enough for an exact solution."""
    iterate(monkeypatch)


def moved(system, length):
    shift = torch.randn(system.positions.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return system._replace(positions=system.positions + length * shift)


@BOUNDARIES
@pytest.mark.usefixtures("iterated")
def test_the_last_solution_is_a_start_that_saves_iterations_and_changes_nothing(periodic, make_system):
    system = stronger(make_system(n_atoms=20, periodic=periodic, size=8.0), 10.0)
    warm, cold = (LatentElectrostatics(response="self_consistent").eval() for _ in range(2))
    call(warm, system)
    later = moved(system, 1e-4)
    after, expected = call(warm, later), call(cold, later)
    assert 0 < warm.response_model.iterations < cold.response_model.iterations
    torch.testing.assert_close(after.energy, expected.energy, rtol=1e-13, atol=1e-13)  # tolerance 1e-8, squared
    torch.testing.assert_close(after.charge, expected.charge, rtol=1e-7, atol=1e-8)
    warm.response_model.reset()
    call(warm, later)
    assert warm.response_model.iterations == cold.response_model.iterations


@pytest.mark.usefixtures("iterated")
def test_a_start_that_does_not_fit_is_not_used(make_system):
    system = make_system(n_atoms=8, periodic=False)
    layer = LatentElectrostatics(response="self_consistent").eval()
    call(layer, make_system(n_atoms=5, periodic=False))
    cold = LatentElectrostatics(response="self_consistent").eval()
    assert call(layer, system).energy.tolist() == call(cold, system).energy.tolist()
    # the solution of other atoms is further off than none
    call(layer, make_system(n_atoms=8, periodic=False, seed=9))
    torch.testing.assert_close(call(layer, system).energy, call(cold, system).energy, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("iterated")
def test_training_neither_uses_nor_keeps_a_start(make_system):
    system = make_system()
    layer = LatentElectrostatics(response="self_consistent")
    first, second = (call(layer.train(), system).charge.tolist() for _ in range(2))
    iterations = layer.response_model.iterations
    assert first == second
    call(layer.eval(), system)
    assert layer.response_model.iterations == iterations
    call(layer, system)
    assert layer.response_model.iterations == 0


@pytest.mark.usefixtures("iterated")
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_do_not_carry_the_start_and_a_state_dict_knows_nothing_of_it(copied, make_system):
    system = make_system()
    layer = LatentElectrostatics(response="self_consistent").eval()
    expected = call(layer, system)
    assert layer.state_dict() == {}
    twin = copied(layer)
    assert call(twin, system).charge.tolist() == expected.charge.tolist()
    assert twin.response_model.iterations > 0


@pytest.mark.usefixtures("iterated")
def test_a_converged_energy_needs_no_iterations_for_its_forces(make_system, monkeypatch):
    from les_plugins.electrostatics.response import minimum

    counts = []

    def counted(*arguments):
        found = original(*arguments)
        counts.append(found[2])
        return found

    original = minimum.conjugate_gradients
    monkeypatch.setattr(minimum, "conjugate_gradients", counted)
    system = make_system()
    system = system._replace(positions=system.positions.clone().requires_grad_())
    result = call(LatentElectrostatics(response="self_consistent"), system)
    assert len(counts) == 1
    torch.autograd.grad(result.energy.sum(), system.positions, retain_graph=True)
    assert len(counts) == 1  # the energy is stationary
    torch.autograd.grad(result.atomic_energy.sum(), system.positions)
    assert counts[1:] == [0]  # a multiple of the solution that is known


def test_an_interaction_that_is_not_positive_raises_an_error(make_system):
    system = make_system()._replace(polarizability=None)
    layer = LatentElectrostatics(response="self_consistent")
    ours = layer.solver

    def wrong(*arguments):
        result = ours(*arguments)
        return result._replace(potential=100.0 * result.potential)  # without the self-term it has negative eigenvalues

    layer.solver = wrong
    with pytest.raises(ResponseError, match="structure 0 has no minimum over its induced moments"):
        call(layer, system)


@pytest.mark.usefixtures("iterated")
def test_no_convergence_is_said_in_words(make_system, monkeypatch):
    monkeypatch.setattr("les_plugins.electrostatics.response.minimum.MOST_ITERATIONS", 2)
    with pytest.raises(
        ResponseError, match=r"structure 0 have a relative residual of \S+ after 2 iterations; asked for: 1e-08"
    ):
        call(LatentElectrostatics(response="self_consistent"), make_system())


@TOTALS
@pytest.mark.parametrize("periodic", [True, False, "slab"])
@pytest.mark.parametrize("kept", ["softness", "polarizability", "both"])
@pytest.mark.parametrize("response", ["isotropic", "anisotropic"])
def test_the_exact_solution_is_that_of_the_iterations(
    response, kept, periodic, total_charge, make_system, join, monkeypatch
):
    if kept != "polarizability" and periodic == "slab":
        total_charge = "fixed"  # a free one runs away at this strength
    systems = [make_system(n, periodic=periodic, response=response, seed=n) for n in (6, 1, 4)]
    system = stronger(join(systems), 5.0).select(torch.tensor([9, 0, 7, 1, 2, 8, 6, 3, 5, 4, 10]))
    system = system._replace(**{name: None for name in ("softness", "polarizability") if kept not in (name, "both")})
    found = []
    for work in (None, 0.0):
        iterate(monkeypatch, work)
        layer = LatentElectrostatics(response="self_consistent", response_tolerance=1e-13, total_charge=total_charge)
        result = call(layer, system)
        assert (layer.response_model.iterations == 0) == (work is None)
        found.append([result.energy, result.atomic_energy, result.charge, result.dipole])
    for exact, iterated in zip(*found, strict=True):
        torch.testing.assert_close(exact, iterated, rtol=1e-11, atol=1e-12)  # tolerance 1e-13


def test_large_structures_iterate_beside_small_ones_and_neither_sees_the_other(make_system, join, monkeypatch):
    small, large = (stronger(make_system(n, periodic=True, seed=n), 5.0) for n in (3, 12))
    iterate(monkeypatch, 2e5)
    settings = {"response": "self_consistent", "response_tolerance": 1e-13, "total_charge": "fixed"}
    counts, found = [], []
    for system in (small, large, join([small, large])):
        layer = LatentElectrostatics(**settings)
        found.append(call(layer, system))
        counts.append(layer.response_model.iterations)
    assert counts[0] == 0 < counts[1] == counts[2]
    together = found.pop()
    for name in ("energy", "charge", "dipole"):
        alone = torch.cat([getattr(one, name) for one in found])
        torch.testing.assert_close(getattr(together, name), alone, rtol=1e-12, atol=1e-12)  # order of sums


def test_an_accelerator_is_seldom_asked_for_convergence(make_system, join, iterated):
    from les_plugins import Multipoles
    from les_plugins.testing.pretended_device import PretendedDevice

    system = stronger(join([make_system(8, seed=n, order=1, response="isotropic") for n in range(4)]), 5.0)
    layer = LatentElectrostatics(response="self_consistent", net_charge_warning=None)
    expected = call(layer, system)
    here = layer.response_model.iterations
    layer.response_model.reset()
    with PretendedDevice() as there:
        values = [None if value is None else there(value) for value in system]
        moved = type(system)(*values)
        there.reset()
        geometry = moved.positions, moved.cell, moved.pbc, moved.batch
        found = layer(*geometry, Multipoles(moved.charge, moved.dipole), moved.softness, moved.polarizability)
        assert there.waits <= 8
    assert here <= layer.response_model.iterations <= here + 1
    # what has converged moves no further
    torch.testing.assert_close(found.charge.values_inside, expected.charge, rtol=1e-10, atol=1e-12)
