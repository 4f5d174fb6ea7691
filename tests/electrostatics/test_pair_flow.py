"""Charge that flows between neighbours: what it is, and that it is conserved (theory, section 6)."""

import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold
from pair_cases import dense_solution, neighbours, pairs_of, with_pairs
from random_systems import join_systems, random_system
from tracing import trace

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics.flow import polarizability_with_flow
from les_plugins.errors import ConfigError, GeometryError

PLACES = pytest.mark.parametrize("periodic", [True, "slab", False], ids=["periodic", "slab", "open"])
RESPONSES = pytest.mark.parametrize("response", ["one_shot", "self_consistent"])
FIELD = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
# the solution's own tolerance and the order of sums
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def layer_of(response, **settings):
    return LatentElectrostatics(response=response, response_tolerance=1e-13, net_charge_warning=None, **settings)


@PLACES
@RESPONSES
@pytest.mark.parametrize("polarizable", [True, False])
@pytest.mark.parametrize(
    ("field", "strength", "remove_self"), [(False, 0.05, True), (True, 0.05, False), (True, 5.0, True)]
)
def test_flow_is_that_of_dense_sums(periodic, response, polarizable, field, strength, remove_self):
    system = random_system(periodic=periodic)
    applied = field * FIELD
    pairs = pairs_of(system, neighbours(system), strength)
    layer = layer_of(response, remove_self_interaction=remove_self)
    found = with_pairs(layer, system, pairs, applied if field else None, polarizable)
    mutual = response == "self_consistent"
    energy, moments, moment = dense_solution(system, pairs, applied, polarizable, mutual, remove_self)
    scale = float(moments.abs().max().clamp(min=1.0))
    close = {"rtol": 1e-9, "atol": 1e-10 * scale}  # the dense matrix has a condition number of up to 1e6
    torch.testing.assert_close(found.energy[0], energy, **close)
    torch.testing.assert_close(found.atomic_energy.sum(), energy, **close)
    torch.testing.assert_close(found.charge - system.charge, moments[:, 0], **close)
    torch.testing.assert_close(found.dipole - system.dipole, moments[:, 1:], **close)
    torch.testing.assert_close(found.flow.moments(5).sum(0), moment, **close)
    torch.testing.assert_close(found.flow.charges(5), found.charge - system.charge, **close)
    assert abs(float((found.charge - system.charge).sum())) < 1e-15 * scale * len(pairs.value)
    assert float(moments[:, 0].abs().max()) > 1e-4


@PLACES
@RESPONSES
def test_derivatives_of_energy_charge_and_polarization_of_both_orders(periodic, response):
    system = random_system(3, periodic=periodic, response="isotropic", size=4.0)
    listed = neighbours(system)
    weights = torch.linspace(0.5, 1.5, 3, dtype=torch.float64)

    def of(positions, strain, softness, charge, field):
        deformation = torch.eye(3, dtype=torch.float64) + strain
        strained = system._replace(
            positions=positions @ deformation, cell=system.cell @ deformation, charge=charge - charge.mean()
        )
        found = with_pairs(layer_of(response), strained, pairs_of(strained, listed, softness), field)
        moment = found.flow.moments(3).sum(0)
        return found.energy[0] + (weights * found.charge).sum() + (weights * moment).sum()

    inputs = [
        system.positions.clone(),
        torch.zeros(3, 3, dtype=torch.float64),
        torch.full((3,), 0.3, dtype=torch.float64),
        system.charge.clone(),
        FIELD.clone(),
    ]
    inputs = [value.requires_grad_() for value in inputs]
    assert first_derivatives_hold(of, inputs)
    assert second_derivatives_hold(of, inputs)


@RESPONSES
def test_a_mixed_unsorted_batch_is_one_by_one(response):
    kinds = ((3, True), (4, False), (1, False), (3, "slab"), (2, True))
    systems = [random_system(n, periodic=kind, seed=n) for n, kind in kinds]
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    joined = join_systems(systems).select(order)
    fields = torch.stack([n * FIELD for n in range(5)])
    together = with_pairs(layer_of(response), joined, pairs_of(joined, neighbours(joined)), fields)
    alone = [
        with_pairs(layer_of(response), one, pairs_of(one, neighbours(one)), field)
        for one, field in zip(systems, fields, strict=True)
    ]
    torch.testing.assert_close(together.energy, torch.cat([one.energy for one in alone]), **CLOSE)
    for name in ("atomic_energy", "charge", "dipole"):
        expected = torch.cat([getattr(one, name) for one in alone])[order]
        torch.testing.assert_close(getattr(together, name), expected, **CLOSE)
    moments = torch.cat([one.flow.moments(len(one.charge)) for one in alone])[order]
    torch.testing.assert_close(together.flow.moments(13), moments, **CLOSE)


@PLACES
@RESPONSES
def test_polarization_is_minus_the_slope_in_the_field(periodic, response):
    system = random_system(periodic=periodic)
    pairs = pairs_of(system, neighbours(system))
    field = FIELD.clone().requires_grad_()
    found = with_pairs(layer_of(response), system, pairs, field)
    (slope,) = torch.autograd.grad(found.energy[0], field)
    moment = found.dipole.sum(0) + found.flow.moments(5).sum(0)
    open_part = {True: torch.zeros(3, 3), False: torch.eye(3)}.get(periodic)
    if open_part is None:
        normal = torch.linalg.cross(system.cell[0, 0], system.cell[0, 2])
        open_part = torch.outer(normal, normal) / normal.square().sum()
    moment = moment + open_part.double() @ (system.charge[:, None] * system.positions).sum(0)
    torch.testing.assert_close(-slope, moment, **CLOSE)


@PLACES
def test_collective_polarizability_is_the_second_slope_in_the_field(periodic):
    system = random_system(periodic=periodic)
    pairs = pairs_of(system, neighbours(system), 0.5)
    for polarizability in (system.polarizability, None):
        system = system._replace(polarizability=polarizability)

        def energy(field, system=system):
            return with_pairs(layer_of("self_consistent"), system, pairs, field).energy[0]

        found = layer_of("self_consistent").collective_polarizability(
            system.positions, system.cell, system.pbc, system.batch, None, polarizability, pairs
        )
        expected = -torch.autograd.functional.hessian(energy, FIELD)
        torch.testing.assert_close(found.sum(0), expected, **CLOSE)


@RESPONSES
def test_a_doubled_cell_has_twice_the_energy_and_the_same_charges(response):
    system = random_system()
    shift = torch.repeat_interleave(system.cell[0, :1] * torch.tensor([[0.0], [1.0]]), 5, 0)
    both = system.select(torch.arange(5).repeat(2))
    cell = system.cell * torch.tensor([2.0, 1.0, 1.0]).double()[None, :, None]
    doubled = both._replace(positions=both.positions + shift, cell=cell)
    one, two = (with_pairs(layer_of(response), x, pairs_of(x, neighbours(x)), FIELD) for x in (system, doubled))
    torch.testing.assert_close(two.energy, 2.0 * one.energy, **CLOSE)
    torch.testing.assert_close(two.charge, one.charge.repeat(2), **CLOSE)


@RESPONSES
def test_mesh_and_direct_sum_agree_to_the_tolerance_of_the_mesh(response):
    system = random_system()
    pairs = pairs_of(system, neighbours(system))
    direct, mesh = (
        with_pairs(layer_of(response, method=m, mesh_tolerance=1e-9), system, pairs) for m in ("direct", "mesh")
    )
    torch.testing.assert_close(mesh.energy, direct.energy, rtol=1e-8, atol=0.0)  # ten times the tolerance
    torch.testing.assert_close(mesh.charge, direct.charge, rtol=1e-7, atol=1e-8)


@RESPONSES
def test_a_constant_potential_moves_nothing(response):
    """Atoms in one place have one potential: what their differences leave is rounding, which no iteration solves."""
    for seed in range(5):
        system = random_system(2, order=0, size=5.0, seed=seed).select(torch.zeros(2, dtype=torch.long))
        system = system._replace(charge=torch.tensor([0.56, 0.44]).double(), polarizability=None)
        edge = torch.tensor([0, 1])
        pairs = PairSoftness(edge, edge.flip(0), torch.zeros(2, 3).double(), torch.full((2,), 0.3).double())
        settings = {"remove_self_interaction": False}
        found = with_pairs(layer_of(response, **settings), system, pairs)
        alone = with_pairs(layer_of(None, **settings), system, None)
        torch.testing.assert_close(found.energy, alone.energy, rtol=1e-13, atol=1e-13)  # rounding
        torch.testing.assert_close(found.charge, alone.charge, rtol=1e-13, atol=1e-13)


@RESPONSES
@PLACES
def test_no_softness_and_no_pairs_are_no_response(response, periodic):
    system = random_system(periodic=periodic)
    bare = with_pairs(layer_of(response), system, None)
    pairs = pairs_of(system, neighbours(system), 0.0)
    none = PairSoftness(pairs.centre[:0], pairs.neighbor[:0], pairs.vector[:0], pairs.value[:0])
    # one shot is the same operations; self-consistent is solved by a factorization without pairs, iterated with them
    tolerance = 0.0 if response == "one_shot" else 1e-12
    for zero in (pairs, none):
        found = with_pairs(layer_of(response), system, zero)
        torch.testing.assert_close(found.energy, bare.energy, rtol=tolerance, atol=0.0)
        torch.testing.assert_close(found.charge, bare.charge, rtol=tolerance, atol=0.0)


def test_float32_hosts_get_float32_and_the_same_numbers():
    system = random_system()
    pairs = pairs_of(system, neighbours(system))
    small = system._replace(
        **{name: getattr(system, name).float() for name in ("positions", "charge", "dipole", "cell")}
    )
    half = PairSoftness(pairs.centre.int(), pairs.neighbor.int(), pairs.vector.float(), pairs.value.float())
    found, exact = with_pairs(layer_of("one_shot"), small, half), with_pairs(layer_of("one_shot"), system, pairs)
    assert found.flow.charge.dtype == found.charge.dtype == torch.float32
    torch.testing.assert_close(found.charge.double(), exact.charge, rtol=1e-5, atol=1e-6)  # float32 inputs


@pytest.mark.parametrize("index", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_the_polarizability_of_a_pair_is_its_softness_times_the_vector_twice(index):
    """0.1 e²/eV over 2 Å along x; of single precision beside it, nothing is rounded."""
    start = torch.tensor([0, 1], dtype=index)
    along = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]], dtype=torch.float64)
    pairs = PairSoftness(start, start.flip(0), along, torch.full((2,), 0.1, dtype=torch.float64))
    expected = torch.zeros(2, 3, 3, dtype=torch.float64)
    expected[:, 0, 0] = 0.5 * 0.1 * 2.0 * 2.0  # half of it on either atom
    torch.testing.assert_close(pairs.polarizability(2), expected, rtol=1e-15, atol=0.0)
    found = polarizability_with_flow(torch.full((2,), 0.25), pairs, 2)
    torch.testing.assert_close(found, expected + 0.25 * torch.eye(3, dtype=torch.float64), rtol=1e-15, atol=0.0)


def test_traced_code_gives_the_same_numbers():
    system = random_system(size=5.0)
    listed = neighbours(system)
    layer = layer_of("one_shot", static_cell=(9.0, 9.0, 9.0))

    def run(positions, factor):
        moved = system._replace(positions=positions)
        found = layer(
            moved.positions, moved.cell, moved.pbc, moved.batch,
            moments_of(moved), polarizability=moved.polarizability, pair_softness=pairs_of(moved, listed, factor),
        )  # fmt: skip
        (slope,) = torch.autograd.grad(found.energy.sum(), positions, create_graph=True)
        return found.energy, found.charge, found.flow.charge, slope

    positions = system.positions.clone().requires_grad_()
    factor = torch.full((5,), 0.3, dtype=torch.float64)
    traced = trace(run)(positions, factor)
    moved = (positions.detach() + 0.01).requires_grad_()
    for mine, expected in zip(traced(moved, 1.1 * factor), run(moved, 1.1 * factor), strict=True):
        torch.testing.assert_close(mine, expected, **CLOSE)


def moments_of(system):
    return Multipoles(system.charge, system.dipole, system.quadrupole)


def changed(pairs, name, row, value):
    tensor = getattr(pairs, name).clone()
    tensor[row] = value
    return pairs._replace(**{name: tensor})


REFUSED = {
    "shape": (
        lambda p: p._replace(centre=p.centre[1:]),
        r"pair_softness.centre has shape .*; allowed: .* one row an edge",
    ),
    "flat vectors": (lambda p: p._replace(vector=p.vector[:, 0]), "pair_softness.vector has shape"),
    "kind": (lambda p: p._replace(neighbor=p.neighbor.double()), "pair_softness.neighbor has dtype torch.float64"),
    "NaN": (lambda p: changed(p, "value", 3, torch.nan), "pair_softness.value holds NaN"),
    "infinite vector": (lambda p: changed(p, "vector", 3, torch.inf), "pair_softness.vector holds NaN or infinity"),
    "negative": (lambda p: p._replace(value=-p.value), r"pair_softness.value holds -.* e²/eV; allowed: ≥ 0"),
    "no such atom": (lambda p: changed(p, "neighbor", 0, 5), r"pair_softness.neighbor holds 0…5; allowed: 0…4"),
    "one way": (
        lambda p: PairSoftness(*(x[1:] for x in p[:4])),
        "the edges from and to atom .* every edge once in each",
    ),
    "unequal": (lambda p: changed(p, "value", 0, float(p.value[0]) * 1.001 + 1e-4), "edges from and to atom"),
    "one vector": (lambda p: changed(p, "vector", 0, -p.vector[0]), "edges from and to atom"),
    "tuple": (lambda p: tuple(p), "pair_softness is a tuple; allowed: les_plugins.PairSoftness"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_pairs_without_a_meaning_are_refused(what):
    system = random_system()
    pairs = pairs_of(system, neighbours(system))
    change, message = REFUSED[what]
    with pytest.raises(GeometryError, match=message):
        with_pairs(layer_of("one_shot"), system, change(pairs))


def test_edges_between_structures_and_both_kinds_of_softness_are_refused():
    system = random_system(periodic=False)
    pairs = pairs_of(system, neighbours(system))
    two = system._replace(
        batch=torch.tensor([0, 0, 0, 1, 1]), cell=system.cell.repeat(2, 1, 1), pbc=system.pbc.repeat(2, 1)
    )
    with pytest.raises(GeometryError, match=r"edge .* goes from atom . to atom . of another structure"):
        with_pairs(layer_of("one_shot"), two, pairs)
    with pytest.raises(GeometryError, match="softness and pair_softness are two ways"):
        layer_of("one_shot")(*system[:4], moments_of(system), softness=system.softness, pair_softness=pairs)


def test_a_response_that_does_not_know_pairs_is_refused_with_them():
    system = random_system()
    layer = LatentElectrostatics(response=lambda potential, field, softness, polarizability: None)
    with pytest.raises(ConfigError, match="which induces charge on atoms alone"):
        with_pairs(layer, system, pairs_of(system, neighbours(system)))
