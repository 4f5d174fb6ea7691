"""Structures of different sizes and boundaries in one batch on an accelerator: few operators, the numbers of each."""

import pytest
import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics import groups
from les_plugins.testing.pretended_device import PretendedDevice

BOUNDARIES = {"periodic": (True,), "slab": ("slab",), "open": (False,), "mixed": (True, "slab", False)}
#: What energy and forces of a batch take at most, by boundary and response.
MOST = {
    ("periodic", "one_shot"): (220, 2),
    ("slab", "one_shot"): (420, 3),
    ("open", "one_shot"): (270, 2),
    ("mixed", "one_shot"): (600, 3),
    ("periodic", "self_consistent"): (380, 3),
    ("slab", "self_consistent"): (620, 4),
    ("open", "self_consistent"): (380, 3),
    ("mixed", "self_consistent"): (800, 4),
}


def ragged(make_system, boundary, n_structures=24, order=1):
    """Structures of 2 to 40 atoms in cells of 4 to 8 Å."""
    kinds = BOUNDARIES[boundary]
    return [
        make_system(
            n_atoms=2 + (17 * place) % 39,
            size=4.0 + (place % 5),
            periodic=kinds[place % len(kinds)],
            order=order,
            response="isotropic",
            seed=place,
        )
        for place in range(n_structures)
    ]


def on(there, system):
    return system._replace(**{name: there(v) for name, v in system._asdict().items() if isinstance(v, torch.Tensor)})


def step(system, there=None, **settings):
    """Energies, moments and forces."""
    positions = system.positions.requires_grad_()
    if settings.get("response") == "self_consistent":  # a slab whose charge is not fixed has no minimum
        settings |= {"response_tolerance": 1e-13, "total_charge": "fixed"}
    layer = LatentElectrostatics(net_charge_warning=None, **settings)
    if there is not None:
        there.reset()
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    geometry = positions, system.cell, system.pbc, system.batch
    result = layer(*geometry, moments, system.softness, system.polarizability)
    (gradient,) = torch.autograd.grad(result.energy.sum(), positions)
    return [value.detach() for value in (result.energy, result.potential, result.charge, result.dipole, gradient)]


def compare(found, apart, tolerance=1e-12):
    """To rounding, of sums of some thousand terms; what is iterated on the CPU is good to its own tolerance as well."""
    for place, value in enumerate(found):
        expected = torch.cat([alone[place] for alone in apart])
        atol = tolerance * float(expected.abs().max())
        torch.testing.assert_close(value.values_inside, expected, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("response", ["one_shot", "self_consistent"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_operators_of_a_ragged_batch_are_those_of_one_structure(boundary, response, make_system, join):
    systems = ragged(make_system, boundary)
    batch, settings = join(systems), {"method": "direct", "response": response}
    with PretendedDevice() as there:
        for _ in range(2):  # tables that are made once
            found = step(on(there, batch), there, **settings)
    operators, waits = MOST[boundary, response]
    assert there.operators <= operators
    assert there.waits <= waits
    compare(found, [step(system, **settings) for system in systems], 1e-12 if response == "one_shot" else 1e-11)


def test_operators_on_meshes_of_several_sizes(make_system, join):
    systems = ragged(make_system, "periodic")
    cubes = [(5.0 + place % 5) * torch.eye(3, dtype=torch.float64)[None] for place in range(len(systems))]
    systems = [system._replace(cell=cube) for system, cube in zip(systems, cubes, strict=True)]
    with PretendedDevice() as there:
        for _ in range(2):
            found = step(on(there, join(systems)), there, method="mesh")
    assert there.operators <= 700  # some 430 of one size, and 36 for every further one
    assert there.waits <= 2
    compare(found, [step(system, method="mesh") for system in systems])


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_ragged_batch_with_quadrupoles_equals_its_structures(boundary, make_system, join):
    systems = ragged(make_system, boundary, 7, order=2)
    with PretendedDevice() as there:
        found = step(on(there, join(systems)), method="direct")
    compare(found, [step(system, method="direct") for system in systems])


@pytest.mark.parametrize("response", ["one_shot", "self_consistent"])
def test_numbers_do_not_depend_on_what_is_taken_together(response, make_system, join, monkeypatch):
    systems = ragged(make_system, "mixed", 7)
    settings = {"method": "direct", "response": response}
    operators = []
    with PretendedDevice() as there:
        for numbers in (groups.DEVICE.numbers, 1 << 16):
            monkeypatch.setattr(groups, "DEVICE", groups.DEVICE._replace(numbers=numbers))
            found = step(on(there, join(systems)), there, **settings)
            operators.append(there.operators)
    assert operators[1] > 2 * operators[0]
    compare(found, [step(system, **settings) for system in systems], 1e-12 if response == "one_shot" else 1e-11)
