"""The particle mesh against the direct sum, whose truncated energy it approximates to a stated error of the forces."""

import math

import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics import ElectrostaticsSettings
from les_plugins.electrostatics.multipoles import traceless
from les_plugins.electrostatics.periodic import mesh
from les_plugins.electrostatics.periodic.mesh import mesh_electrostatics
from les_plugins.electrostatics.periodic.mesh_size import MESH_POINT_COST, estimated_error, mesh_is_faster, mesh_of
from les_plugins.electrostatics.periodic.reciprocal import periodic_electrostatics
from les_plugins.electrostatics.periodic.splines import Mesh
from les_plugins.electrostatics.periodic.structure_factor import exponents
from les_plugins.errors import ConfigError, GeometryError

CUTOFF = 2.0 * math.pi / 1.2
COARSE = {"dl": 1.7, "method": "mesh", "mesh_tolerance": 1e-2}
SKEWED = [[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [-1.0, 3.0, 1.0]]


def relative(value, reference):
    return float((value - reference).norm() / reference.norm())


def with_stress(system, solve, **settings):
    """Result, forces and virial."""
    positions = system.positions.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deform = torch.eye(3, dtype=torch.float64) + strain
    result = solve(system._replace(positions=positions @ deform, cell=system.cell @ deform), **settings)
    gradient, virial = torch.autograd.grad(result.energy.sum(), (positions, strain))
    return type(result)(*(None if value is None else value.detach() for value in result)), -gradient, virial


@pytest.mark.parametrize("spline", [6, 8, 10])
def test_splines_sum_to_one_and_their_derivatives_are_those_of_autograd(spline):
    mesh = Mesh((11, 12, 14), spline)
    fractional = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.randn(11, 12, 14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    constant = mesh.gather(fractional, torch.ones_like(values), 2)
    torch.testing.assert_close(constant[:, 0], torch.ones(4, dtype=torch.float64), rtol=1e-13, atol=0.0)  # rounding
    assert constant[:, 1:].abs().max() < 1e-9  # sums of terms of size 14² that cancel
    step, local = 1e-4, mesh.gather(fractional, values, 4)
    for below, exponent in enumerate(exponents(3)):
        for axis in range(3):
            shift = torch.zeros(3, dtype=torch.float64)
            shift[axis] = step
            up, down = (mesh.gather(fractional + sign * shift, values, 3)[:, below] for sign in (1, -1))
            above = exponents(4).index(tuple(e + (a == axis) for a, e in enumerate(exponent)))
            # a difference of second order: (14 · step)² of the derivative
            torch.testing.assert_close((up - down) / (2.0 * step), local[:, above], rtol=1e-4, atol=14.0**4 * 1e-4)


@pytest.mark.parametrize("order", [0, 2, 3])
def test_gather_is_the_transpose_of_spread(order):
    mesh, generator = Mesh((9, 12, 10), 8), torch.Generator().manual_seed(0)
    fractional = torch.rand(7, 3, generator=generator, dtype=torch.float64)
    fractional[0], fractional[1] = 0.0, 1.0  # both ends of the cell
    moments = torch.randn(7, len(exponents(order)), generator=generator, dtype=torch.float64)
    values = torch.randn(9, 12, 10, generator=generator, dtype=torch.float64)
    one = (mesh.spread(fractional, moments, order) * values).sum()
    other = (mesh.gather(fractional, values, order) * moments).sum()
    assert float(one) == pytest.approx(float(other), rel=1e-11)  # rounding only


@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5, 1e-7])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_forces_keep_to_the_tolerance(order, tolerance, make_system, solve):
    system = make_system(n_atoms=20, order=order, size=7.0)
    result, forces, virial = with_stress(system, solve, method="mesh", mesh_tolerance=tolerance)
    exact, exact_forces, exact_virial = with_stress(system, solve, method="direct")
    assert relative(forces, exact_forces) < tolerance
    # the rest has fewer derivatives than the force, and with them smaller errors
    assert relative(virial, exact_virial) < tolerance
    assert relative(result.energy, exact.energy) < tolerance
    for name in ("potential", "field", "charge", "dipole", "atomic_energy"):
        assert relative(getattr(result, name), getattr(exact, name)) < tolerance, name


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("change", [SKEWED, [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]], ids=str)
def test_forces_keep_to_the_tolerance_in_skewed_and_left_handed_cells(order, change, make_system, solve):
    system = make_system(n_atoms=12, order=order, size=5.0)
    system = system._replace(cell=torch.tensor(change, dtype=torch.float64) @ system.cell)
    result, forces, virial = with_stress(system, solve, method="mesh")
    exact, exact_forces, exact_virial = with_stress(system, solve, method="direct")
    assert relative(forces, exact_forces) < 1e-5
    assert relative(virial, exact_virial) < 1e-5
    assert relative(result.energy, exact.energy) < 1e-5


@pytest.mark.parametrize(("sigma", "dl"), [(1.0, 2.0), (1.5, 1.5), (0.7, 0.9)])
def test_forces_keep_to_the_tolerance_at_other_smearing_and_resolution(sigma, dl, make_system, solve):
    system = make_system(n_atoms=20, size=6.0)
    _, forces, _ = with_stress(system, solve, method="mesh", sigma=sigma, dl=dl)
    _, exact, _ = with_stress(system, solve, method="direct", sigma=sigma, dl=dl)
    assert relative(forces, exact) < 1e-5


def test_estimate_is_near_the_error_of_random_quadrupoles(make_system):
    # the estimate is made for moments of the highest rank alone; without its margin it is right within a factor of 3
    system = make_system(n_atoms=40, size=8.0)
    moments = Multipoles(0.0 * system.charge, 0.0 * system.dipole, system.quadrupole)
    places = system.positions.clone().requires_grad_()
    arguments = (moments, ElectrostaticsSettings(dl=2.0 * math.pi / CUTOFF, mesh_tolerance=1e-4))
    in_rows = Multipoles(*(moment[None] for moment in moments)), arguments[1]
    energy = periodic_electrostatics(places[None], system.cell, *in_rows, [nine(system.cell)]).energy
    exact = torch.autograd.grad(energy.sum(), places)[0]
    mesh = mesh_of(system.cell[0], 1.0, CUTOFF, 2, 1e-4)
    forces = torch.autograd.grad(mesh_electrostatics(places, system.cell[0], *arguments)[0], places)[0]
    spacings = (system.cell[0].norm(dim=1) / torch.tensor(mesh.sizes)).tolist()
    estimate = math.sqrt(sum(estimated_error(h, 1.0, CUTOFF, 2, mesh.spline) ** 2 for h in spacings))
    assert estimate / 3.0 < relative(forces, exact) < 3.0 * estimate


def test_energy_and_forces_barely_depend_on_the_origin(make_system, solve):
    system = make_system(n_atoms=20, size=7.0)
    shift = torch.tensor([0.137, -0.291, 5.318], dtype=torch.float64)  # no multiple of the mesh's spacing
    one, forces, _ = with_stress(system, solve, method="mesh")
    other, shifted, _ = with_stress(system._replace(positions=system.positions + shift), solve, method="mesh")
    assert relative(other.energy, one.energy) < 1e-5
    assert relative(shifted, forces) < 2e-5  # the error of either
    assert not torch.equal(shifted, forces)


@pytest.mark.parametrize("order", [0, 2])
def test_energy_of_a_supercell_is_a_multiple(order, make_system, solve):
    system = make_system(n_atoms=12, order=order)
    repeated = system.select(torch.arange(12).repeat(2))
    repeated = repeated._replace(
        positions=repeated.positions + system.cell[0, 1] * torch.arange(2.0).repeat_interleave(12)[:, None],
        cell=system.cell * torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)[:, None],
    )
    one, forces, _ = with_stress(system, solve, method="mesh")
    two, repeated_forces, _ = with_stress(repeated, solve, method="mesh")
    assert relative(two.energy, 2.0 * one.energy) < 1e-5
    assert relative(repeated_forces, forces.repeat(2, 1)) < 2e-5  # the error of either


@pytest.mark.parametrize("order", [0, 1, 2])
def test_forces_and_stress_are_the_derivatives_of_the_energy_on_the_mesh(order, make_system, solve):
    # coarse on purpose: far from the direct sum, and its own energy's derivative all the same. dl = 0.8: a vector that
    # crosses the cutoff sphere under a small strain changes the energy by 1e-12 only
    settings = {"method": "mesh", "mesh_tolerance": 1e-2, "dl": 0.8}
    system = make_system(order=order)
    _, forces, virial = with_stress(system, solve, **settings)
    generator, step = torch.Generator().manual_seed(0), 1e-4
    towards = torch.randn(forces.shape, generator=generator, dtype=torch.float64)
    strain = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    moved, strained = [], []
    for sign in (1, -1):
        deform = torch.eye(3, dtype=torch.float64) + sign * step * strain
        moved.append(solve(system._replace(positions=system.positions + sign * step * towards), **settings).energy)
        strained.append(
            solve(system._replace(positions=system.positions @ deform, cell=system.cell @ deform), **settings).energy
        )
    for derivative, direction, (up, down) in ((-forces, towards, moved), (virial, strain, strained)):
        numeric = float(up - down) / (2.0 * step)
        # theory, section 12: 1e-6 of the whole gradient; the difference itself is good to step² times some tens
        bound = 1e-6 * float(derivative.norm() * direction.norm())
        assert float((derivative * direction).sum()) == pytest.approx(numeric, abs=bound)


def differentiable(system, solve, outputs):
    names = ["positions", "cell", "charge", "dipole", "quadrupole", "softness", "polarizability"]
    names = [name for name in names if getattr(system, name) is not None]

    def evaluate(*values):
        given = dict(zip(names, values, strict=True))
        if "quadrupole" in given:
            given["quadrupole"] = traceless(given["quadrupole"])
        result = solve(system._replace(**given), **COARSE)
        return tuple(getattr(result, output) for output in outputs)

    return evaluate, [getattr(system, name).clone().requires_grad_() for name in names]


@pytest.mark.parametrize("order", [0, 2])
def test_gradients_of_every_output_in_every_input(order, make_system, solve):
    system = make_system(n_atoms=3, order=order, size=4.5)
    outputs = ("energy", "atomic_energy", "potential", "field", "charge", "dipole")
    evaluate, values = differentiable(system, solve, outputs)
    assert first_derivatives_hold(evaluate, values)


@pytest.mark.parametrize(("order", "output"), [(0, "energy"), (1, "energy"), (2, "energy"), (2, "field")])
def test_second_derivatives(order, output, make_system, solve):
    system = make_system(n_atoms=3, order=order, size=4.5)
    evaluate, values = differentiable(system, solve, (output,))
    assert second_derivatives_hold(evaluate, values)


def test_gradients_do_not_depend_on_which_outputs_are_used_beside_the_energy(make_system, solve):
    system = make_system()
    evaluate, values = differentiable(system, solve, ("energy", "atomic_energy"))
    energy, atomic = evaluate(*values)
    one = torch.autograd.grad(energy.sum(), values, retain_graph=True)
    other = torch.autograd.grad(atomic.sum(), values)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)  # two ways to the same derivative: rounding only


@pytest.mark.parametrize(("response", "convolutions"), [(None, 1), ("one_shot", 2)])
def test_forces_transform_only_what_something_depends_on(response, convolutions, make_system, solve, monkeypatch):
    calls = []

    def counted(*given):
        calls.append(given)
        return original(*given)

    original = mesh._convolve
    monkeypatch.setattr(mesh, "_convolve", counted)
    with_stress(make_system(), solve, method="mesh", response=response)
    # the energy's own gradient is at hand; that of a response goes back through the potential
    assert len(calls) == convolutions


def test_gradients_can_be_taken_after_a_first_use_in_inference_mode(make_system, solve):
    system = make_system(seed=11)
    with torch.inference_mode():
        expected = solve(system, method="mesh").energy.clone()
    result, forces, _ = with_stress(system, solve, method="mesh")
    torch.testing.assert_close(result.energy, expected, rtol=1e-12, atol=1e-12)  # the order of sums differs
    assert torch.isfinite(forces).all()


def test_positions_need_not_be_wrapped(make_system, solve):
    system = make_system()
    images = torch.tensor([[3, -2, 1], [0, 0, 0], [-5, 4, 0], [1, 1, 1], [0, -1, 0]], dtype=torch.float64)
    one, forces, virial = with_stress(system, solve, method="mesh")
    moved = system._replace(positions=system.positions + images @ system.cell[0])
    other, moved_forces, moved_virial = with_stress(moved, solve, method="mesh")
    # wrapping costs a few digits of 1e-16, which derivatives of the splines multiply
    torch.testing.assert_close(other.energy, one.energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved_forces, forces, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved_virial, virial, rtol=1e-8, atol=1e-8)


def test_batch_with_open_structures_equals_one_by_one(make_system, solve, join):
    systems = [make_system(), make_system(n_atoms=4, periodic=False, seed=1), make_system(n_atoms=7, seed=2)]
    together = solve(join(systems), method="mesh")
    apart = [solve(system, method="mesh") for system in systems]
    for name in ("energy", "atomic_energy", "potential", "field", "charge", "dipole"):
        expected = torch.cat([getattr(result, name) for result in apart])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-12, atol=1e-12)  # rounding only


def test_single_precision_in_single_precision_out(make_system, solve):
    system = make_system()
    single = system._replace(
        **{
            name: getattr(system, name).float()
            for name in ("positions", "cell", "charge", "dipole", "quadrupole", "softness", "polarizability")
        }
    )
    result = solve(single, method="mesh")
    assert result.energy.dtype == torch.float32
    assert relative(result.energy.double(), solve(system, method="mesh").energy) < 1e-5  # rounding of the input


def nine(cell):
    return tuple(cell.flatten().tolist())


def test_auto_takes_the_direct_sum_for_small_structures_and_the_mesh_for_large_ones(make_system, solve, join):
    small = make_system(n_atoms=8, order=0, response=None)
    large = make_system(n_atoms=600, order=0, response=None, size=18.0)
    assert not mesh_is_faster(8, nine(small.cell), 1.0, CUTOFF, 0, 1e-5)
    assert mesh_is_faster(600, nine(large.cell), 1.0, CUTOFF, 0, 1e-5)
    auto = solve(join([small, large])).energy  # what is taken does not depend on the batch
    assert float(auto[0]) == float(solve(small, method="direct").energy)
    assert float(auto[1]) == float(solve(large, method="mesh").energy)
    assert float(auto[1]) != float(solve(large, method="direct").energy)


def test_auto_leaves_a_few_atoms_in_a_large_box_to_the_direct_sum():
    # 1,000 mesh points an atom and more: the mesh costs by its volume, the direct sum by the atoms in it
    box = 40.0 * torch.eye(3, dtype=torch.float64)
    assert MESH_POINT_COST > 0.0
    assert not mesh_is_faster(20, nine(box), 1.0, CUTOFF, 2, 1e-5)
    assert mesh_is_faster(6000, nine(box), 1.0, CUTOFF, 2, 1e-5)


def test_cells_without_a_volume_and_too_large_ones_raise_an_error(make_system, solve):
    system = make_system()
    flat = system._replace(cell=torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]], dtype=torch.float64))
    with pytest.raises(GeometryError, match="is singular"):
        solve(flat, method="mesh")
    huge = system._replace(cell=1e4 * torch.eye(3, dtype=torch.float64)[None])
    with pytest.raises(GeometryError, match=r"needs a mesh of \S+ × \S+ × \S+ = \S+ points at mesh_tolerance = 1e-05"):
        solve(huge, method="mesh")


@pytest.mark.parametrize("tolerance", [-1e-5, 0.0, 1e-12, 0.1, float("nan"), float("inf")])
def test_tolerances_out_of_reach_raise_an_error(tolerance):
    with pytest.raises(ConfigError, match=r"mesh_tolerance is .* allowed: 1e-09 … 0\.01"):
        LatentElectrostatics(method="mesh", mesh_tolerance=tolerance)
