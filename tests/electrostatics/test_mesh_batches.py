"""Periodic structures with meshes of the same sizes are summed together: the numbers of each by itself."""

import pytest
import torch
from torch.autograd import gradgradcheck

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics import groups, solver
from les_plugins.electrostatics.multipoles import traceless
from les_plugins.electrostatics.observables import born_effective_charges
from les_plugins.electrostatics.periodic import splines
from les_plugins.electrostatics.periodic.mesh_size import mesh_of_cell
from les_plugins.testing.pretended_device import PretendedDevice

DOUBLE = {"dtype": torch.float64}
NAMES = ("positions", "cell", "charge", "dipole", "quadrupole", "softness", "polarizability")
#: Structure by structure: seed of its triclinic cell, its scale, atoms. Five of them have one mesh.
CASES = ((0, 1.0, 4), (1, 1.0, 5), (0, 0.995, 7), (0, 1.0, 2), (1, 1.3, 3), (0, 0.99, 9), (0, 0.992, 1))


def structures(make_system, **options):
    """Charged and neutral ones, of two shapes of cells and several sizes."""
    found = []
    for place, (shape, scale, n_atoms) in enumerate(CASES):
        system = make_system(n_atoms=n_atoms, size=5.0, seed=10 + place, **options)
        cell = scale * make_system(n_atoms=1, size=5.0, seed=shape).cell
        found.append(system._replace(cell=cell, charge=system.charge + 0.1 * (place % 2)))
    return found


def pairs_of(system):
    """Every atom with the next one of its structure, in both directions."""
    first = (system.batch[1:] == system.batch[:-1]).nonzero()[:, 0]
    centre, neighbor = torch.cat([first, first + 1]), torch.cat([first + 1, first])
    vector = system.positions[neighbor] - system.positions[centre]
    return PairSoftness(centre, neighbor, vector, torch.full((len(centre),), 0.01, **DOUBLE))


def step(system, response, pairs=False):
    """Everything of the layer, and what forces and stress and a loss on them give every input."""
    given = {name: getattr(system, name) for name in NAMES if getattr(system, name) is not None}
    given = {name: value.clone().requires_grad_() for name, value in given.items()}
    moved = system._replace(**given)
    settings = {"response": response, "response_tolerance": 1e-13, "net_charge_warning": None}
    result = LatentElectrostatics(method="mesh", **settings).train()(
        *moved[:4],
        Multipoles(moved.charge, moved.dipole, moved.quadrupole),
        None if pairs else moved.softness,
        moved.polarizability,
        pair_softness=pairs_of(moved) if pairs else None,
    )
    geometry = given["positions"], given["cell"]
    slopes = torch.autograd.grad(result.energy.sum(), geometry, create_graph=True)
    loss = result.energy.sum() + sum(slope.square().sum() for slope in slopes)
    wanted = [value for name, value in given.items() if not (pairs and name == "softness")]
    second = torch.autograd.grad(loss, wanted, materialize_grads=True)
    return [value.detach() for value in (*result[:6], *slopes, *second) if value is not None]


def assert_close_to_rounding(together, apart, tolerance):
    for place, found in enumerate(together):
        expected = torch.cat([alone[place] for alone in apart])
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("response", "pairs"), [("one_shot", False), ("self_consistent", False), ("one_shot", True), (None, False)]
)
@pytest.mark.parametrize("order", [0, 2])
def test_a_batch_equals_its_structures_one_by_one_to_the_second_derivative(response, pairs, order, make_system, join):
    systems = structures(make_system, order=order)
    # rounding; iterations stop at 1e-13 of the moments, whose second derivatives are good to that times some hundred
    tolerance = 1e-10 if response == "self_consistent" else 1e-12
    together, apart = step(join(systems), response, pairs), [step(system, response, pairs) for system in systems]
    assert_close_to_rounding(together, apart, tolerance)


@pytest.fixture
def as_on_an_accelerator(monkeypatch):
    """Meshes of all sizes in one array, and several chunks of atoms."""
    together = groups.groups_on_mesh
    monkeypatch.setattr(solver, "groups_on_mesh", lambda *given: together(*given[:2], torch.device("cuda")))
    monkeypatch.setattr(splines, "PATCH_BYTES", 1 << 17)


@pytest.mark.parametrize("response", ["one_shot", "self_consistent", None])
@pytest.mark.parametrize("order", [0, 2])
def test_meshes_of_all_sizes_in_one_array_equal_each_by_itself(
    response, order, make_system, join, as_on_an_accelerator
):
    systems = structures(make_system, order=order)
    tolerance = 1e-10 if response == "self_consistent" else 1e-12  # as above
    assert_close_to_rounding(step(join(systems), response), [step(system, response) for system in systems], tolerance)


def test_structures_whose_atoms_are_in_no_order_are_found_again(make_system, join):
    batch = join(structures(make_system))
    atoms = torch.randperm(len(batch.positions), generator=torch.Generator().manual_seed(0))
    found, expected = step(batch.select(atoms), "one_shot"), step(batch, "one_shot")
    per_atom = [value[atoms] if len(value) == len(atoms) else value for value in expected]
    assert_close_to_rounding(found, [per_atom], 1e-12)


def test_groups_that_would_take_too_much_memory_are_cut(make_system, join, monkeypatch):
    batch = join(structures(make_system))
    together = step(batch, "one_shot")
    monkeypatch.setattr(groups, "CPU", groups.CPU._replace(numbers=1.0))  # each by itself
    assert_close_to_rounding(step(batch, "one_shot"), [together], 1e-12)


def test_only_structures_of_one_mesh_and_of_like_number_of_atoms_are_together(make_system):
    cells = [tuple(system.cell.flatten().tolist()) for system in structures(make_system)]
    meshes = [mesh_of_cell(cell, 1.0, 5.2, 2, 1e-5) for cell in cells]
    assert [meshes.count(mesh) for mesh in meshes] == [5, 1, 5, 5, 1, 5, 5]
    cpu = torch.device("cpu")
    assert groups.groups_on_mesh([20] * 64, meshes[:1] * 64, cpu) == [list(range(64))]
    found = groups.groups_on_mesh([2000, 10, 1900, 12], meshes[:1] * 4, cpu)
    assert sorted(found) == [[0, 2], [1, 3]]  # rows of 2,000 for 10 atoms would be two hundred times the work
    assert groups.groups_on_mesh([2000, 10, 1900, 12], meshes[:4], torch.device("cuda")) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_meshes_that_are_transformed_together_are_bounded(device):
    meshes = [splines.Mesh((size, size, size), 10) for size in (100, 150, 100, 300, 20, 100, 150, 100)]
    device = torch.device(device)
    found = groups.groups_on_mesh([50] * 8, meshes, device)
    assert sorted(place for group in found for place in group) == list(range(8))
    for group in found:
        points = sum(meshes[place].sizes[0] ** 3 for place in group)
        assert len(group) == 1 or points <= groups.limits_of(device).numbers


def test_born_charges_of_a_batch_are_those_of_its_structures(make_system, join):
    def born(system):
        positions = system.positions.clone().requires_grad_()
        moments = Multipoles(system.charge, system.dipole, system.quadrupole)
        geometry = positions, system.cell, system.pbc, system.batch
        layer = LatentElectrostatics(method="mesh", net_charge_warning=None)
        result = layer(*geometry, moments, system.softness, system.polarizability)
        return born_effective_charges(*geometry, result.charge, result.dipole)

    systems = structures(make_system)
    expected = torch.cat([born(system) for system in systems])
    torch.testing.assert_close(born(join(systems)), expected, rtol=1e-12, atol=1e-12)  # rounding


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_second_derivatives_of_a_batch(scale, make_system, join, as_on_an_accelerator):
    cells = [make_system(size=4.5).cell, scale * make_system(size=4.5).cell]  # one mesh, or two
    systems = [make_system(n_atoms=n, size=4.5, seed=n)._replace(cell=cells[n - 2]) for n in (2, 3)]
    system = join(systems)

    def energies(*values):
        given = dict(zip(NAMES, values, strict=True))
        given["quadrupole"] = traceless(given["quadrupole"])
        moved = system._replace(**given)
        layer = LatentElectrostatics(method="mesh", dl=1.7, mesh_tolerance=1e-2)
        moments = Multipoles(moved.charge, moved.dipole, moved.quadrupole)
        return layer(*moved[:4], moments, moved.softness, moved.polarizability).energy

    # a random projection, at gradgradcheck's own defaults
    assert gradgradcheck(energies, [getattr(system, name).clone().requires_grad_() for name in NAMES], fast_mode=True)


def operators_and_waits(n_structures, training):
    """Of a step of structures of 20 atoms, tables of a step before at hand."""
    generator = torch.Generator().manual_seed(0)
    n, edge = 20 * n_structures, 6.0
    cell = (edge * torch.eye(3, **DOUBLE)).repeat(n_structures, 1, 1)
    # three in four have slightly other cells, with the same mesh
    cell *= (1.0 - 0.002 * (torch.arange(n_structures) % 4))[:, None, None]
    values = edge * torch.rand(n, 3, generator=generator, **DOUBLE), torch.randn(n, generator=generator, **DOUBLE)
    layer = LatentElectrostatics(method="mesh", net_charge_warning=None).train(training)
    with PretendedDevice() as there:
        batch = torch.arange(n_structures).repeat_interleave(20)
        geometry = there(cell), there(torch.ones(n_structures, 3, dtype=torch.bool)), there(batch)
        softness = there(torch.full((n,), 0.01, **DOUBLE))
        for _ in range(2):
            positions, charge, dipole = (there(value).requires_grad_() for value in (*values, values[0] - 3.0))
            there.reset()
            energy = layer(positions, *geometry, Multipoles(charge, dipole), softness, softness).energy.sum()
            (gradient,) = torch.autograd.grad(energy, positions, create_graph=training)
            if training:
                torch.autograd.grad(gradient.square().sum(), (positions, charge, dipole))
    return there.operators, there.waits


@pytest.mark.parametrize(("training", "most"), [(False, 800), (True, 1600)])
def test_the_number_of_operators_and_waits_does_not_depend_on_the_number_of_structures(training, most):
    one, _ = operators_and_waits(1, training)
    several, waits = operators_and_waits(64, training)
    assert several <= min(most, 1.5 * one)
    assert waits <= 6
