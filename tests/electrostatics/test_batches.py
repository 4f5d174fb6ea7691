"""Structures of a batch are summed together: the same numbers as one by one, by as many operations as for one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.groups import CPU, DEVICE, _work, groups_of_like_size

KINDS = (True, "slab", False)


class Operators(TorchDispatchMode):
    """Number of operators that are run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def step(system, response="one_shot", training=True):
    """Energies, potentials, fields, forces, and what a loss on the forces gives every input."""
    layer = LatentElectrostatics(method="direct", response=response, response_tolerance=1e-12, net_charge_warning=None)
    layer.train(training)
    names = ["positions", "charge", "dipole", "quadrupole", "softness", "polarizability"]
    given = [getattr(system, name) for name in names]
    inputs = [None if value is None else value.clone().requires_grad_() for value in given]
    positions, charge, dipole, quadrupole, *coefficients = inputs
    geometry = positions, system.cell.clone().requires_grad_(), system.pbc, system.batch
    result = layer(*geometry, Multipoles(charge, dipole, quadrupole), *coefficients)
    energy = result.energy.sum()
    first = torch.autograd.grad(energy, geometry[:2], create_graph=True, materialize_grads=True)
    loss = energy + sum(gradient.square().sum() for gradient in first)
    wanted = [value for value in (*inputs, geometry[1]) if value is not None]
    second = torch.autograd.grad(loss, wanted, materialize_grads=True)
    per_atom = [result.atomic_energy, result.potential, result.field, result.charge, result.dipole, first[0]]
    per_structure = [result.energy, first[1], second[-1]]
    return [value.detach() for value in (*per_atom, *second[:-1])], [value.detach() for value in per_structure]


def several(make_system, join, kinds, sizes, **options):
    """Structures of several sizes and boundaries, in cells of several sizes."""
    systems = [
        make_system(n_atoms=n, periodic=kinds[place % len(kinds)], size=5.0 + 0.9 * (place % 4), seed=place, **options)
        for place, n in enumerate(sizes)
    ]
    return systems, join(systems)


@pytest.mark.parametrize("response", ["one_shot", "self_consistent"])
@pytest.mark.parametrize("kinds", [(True,), ("slab",), (False,), KINDS])
def test_a_batch_equals_its_structures_one_by_one_to_the_second_derivative(kinds, response, make_system, join):
    systems, batch = several(make_system, join, kinds, (4, 7, 2, 1, 5, 3))
    together = step(batch, response)
    apart = [step(system, response) for system in systems]
    # rounding; where iterations stop, at 1e-12 of the moments, is a structure's own affair but for the products' order
    tolerance = 1e-12 if response == "one_shot" else 1e-10
    for part in range(2):
        for place, found in enumerate(together[part]):
            expected = torch.cat([alone[part][place] for alone in apart])
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def test_structures_that_share_no_atoms_order_or_number_are_found_again(make_system, join):
    _, batch = several(make_system, join, KINDS, (4, 7, 2, 5))
    atoms = torch.randperm(len(batch.positions), generator=torch.Generator().manual_seed(0))
    # two structures without atoms, between the others and behind them
    places = torch.tensor([0, 1, 3, 4])
    cell, pbc = torch.eye(3, dtype=torch.float64).repeat(6, 1, 1), torch.ones(6, 3, dtype=torch.bool)
    cell[places], pbc[places] = batch.cell, batch.pbc
    mixed = batch.select(atoms)._replace(cell=cell, pbc=pbc)
    mixed = mixed._replace(batch=places[mixed.batch])
    found, expected = step(mixed), step(batch)
    for one, other in zip(found[0], expected[0], strict=True):
        torch.testing.assert_close(one, other[atoms], rtol=1e-12, atol=1e-12 * float(other.abs().max()))
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one[places], other, rtol=1e-12, atol=1e-12 * float(other.abs().max()))
        assert float(one[[2, 5]].abs().max()) == 0.0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_operators_does_not_depend_on_the_number_of_structures(kind, training, make_system, join):
    counts = []
    for n_structures in (1, 32):
        system = join([make_system(n_atoms=4, periodic=kind, size=5.0, seed=place) for place in range(n_structures)])
        step(system, training=training)  # tables that are made once
        with Operators() as operators:
            step(system, training=training)
        counts.append(operators.count)
    assert counts[1] <= 1.5 * counts[0]


@pytest.mark.parametrize(("limits", "most_groups"), [(CPU, 20), (DEVICE, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_groups_hold_every_structure_once_and_waste_little(seed, limits, most_groups):
    generator = torch.Generator().manual_seed(seed)
    sizes = [
        (int(n), tuple(extent))
        for n, extent in zip(
            (4.0 * 10.0 ** (2.5 * torch.rand(40, generator=generator))).long(),
            torch.randint(5, 12, (40, 3), generator=generator).sort(1, descending=True).values.tolist(),
            strict=True,
        )
    ]
    groups = groups_of_like_size(sizes, limits)
    assert sorted(place for group in groups for place in group) == list(range(40))
    for group in groups:
        alone = sum(_work(*sizes[place]) for place in group)
        width = max(sizes[place][0] for place in group)
        extent = tuple(max(sizes[place][1][axis] for place in group) for axis in range(3))
        allowed = max(limits.waste * alone, limits.negligible)
        assert len(group) * _work(width, extent) <= allowed or len(group) == 1
    assert len(groups) <= most_groups


@pytest.mark.parametrize("limits", [CPU, DEVICE])
def test_arrays_of_a_group_are_bounded_however_many_structures_there_are(limits):
    for size in ((3000, (20, 20, 20)), (8, (20, 20, 20)), (100_000, (2, 2, 2))):
        groups = groups_of_like_size([size] * 300, limits)
        n_atoms, (n_1, n_2, n_3) = size
        for group in groups:
            components = 4 * (n_1 + 1) * (n_2 + 1) * (2 * n_3 + 1)  # of the grid
            assert len(group) == 1 or len(group) * max(20 * n_atoms, components) <= limits.numbers


def test_structures_of_one_size_are_one_group():
    assert groups_of_like_size([(20, (5, 5, 5))] * 64, CPU) == [list(range(64))]
    assert groups_of_like_size([], CPU) == []
