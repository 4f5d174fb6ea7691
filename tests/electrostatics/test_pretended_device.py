"""The layer and what is derived from it on a pretended device: no mixed devices, and counts that keep to a bound."""

import pytest
import torch

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics.observables import born_effective_charges, field_forces
from les_plugins.testing.pretended_device import MixedDevicesError, PretendedDevice

DOUBLE = {"dtype": torch.float64}
BOUNDARIES = {"periodic": True, "slab": "slab", "open": False}


def on(device, system):
    """The system's tensors on a device."""
    return type(system)(*(None if value is None else device(value) for value in system))


def edges(device, n_atoms):
    """Every pair of the first atoms, in both directions."""
    centre, neighbor = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 2, 1])
    vector = torch.tensor([[1.0, 0.2, 0.0], [-1.0, -0.2, 0.0], [0.0, 1.0, 0.3], [0.0, -1.0, -0.3]], **DOUBLE)
    return PairSoftness(*map(device, (centre, neighbor, vector, torch.full((4,), 0.01, **DOUBLE))))


def step(system, pairs=None, external_field=None, training=False, **settings):
    """Energies, moments, forces, virial, and the derivatives of a loss on these in positions and strain."""
    layer = LatentElectrostatics(**settings).train(training)
    positions, strain = system.positions.requires_grad_(), torch.zeros_like(system.cell[0]).requires_grad_()
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    softness = None if pairs else system.softness
    geometry = positions + positions @ strain, system.cell + system.cell @ strain, system.pbc, system.batch
    coefficients = {"softness": softness, "polarizability": system.polarizability, "pair_softness": pairs}
    result = layer(*geometry, moments, **coefficients, external_field=external_field)
    gradient, virial = torch.autograd.grad(result.energy.sum(), (positions, strain), create_graph=True)
    second = torch.autograd.grad(gradient.square().sum() + virial.square().sum(), (positions, strain))
    return [result.energy, result.potential, result.charge, result.dipole, gradient, virial, *second]


def compare(there, found, expected):
    for one, other in zip(found, expected, strict=True):
        assert type(one).__name__ == "PretendedTensor"
        # the open kernel takes both of its branches there, which round differently
        torch.testing.assert_close(one.detach().values_inside, other.detach(), rtol=1e-9, atol=1e-11)
    assert there.operators > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("response", ["one_shot", "self_consistent"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_every_boundary_and_response_runs_there_to_the_second_derivative(
    boundary, order, response, training, make_system
):
    system = make_system(n_atoms=6, periodic=BOUNDARIES[boundary], order=order)
    settings = {"response": response, "method": "direct", "training": training}
    with PretendedDevice() as there:
        found = step(on(there, system), **settings)
    compare(there, found, step(system, **settings))


@pytest.mark.parametrize(
    "settings",
    [{"method": "mesh"}, {"precision": "single"}, {"neutralize": "shift"}, {"remove_self_interaction": False}],
)
def test_every_method_and_setting_runs_there(settings, make_system):
    system = make_system(n_atoms=6)
    with PretendedDevice() as there:
        found = step(on(there, system), **settings)
    expected = step(system, **settings)
    for one, other in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(one.detach().values_inside, other.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("response", ["one_shot", "self_consistent"])
def test_charge_over_pairs_runs_there(response, make_system):
    system = make_system(n_atoms=6)
    with PretendedDevice() as there:
        found = step(on(there, system), pairs=edges(there, 6), response=response)
    compare(there, found, step(system, pairs=edges(lambda value: value, 6), response=response))


def test_an_external_field_runs_there(make_system):
    system, field = make_system(n_atoms=6, periodic=False), torch.tensor([0.0, 0.1, 0.2], **DOUBLE)
    with PretendedDevice() as there:
        found = step(on(there, system), external_field=there(field))
    compare(there, found, step(system, external_field=field))


def test_mixed_boundaries_run_there(make_system, join):
    system = join([make_system(n_atoms=3 + place, periodic=kind) for place, kind in enumerate((True, "slab", False))])
    with PretendedDevice() as there:
        found = step(on(there, system))
    compare(there, found, step(system))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_observables_run_there(boundary, make_system):
    def observed(system, field):
        positions = system.positions.requires_grad_()
        geometry = positions, system.cell, system.pbc, system.batch
        moments = Multipoles(system.charge, system.dipole)
        result = LatentElectrostatics()(*geometry, moments, system.softness, system.polarizability)
        moved = field_forces(*geometry, result.charge, field, result.dipole)
        return [born_effective_charges(*geometry, result.charge, result.dipole), moved]

    system, field = make_system(n_atoms=5, periodic=BOUNDARIES[boundary]), torch.tensor([[0.0, 0.1, 0.2]], **DOUBLE)
    with PretendedDevice() as there:
        found = observed(on(there, system), there(field))
    compare(there, found, observed(system, field))


def test_tensors_of_both_devices_are_refused():
    with PretendedDevice() as there:
        x = there(torch.ones(3))
        with pytest.raises(MixedDevicesError, match="shapes"):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="copy it to the CPU first"):
            x.numpy()
        assert torch.equal(x.cpu(), torch.ones(3))


def test_zeros_without_memory_are_computed_with():
    with PretendedDevice() as there:
        x = there(torch.tensor([2.0, -3.0])).requires_grad_()
        (first,) = torch.autograd.grad((x * x).abs().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
    assert second.values_inside.tolist() == [2.0, 2.0]


def test_what_waits_for_the_device_is_counted():
    with PretendedDevice() as there:
        x = there(torch.arange(4.0))
        before = there.waits
        float(x[1]), x.tolist(), x.cpu(), (x > 1.0).nonzero(), x[x > 1.0], bool((x > 1.0).any())
        assert there.waits - before == 6
        x.sum() + torch.ones((), device=x.device)
        assert there.waits - before == 6


@pytest.mark.parametrize(
    ("n_structures", "response", "operators", "waits"),
    [
        (1, "one_shot", 400, 4),
        (24, "one_shot", 400, 4),
        (1, "self_consistent", 600, 4),
        (24, "self_consistent", 600, 4),
    ],
)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_operators_and_waits_of_energy_and_forces(
    boundary, n_structures, response, operators, waits, make_system, join
):
    several = [make_system(4, BOUNDARIES[boundary], order=1, response="isotropic", seed=s) for s in range(n_structures)]
    system = join(several)
    layer = LatentElectrostatics(method="direct", response=response, net_charge_warning=None)
    with PretendedDevice() as there:
        for _ in range(2):  # tables that are made once
            moved = on(there, system)
            positions = moved.positions.requires_grad_()
            there.reset()
            geometry = positions, moved.cell, moved.pbc, moved.batch
            result = layer(*geometry, Multipoles(moved.charge, moved.dipole), moved.softness, moved.polarizability)
            torch.autograd.grad(result.energy.sum(), positions)
    assert there.waits <= waits
    assert there.operators <= operators
