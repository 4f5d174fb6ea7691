"""Self-consistent response on the particle mesh: the direct sum's numbers to the tolerance, and its own derivatives."""

import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold
from self_consistent_cases import TIGHT, TOTALS, stronger

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics import solver
from les_plugins.electrostatics.multipoles import traceless

#: Far from the direct sum on purpose.
COARSE = {"method": "mesh", "mesh_tolerance": 1e-2}
INPUTS = ("positions", "cell", "charge", "dipole", "quadrupole", "softness", "polarizability")


def relative(value, reference):
    return float((value - reference).norm() / reference.norm())


def step(system, **settings):
    """What a step of dynamics needs, and the gradients of a loss of forces and virial in strain and every input."""
    given = {name: getattr(system, name) for name in INPUTS if name != "cell" and getattr(system, name) is not None}
    given = {name: value.clone().requires_grad_() for name, value in given.items()}
    strain = given["strain"] = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deform = torch.eye(3, dtype=torch.float64) + strain
    layer = LatentElectrostatics(**TIGHT, **settings).train()
    result = layer(
        given["positions"] @ deform,
        system.cell @ deform,
        system.pbc,
        system.batch,
        Multipoles(given["charge"], given.get("dipole"), given.get("quadrupole")),
        given["softness"],
        given["polarizability"],
    )
    slopes = torch.autograd.grad(result.energy.sum(), (given["positions"], strain), create_graph=True)
    loss = sum(slope.square().sum() for slope in slopes)
    second = torch.autograd.grad(loss, list(given.values()))
    permanent = 0.0 if system.dipole is None else system.dipole
    first = {
        "energy": result.energy,
        "atomic energy": result.atomic_energy,
        "forces": -slopes[0],
        "virial": slopes[1],
        "induced charge": result.charge - system.charge,
        "induced dipole": result.dipole - permanent,
    }
    second = dict(zip(given, second, strict=True))
    return tuple({name: value.detach() for name, value in found.items()} for found in (first, second))


@pytest.mark.parametrize(("tolerance", "total_charge"), [(1e-3, "free"), (1e-5, "fixed"), (1e-7, "free")])
@pytest.mark.parametrize("order", [0, 2])
def test_a_step_is_that_of_the_direct_sum_to_the_tolerance(order, tolerance, total_charge, make_system):
    system = stronger(make_system(n_atoms=12, order=order, size=6.0), 10.0)
    first, second = step(system, method="mesh", mesh_tolerance=tolerance, total_charge=total_charge)
    exact, exact_second = step(system, method="direct", total_charge=total_charge)
    for name, value in first.items():  # the tolerance is that of the forces; the rest has fewer derivatives
        assert relative(value, exact[name]) < tolerance, name
    for name, value in second.items():  # one derivative more than the forces: up to three times the tolerance
        assert relative(value, exact_second[name]) < 5.0 * tolerance, name


def test_slabs_periodic_and_open_structures_in_one_batch_are_those_of_the_direct_sum(make_system, solve, join):
    kinds = [(True, 5), ("slab", 3), (False, 4)]
    system = stronger(join([make_system(n_atoms=n, periodic=kind, seed=n) for kind, n in kinds]), 10.0)
    settings = {**TIGHT, "total_charge": "fixed"}
    found, exact = (solve(system, method=method, **settings) for method in ("mesh", "direct"))
    for name in ("energy", "atomic_energy", "charge", "dipole"):
        assert relative(getattr(found, name), getattr(exact, name)) < 1e-5, name  # the default mesh_tolerance
    opened = system.batch == 2
    torch.testing.assert_close(found.dipole[opened], exact.dipole[opened], rtol=1e-12, atol=1e-12)  # no mesh there
    assert not torch.equal(found.dipole[~opened], exact.dipole[~opened])


@TOTALS
@pytest.mark.parametrize("strength", [1.0, 1e6])
def test_the_bound_holds_on_a_coarse_mesh_too(strength, total_charge, make_system, solve):
    # no wave has a negative weight on the mesh either, so that the energy has a minimum whatever the mesh's error
    system = stronger(make_system(n_atoms=6, response="isotropic"), strength)
    line = 0.3 * torch.arange(6, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0, 0.0])
    system = system._replace(positions=system.positions[:1] + line)
    permanent = solve(system, response=None, **COARSE)
    result = solve(system, response="self_consistent", total_charge=total_charge, **COARSE)
    assert bool(torch.isfinite(result.energy).all())
    assert float(result.energy) < float(permanent.energy)


@TOTALS
@pytest.mark.parametrize("order", [0, 2])
def test_forces_and_stress_are_central_differences_of_the_energy_on_the_mesh(order, total_charge, make_system, solve):
    # dl = 0.8: a vector that crosses the cutoff sphere under a small strain changes the energy by 1e-12 only
    settings = {**COARSE, "dl": 0.8, "total_charge": total_charge}
    system = stronger(make_system(order=order), 10.0)
    first, _ = step(system, **settings)
    generator, length = torch.Generator().manual_seed(0), 1e-4
    towards = torch.randn(system.positions.shape, generator=generator, dtype=torch.float64)
    strain = torch.randn(3, 3, generator=generator, dtype=torch.float64)

    def energy(positions, cell):
        return float(solve(system._replace(positions=positions, cell=cell), **TIGHT, **settings).energy)

    moved, strained = [], []
    for sign in (1, -1):
        deform = torch.eye(3, dtype=torch.float64) + sign * length * strain
        moved.append(energy(system.positions + sign * length * towards, system.cell))
        strained.append(energy(system.positions @ deform, system.cell @ deform))
    for slope, way, (up, down) in ((-first["forces"], towards, moved), (first["virial"], strain, strained)):
        # theory, section 12: 1e-6 of the whole gradient; the difference itself is good to length² times some tens
        bound = 1e-6 * float(slope.norm() * way.norm())
        assert float((slope * way).sum()) == pytest.approx((up - down) / (2.0 * length), abs=bound)


def function_of(system, solve, outputs, **settings):
    names = [name for name in INPUTS if getattr(system, name) is not None]

    def evaluate(*values):
        given = dict(zip(names, values, strict=True))
        if "quadrupole" in given:
            given["quadrupole"] = traceless(given["quadrupole"])
        result = solve(system._replace(**given), dl=1.7, **TIGHT, **COARSE, **settings)
        return tuple(getattr(result, output) for output in outputs)

    return evaluate, [getattr(system, name).clone().requires_grad_() for name in names]


@TOTALS
def test_gradients_of_every_output_in_every_input(total_charge, make_system, solve):
    system = stronger(make_system(n_atoms=3, size=4.5), 3.0)
    outputs = ("energy", "atomic_energy", "charge", "dipole")
    evaluate, values = function_of(system, solve, outputs, total_charge=total_charge)
    assert first_derivatives_hold(evaluate, values)


def test_second_derivatives_of_the_moments(make_system, solve):
    system = stronger(make_system(n_atoms=2, size=4.5), 3.0)  # those of the energy are in test_modes.py
    evaluate, values = function_of(system, solve, ("charge", "dipole"), total_charge="fixed")
    assert second_derivatives_hold(evaluate, values)


def test_the_kernel_of_a_mesh_is_made_once_for_all_iterations(make_system, monkeypatch):
    made, original = [], solver.lattice_on_mesh

    def counted(*arguments):
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(solver, "lattice_on_mesh", counted)
    system, layer = stronger(make_system(), 5.0), LatentElectrostatics(response="self_consistent", **COARSE)
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    layer(system.positions, system.cell, system.pbc, system.batch, moments, system.softness, system.polarizability)
    assert layer.response_model.iterations > 3
    assert len(made) == 2  # of the permanent moments with quadrupoles, and of the induced ones


def test_meshes_of_permanent_and_induced_moments_are_not_mistaken_for_each_other(make_system):
    system, double = make_system(), {"dtype": torch.float64}
    vector = torch.tensor([[1.0, 0.2, 0.0], [-1.0, -0.2, 0.0]], **double)
    pairs = PairSoftness(torch.tensor([0, 1]), torch.tensor([1, 0]), vector, torch.full((2,), 0.02, **double))
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    found = []
    for shared in (True, False):
        layer = LatentElectrostatics(response="self_consistent", **COARSE)
        if not shared:  # a solver of somebody else's, for which nothing is kept
            layer.solver = lambda *arguments, layer=layer: layer._solve(*arguments)
        result = layer(
            *(system.positions, system.cell, system.pbc, system.batch, moments),
            polarizability=system.polarizability,
            external_field=torch.tensor([0.0, 0.1, 0.2], **double),
            periodic_field="dipoles",
            pair_softness=pairs,
        )
        found.append([result.energy, result.charge, result.dipole])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)
