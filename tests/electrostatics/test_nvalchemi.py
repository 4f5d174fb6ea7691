"""`method: nvalchemi` against the direct sum: the particle mesh of nvalchemi-toolkit-ops, where it is installed.

The first run compiles its kernels, a minute or two; Warp keeps them in its cache.
"""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

pytest.importorskip("nvalchemiops")

from random_systems import System, join_systems, random_system

from les_plugins import LatentElectrostatics, LongRangeConfig, Multipoles
from les_plugins.electrostatics.multipoles import traceless
from les_plugins.electrostatics.nvalchemi import NvalchemiElectrostatics
from les_plugins.electrostatics.response.one_shot import one_shot_response
from les_plugins.errors import ConfigError, GeometryError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, LayerLayout

IDENTITY = torch.eye(3, dtype=torch.float64)


def solve(layer, system, positions=None, cell=None):
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    places = system.positions if positions is None else positions
    box = system.cell if cell is None else cell
    return layer(places, box, system.pbc, system.batch, moments, system.softness, system.polarizability)


def with_derivatives(layer, system, name="energy"):
    """Result, and forces and virial from its energies."""
    positions = system.positions.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deform = IDENTITY + strain
    result = solve(layer, system, positions @ deform, system.cell @ deform)
    gradients = torch.autograd.grad(getattr(result, name).sum(), (positions, strain))
    return type(result)(*(None if value is None else value.detach() for value in result)), *gradients


def relative(value, reference):
    return float((value - reference).norm() / reference.norm())


def assert_agrees(system, tolerance, dl=1.2, **settings):
    found = with_derivatives(NvalchemiElectrostatics(dl=dl, mesh_tolerance=tolerance, **settings), system)
    exact = with_derivatives(LatentElectrostatics(dl=dl, method="direct", **settings), system)
    # the tolerance is the forces'; the rest has fewer derivatives and with them smaller errors
    for value, reference in zip((*found[0], *found[1:]), (*exact[0], *exact[1:]), strict=True):
        assert (value is None) == (reference is None)
        if value is not None:
            assert relative(value, reference) < tolerance


@pytest.mark.parametrize("response", [None, "anisotropic"])
@pytest.mark.parametrize(("order", "tolerance"), [(0, 1e-3), (0, 1e-5), (1, 1e-4), (2, 1e-3)])
def test_energies_fields_forces_and_stress_keep_to_the_tolerance(order, tolerance, response):
    assert_agrees(random_system(n_atoms=20, order=order, size=7.0, response=response), tolerance)


def test_the_sum_ends_at_the_cutoff():
    system = random_system(n_atoms=20, size=7.0, response=None)
    assert_agrees(system, 1e-3, dl=2.0)
    converged = solve(NvalchemiElectrostatics(mesh_tolerance=1e-3), system).energy
    truncated = solve(NvalchemiElectrostatics(dl=2.0, mesh_tolerance=1e-3), system).energy
    assert abs(float(converged - truncated)) > 0.01  # eV; the mesh's error is below a thousandth of that


def test_self_interaction_can_be_left_in():
    assert_agrees(random_system(n_atoms=20, size=7.0), 1e-3, remove_self_interaction=False)


def test_atoms_outside_a_skewed_left_handed_charged_cell():
    system = random_system(n_atoms=20, size=7.0, response=None)
    skew = torch.tensor([[1.0, 0.0, 0.0], [0.7, 1.0, 0.0], [-0.5, 0.6, -1.0]], dtype=torch.float64)
    cell = skew @ system.cell[0]
    jumps = torch.randint(-3, 4, (20, 3), generator=torch.Generator().manual_seed(0)).double()
    moved = system._replace(cell=cell[None], positions=system.positions + jumps @ cell, charge=system.charge + 0.1)
    assert_agrees(moved, 1e-3, net_charge_warning=None)


def test_another_width():
    assert_agrees(random_system(n_atoms=20, size=7.0), 1e-3, sigma=1.4, dl=1.5)


def test_a_batch_is_its_structures_one_by_one():
    systems = [random_system(n_atoms=n, size=6.0, seed=n) for n in (4, 7)]
    layer = NvalchemiElectrostatics(mesh_tolerance=1e-2)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    joined = join_systems(systems).select(order)
    together = solve(layer, joined)
    alone = [solve(layer, system) for system in systems]
    # the same operations, in another order of the atoms
    torch.testing.assert_close(together.energy, torch.cat([one.energy for one in alone]), rtol=1e-11, atol=0.0)
    for name in ("atomic_energy", "potential", "field", "charge", "dipole"):
        parts = torch.cat([getattr(one, name) for one in alone])[order]
        torch.testing.assert_close(getattr(together, name), parts, rtol=1e-9, atol=1e-11)


def test_a_structure_without_atoms_has_no_energy():
    system = random_system(n_atoms=4, response=None)
    empty = system._replace(cell=system.cell.repeat(2, 1, 1), pbc=system.pbc.repeat(2, 1))
    energy = solve(NvalchemiElectrostatics(mesh_tolerance=1e-2), empty).energy
    assert float(energy[1]) == 0.0
    assert float(energy[0]) != 0.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_numbers_are_the_same_and_carry_no_graph(mode):
    system = random_system(n_atoms=4)
    layer = NvalchemiElectrostatics(mesh_tolerance=1e-2)
    system = system._replace(positions=system.positions.requires_grad_())
    expected = solve(layer, system)
    assert expected.energy.requires_grad
    with mode():
        found = solve(layer, system)
    for value, reference in zip(found, expected, strict=True):
        assert not value.requires_grad
        torch.testing.assert_close(value, reference.detach(), rtol=1e-12, atol=1e-12)  # rounding
    plain = solve(layer, system._replace(positions=system.positions.detach()))
    assert not any(value.requires_grad for value in plain)


def small(order):
    """A function of positions, strain and moments, and inputs for it; coarse, for many evaluations."""
    system = random_system(n_atoms=3, order=order, response=None, size=5.0)
    layer = NvalchemiElectrostatics(dl=1.7, mesh_tolerance=1e-2, response=None, net_charge_warning=None)
    moments = [m for m in (system.charge, system.dipole, system.quadrupole) if m is not None]

    def outputs(positions, strain, *moments):
        moments = [traceless(m) if m.dim() == 3 else m for m in moments]
        moments += [None] * (3 - len(moments))
        named = dict(zip(("charge", "dipole", "quadrupole"), moments, strict=True))
        deform = IDENTITY + strain
        return solve(layer, system._replace(**named), positions @ deform, system.cell @ deform)

    inputs = [system.positions, torch.zeros(3, 3, dtype=torch.float64), *moments]
    return outputs, [x.clone().requires_grad_() for x in inputs]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_first_and_second_derivatives_are_those_of_differences(order):
    outputs, inputs = small(order)
    assert gradgradcheck(lambda *x: outputs(*x).atomic_energy, inputs)

    def fields(*x):
        result = outputs(*x)
        return result.energy, result.potential, result.field

    assert gradcheck(fields, inputs)


def test_a_training_step_on_forces_is_that_of_the_direct_sum():
    system = random_system(n_atoms=20, order=2, size=7.0, response=None)

    def step(layer):
        layer.train()
        parts = [x.clone().requires_grad_() for x in (system.positions, *system[4:7])]
        named = dict(zip(("charge", "dipole", "quadrupole"), parts[1:], strict=True))
        energy = solve(layer, system._replace(**named), parts[0]).energy.sum()
        (gradient,) = torch.autograd.grad(energy, parts[0], create_graph=True)
        *first, quadrupole = torch.autograd.grad(1e-3 * energy.square() + gradient.square().sum(), parts)
        return *first, traceless(quadrupole)

    found = step(NvalchemiElectrostatics(mesh_tolerance=1e-3, response=None))
    exact = step(LatentElectrostatics(method="direct", response=None))
    for value, reference in zip(found, exact, strict=True):
        assert relative(value, reference) < 1e-2  # one derivative more than the forces: measured 2e-3


def test_training_with_a_response_is_refused():
    layer = NvalchemiElectrostatics().train()
    with pytest.raises(ConfigError, match=r"response is 'one_shot' with method: nvalchemi in training mode"):
        solve(layer, random_system())


def test_third_derivatives_raise():
    outputs, inputs = small(0)
    (slope,) = torch.autograd.grad(outputs(*inputs).potential.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        torch.autograd.grad(slope.square().sum(), inputs[0])


@pytest.mark.parametrize("periodic", [False, "slab"])
def test_what_is_not_periodic_is_refused(periodic):
    with pytest.raises(GeometryError, match=r"for structure 0 with method: nvalchemi; allowed: three True"):
        solve(NvalchemiElectrostatics(), random_system(periodic=periodic))


def test_the_self_consistent_response_is_refused():
    with pytest.raises(ConfigError, match="'self_consistent' with method: nvalchemi; allowed: 'one_shot' or None"):
        NvalchemiElectrostatics(response="self_consistent")


def test_the_section_chooses_it_through_the_hook():
    layout = FeatureLayout((LayerLayout(4, 4, 0),))
    section = {"method": "nvalchemi", "mesh_tolerance": 1e-3, "dl": 1.5, "sigma": 0.9, "response": {"charge": True}}
    layer = build_long_range(layout, LongRangeConfig.parse(section)).electrostatics
    assert isinstance(layer, NvalchemiElectrostatics)
    settings = layer.settings
    assert (settings.method, settings.mesh_tolerance, settings.dl, settings.sigma) == ("mesh", 1e-3, 1.5, 0.9)
    assert layer.response_model is one_shot_response
    assert type(build_long_range(layout, LongRangeConfig()).electrostatics) is LatentElectrostatics


def test_the_limit_of_unrolling_is_put_back():
    warp = pytest.importorskip("warp")
    NvalchemiElectrostatics()
    assert warp.config.max_unroll == 16  # Warp's own


def test_the_system_of_these_tests_is_triclinic():
    system: System = random_system()
    assert float((system.cell[0] - system.cell[0].diagonal().diag()).abs().max()) > 0.1


def test_traced_code_takes_the_direct_sum():
    system = random_system(n_atoms=4, size=5.0)
    layer = NvalchemiElectrostatics(dl=1.7, static_cell=(9.0, 9.0, 9.0))
    traced = make_fx(lambda positions: solve(layer, system, positions).energy)(system.positions)
    direct = solve(LatentElectrostatics(dl=1.7, method="direct"), system).energy
    torch.testing.assert_close(traced(system.positions), direct, rtol=1e-10, atol=0.0)  # rounding
