"""What the direct sum costs: the transforms of a step, and the memory it holds at once."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.periodic import structure_factor
from les_plugins.errors import ConfigError

MEBIBYTE = 1 << 20


class LargestArray(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in torch.utils._pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]
        self.largest = max([self.largest, *(tensor.untyped_storage().nbytes() for tensor in tensors)])
        return result


def energy_and_gradient(system, layer, create_graph=False, **changes):
    system = system._replace(**changes)
    positions = system.positions.clone().requires_grad_()
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    result = layer(
        positions, system.cell, system.pbc, system.batch, moments, system.softness, system.polarizability
    ).energy.sum()
    return result, *torch.autograd.grad(result, positions, create_graph=create_graph)


def test_memory_follows_the_workspace_and_results_do_not(make_system):
    system = make_system(400, size=16.0)  # arrays per atom and per grid point stay below 0.4 MiB
    found, largest = {}, {}
    for workspace in (0.5, 4.0):
        layer = LatentElectrostatics(method="direct", workspace=workspace)
        with LargestArray() as watch:
            found[workspace] = energy_and_gradient(system, layer)
        largest[workspace] = watch.largest / MEBIBYTE
    assert largest[0.5] <= 0.5 < 3.0 < largest[4.0] <= 4.0
    for some, more in zip(found[0.5], found[4.0], strict=True):
        torch.testing.assert_close(some, more, rtol=1e-11, atol=1e-11)  # the order of the sums differs


@pytest.mark.parametrize("workspace", [0.0, -1.0, float("nan")])
def test_a_workspace_that_is_no_positive_number_is_refused(workspace):
    with pytest.raises(ConfigError, match=r"workspace is .*; allowed: a positive number of MiB"):
        LatentElectrostatics(workspace=workspace)


@pytest.fixture
def transforms(monkeypatch):
    """Transforms done, by direction and highest rank: the work of each goes with its rank + 1."""
    done = []
    for name in ("_spread", "_gather"):
        original = getattr(structure_factor, name)

        def counted(place, values, grid, order, original=original, name=name):
            done.append((name, order))
            return original(place, values, grid, order)

        monkeypatch.setattr(structure_factor, name, counted)
    return done


@pytest.mark.parametrize(
    ("order", "response", "forces", "training"),
    [(0, None, 3, 8), (1, None, 5, 12), (2, None, 7, 16), (0, "isotropic", 10, 23), (2, "isotropic", 13, 30)],
)
def test_no_transform_is_done_whose_result_nobody_uses(order, response, forces, training, make_system, transforms):
    system = make_system(order=order, response=response)
    layer = LatentElectrostatics(method="direct", dl=2.0)
    energy_and_gradient(system, layer)
    assert sum(rank + 1 for _, rank in transforms) == forces
    transforms.clear()
    charge = system.charge.requires_grad_()
    energy, gradient = energy_and_gradient(system, layer.train(), create_graph=True, charge=charge)
    (energy + gradient.square().sum()).backward()
    assert sum(rank + 1 for _, rank in transforms) == training
    assert training <= 3 * forces


def test_training_mode_changes_no_number(make_system):
    system = make_system()
    for kept, other in zip(
        energy_and_gradient(system, LatentElectrostatics()),
        energy_and_gradient(system, LatentElectrostatics().train()),
        strict=True,
    ):
        torch.testing.assert_close(kept, other, rtol=1e-12, atol=1e-12)


def test_single_precision_products_give_forces_and_their_derivatives_to_their_rounding(make_system):
    system = make_system(30, size=9.0)
    found = []
    for precision in ("double", "single"):
        charge = system.charge.clone().requires_grad_()
        layer = LatentElectrostatics(method="direct", precision=precision)
        energy, gradient = energy_and_gradient(system, layer, create_graph=True, charge=charge)
        found.append((energy, gradient, *torch.autograd.grad(gradient.square().sum(), charge)))
    for double, single in zip(*found, strict=True):
        error = (single - double).abs().max() / double.abs().max()
        assert 1e-13 < error < 1e-5  # float32 rounds at 6e-8, sums over chunks are float64; and it is float32


def test_single_precision_is_refused_where_iterations_need_more(make_system):
    with pytest.raises(ConfigError, match="precision is 'half'; allowed: 'double', 'single'"):
        LatentElectrostatics(precision="half")
    with pytest.raises(ConfigError, match="precision is 'single' with method='mesh'"):
        LatentElectrostatics(precision="single", method="mesh")
    layer = LatentElectrostatics(precision="single", response="self_consistent")
    with pytest.raises(ConfigError, match=r"precision is 'single' with response='self_consistent'.* allowed: 'double'"):
        energy_and_gradient(make_system(), layer)
