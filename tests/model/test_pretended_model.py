"""Heads and `LongRange` on a pretended device: parameters, features and edges there, and nothing left on the CPU."""

import copy

import pytest
import torch
from few_atoms import positions
from test_heads import INVARIANT, TENSORS, VECTORS, config, features
from torch.utils._pytree import tree_map

from les_plugins.hosting.build import build_long_range
from les_plugins.testing.pretended_device import PretendedDevice

GEOMETRY = {
    "cell": 7.0 * torch.eye(3, dtype=torch.float64)[None],
    "pbc": torch.ones(1, 3, dtype=torch.bool),
}


def there_too(device, module):
    """A copy of a module with parameters and buffers on a device."""
    moved = copy.deepcopy(module)
    for part in moved.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(device(value))
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = device(value)
    return moved


def forces_and_slopes(part, given, places, cell, pbc, batch):
    """Energy, charges, forces, and the slope of a loss on the forces in every parameter."""
    places = places.requires_grad_()
    result = part(given, places, cell, pbc, batch)
    energy = result.energy.sum()
    (gradient,) = torch.autograd.grad(energy, places, create_graph=True)
    slopes = torch.autograd.grad(energy + gradient.square().sum(), list(part.parameters()), allow_unused=True)
    return [energy, result.charge, gradient, *(slope for slope in slopes if slope is not None)]


@pytest.mark.parametrize("layout", [VECTORS, TENSORS, INVARIANT], ids=["1o", "1o+2e", "edges"])
def test_heads_and_the_long_range_part_run_there(layout):
    torch.manual_seed(0)
    part, places = build_long_range(layout, config()).double().train(), positions()
    given, batch = features(layout, places), torch.zeros(len(places), dtype=torch.long)
    expected = forces_and_slopes(part, given, places.clone(), **GEOMETRY, batch=batch)
    with PretendedDevice() as there:
        moved = tree_map(lambda value: there(value) if isinstance(value, torch.Tensor) else value, given)
        geometry = {name: there(value) for name, value in GEOMETRY.items()}
        found = forces_and_slopes(there_too(there, part), moved, there(places), **geometry, batch=there(batch))
    assert len(found) == len(expected) > 5
    for one, other in zip(found, expected, strict=True):
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one.detach().values_inside, other.detach(), rtol=1e-9, atol=1e-10 * scale)
