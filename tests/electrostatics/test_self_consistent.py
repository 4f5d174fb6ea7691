"""Induced moments that answer each other: the minimum of the full energy, and its bound (theory, section 6)."""

import math

import pytest
import torch
from self_consistent_cases import BOUNDARIES, CLOSE, SOLUTIONS, TIGHT, TOTALS, call, iterate, stronger
from tracing import trace

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse
from les_plugins.errors import ConfigError, ResponseError
from les_plugins.units import COULOMB_CONSTANT, RECIPROCAL_PREFACTOR


def as_tensors(polarizability):
    return polarizability if polarizability.dim() == 3 else polarizability[:, None, None] * torch.eye(3).double()


def dense_matrix(system, solve, **settings):
    """T (4N, 4N) of charges and dipoles, self-interaction included, from the fields of unit moments."""
    n_atoms, columns = len(system.positions), []
    for unit in torch.eye(4 * n_atoms, dtype=torch.float64).view(-1, n_atoms, 4):
        bare = system._replace(charge=unit[:, 0], dipole=unit[:, 1:], quadrupole=None)
        result = solve(bare, response=None, remove_self_interaction=False, **settings)
        columns.append(torch.cat([result.potential[:, None], -result.field], 1).flatten())
    return torch.stack(columns, 1)


def dense_solution(system, solve, total_charge="free", **settings):
    """Energy and induced moments (N, 4) of one structure by a solution of the linear system as it stands."""
    n_atoms = len(system.positions)
    permanent = solve(system, response=None, **settings)
    drive = torch.cat([permanent.potential[:, None], -permanent.field], 1).flatten()
    blocks = torch.zeros(n_atoms, 4, 4, dtype=torch.float64)
    blocks[:, 0, 0], blocks[:, 1:, 1:] = 1.0 / system.softness, torch.linalg.inv(as_tensors(system.polarizability))
    settings.pop("remove_self_interaction", None)
    matrix = torch.block_diag(*blocks) + dense_matrix(system, solve, **settings)
    if total_charge == "fixed":
        row = torch.tensor([1.0, 0.0, 0.0, 0.0]).double().repeat(n_atoms)
        bordered = torch.cat([torch.cat([matrix, row[:, None]], 1), torch.cat([row, torch.zeros(1)])[None]])
        moments = torch.linalg.solve(bordered, torch.cat([-drive, torch.zeros(1)]).double())[:-1]
    else:
        moments = torch.linalg.solve(matrix, -drive)
    energy = permanent.energy[0] + drive @ moments + 0.5 * moments @ matrix @ moments
    return energy, moments.view(n_atoms, 4)


@BOUNDARIES
@TOTALS
@SOLUTIONS
@pytest.mark.parametrize(("remove_self_interaction", "strength"), [(True, 1.0), (False, 30.0)])
def test_moments_are_those_of_the_linear_system(
    periodic, total_charge, remove_self_interaction, strength, most_work, make_system, solve, monkeypatch
):
    iterate(monkeypatch, most_work)
    system = stronger(make_system(periodic=periodic), strength)
    settings = {"remove_self_interaction": remove_self_interaction}
    energy, moments = dense_solution(system, solve, total_charge, **settings)
    result = solve(system, **settings, **TIGHT, total_charge=total_charge)
    torch.testing.assert_close(result.energy[0], energy, **CLOSE)
    torch.testing.assert_close(result.charge - system.charge, moments[:, 0], **CLOSE)
    torch.testing.assert_close(result.dipole - system.dipole, moments[:, 1:], **CLOSE)
    torch.testing.assert_close(result.atomic_energy.sum(), energy, **CLOSE)


@BOUNDARIES
def test_potential_and_field_are_those_of_the_permanent_moments(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    permanent, result = solve(system, response=None), solve(system, **TIGHT)
    torch.testing.assert_close(result.potential, permanent.potential, rtol=0.0, atol=0.0)
    torch.testing.assert_close(result.field, permanent.field, rtol=0.0, atol=0.0)


@BOUNDARIES
@pytest.mark.parametrize("kept", ["softness", "polarizability"])
def test_one_shot_is_the_limit_of_weak_response(periodic, kept, make_system, solve):
    system = make_system(periodic=periodic)
    system = system._replace(**{{"softness": "polarizability", "polarizability": "softness"}[kept]: None})
    permanent = solve(system, response=None)
    differences = []
    for factor in (1e-2, 1e-3):
        weak = system._replace(**{kept: factor * getattr(system, kept)})
        one_shot, result = solve(weak), solve(weak, **TIGHT)
        differences.append(float(result.energy - one_shot.energy))
        induced = float(one_shot.energy - permanent.energy)
        assert 0.0 < differences[-1] < 10.0 * factor * abs(induced)  # what is induced answers with a second factor
    # second order: a hundredth, up to the third order's share, some 1e-2 of it
    assert differences[1] / differences[0] == pytest.approx(1e-2, rel=0.1)


@BOUNDARIES
def test_the_energy_is_a_minimum_between_the_one_shot_energy_and_the_permanent_one(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    permanent, one_shot = solve(system, response=None), solve(system)
    fixed, free = (solve(system, **TIGHT, total_charge=kind) for kind in ("fixed", "free"))
    assert float(one_shot.energy) < float(free.energy) < float(fixed.energy) < float(permanent.energy)


@BOUNDARIES
def test_fixed_total_charge_is_kept_by_every_structure(periodic, make_system, solve, join):
    system = join([stronger(make_system(n_atoms=n, periodic=periodic, seed=n), 10.0) for n in (2, 5)])
    induced = solve(system, **TIGHT, total_charge="fixed").charge - system.charge
    assert [float(induced[system.batch == i].sum()) for i in range(2)] == pytest.approx([0.0, 0.0], abs=1e-14)
    assert induced.abs().max() > 1e-2
    assert solve(system, **TIGHT).charge.sum().abs() > 1e-3


def two_dipoles(distance, solve, alpha, axis):
    """Total dipole of two polarizable atoms in a field along an axis, the atoms being apart along x."""
    positions = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
    layer = LatentElectrostatics(**TIGHT)
    field = torch.eye(3, dtype=torch.float64)[axis]
    result = layer(
        positions,
        torch.zeros(1, 3, 3, dtype=torch.float64),
        torch.zeros(1, 3, dtype=torch.bool),
        torch.zeros(2, dtype=torch.long),
        Multipoles(torch.zeros(2, dtype=torch.float64)),
        polarizability=torch.full((2,), alpha, dtype=torch.float64),
        external_field=field,
    )
    return float(result.dipole.sum(0)[axis])


def test_two_polarizable_atoms_enhance_each_other_along_their_axis_as_point_dipoles_do(solve):
    # Silberstein 1917: 2α/(1 − 2αk/r³) along, 2α/(1 + αk/r³) across; smearing of 1 Å does not reach 9 Å
    alpha, distance, sigma = 0.3, 9.0, 1.0
    own = 2.0 * RECIPROCAL_PREFACTOR / (3.0 * sigma**3 * (2.0 * math.pi) ** 1.5)
    effective = alpha / (1.0 + alpha * own)
    coupling = effective * COULOMB_CONSTANT / distance**3
    # erf(a r) and its derivatives differ from one by exp(−r²/2σ²) = 3e-18
    assert two_dipoles(distance, solve, alpha, 0) == pytest.approx(2.0 * effective / (1.0 - 2.0 * coupling), rel=1e-10)
    assert two_dipoles(distance, solve, alpha, 1) == pytest.approx(2.0 * effective / (1.0 + coupling), rel=1e-10)


@BOUNDARIES
@TOTALS
@SOLUTIONS
@pytest.mark.parametrize("strength", [1e3, 1e6])
def test_no_polarization_catastrophe_however_strong_the_response_and_close_the_atoms(
    periodic, total_charge, strength, most_work, make_system, solve, monkeypatch
):
    iterate(monkeypatch, most_work)
    # 0.3 Å apart; a point dipole's limit α k/r³ < ½ is exceeded by five orders and more
    system = stronger(make_system(n_atoms=6, periodic=periodic, response="isotropic"), strength)
    line = torch.arange(6, dtype=torch.float64)[:, None] * torch.tensor([0.3, 0.0, 0.0])
    system = system._replace(positions=system.positions[:1] + line)
    permanent = solve(system, response=None)
    result = solve(system, response="self_consistent", total_charge=total_charge)  # raises on negative curvature
    assert bool(torch.isfinite(result.energy).all())
    assert float(result.energy) < float(permanent.energy)
    again = solve(system, response="self_consistent", response_tolerance=1e-10, total_charge=total_charge)
    torch.testing.assert_close(result.energy, again.energy, rtol=1e-7, atol=0.0)  # second order in the tolerance


@BOUNDARIES
def test_the_interaction_with_self_term_is_positive_semidefinite_and_without_it_is_not(periodic, make_system, solve):
    system = make_system(n_atoms=4, periodic=periodic)
    system = system._replace(
        positions=system.positions[:1] + 0.3 * system.positions / system.positions.norm(dim=1).max()
    )
    matrix = dense_matrix(system, solve)
    lowest, highest = (float(value) for value in torch.linalg.eigvalsh(matrix)[[0, -1]])
    assert lowest > -1e-12 * highest  # rounding
    own = 2.0 * RECIPROCAL_PREFACTOR / (2.0 * math.pi) ** 1.5 * torch.tensor([1.0, 1 / 3, 1 / 3, 1 / 3]).double()
    assert float(torch.linalg.eigvalsh(matrix - torch.diag(own.repeat(4)))[0]) < -1.0


@BOUNDARIES
@pytest.mark.parametrize("response", ["isotropic", "anisotropic"])
def test_atoms_without_softness_or_polarizability_have_no_induced_moment(periodic, response, make_system, solve):
    system = make_system(periodic=periodic, response=response)
    softness, polarizability = system.softness.clone(), system.polarizability.clone()
    softness[1], polarizability[2] = 0.0, 0.0
    system = system._replace(softness=softness, polarizability=polarizability)
    result = solve(system, **TIGHT)
    assert float(result.charge[1]) == float(system.charge[1])
    assert result.dipole[2].tolist() == system.dipole[2].tolist()
    # the others as if the atom's response did not exist: 1/κ large instead of infinite
    nearly = system._replace(softness=softness.clamp(min=1e-13), polarizability=polarizability)
    torch.testing.assert_close(result.charge, solve(nearly, **TIGHT).charge, rtol=1e-9, atol=1e-11)
    nothing = system._replace(softness=torch.zeros(5).double(), polarizability=torch.zeros(5).double())
    torch.testing.assert_close(solve(nothing, **TIGHT).energy, solve(system, response=None).energy, rtol=0.0, atol=0.0)


@TOTALS
def test_slope_of_the_energy_in_a_softness_of_zero(total_charge, make_system, solve):
    system = make_system()

    def energy(value):
        softness = torch.cat([system.softness[:2], value[None], system.softness[3:]])
        return solve(system._replace(softness=softness), **TIGHT, total_charge=total_charge).energy[0]

    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(energy(value), value)
    step = 1e-6
    points = [energy(torch.tensor(n * step).double()) for n in range(3)]
    numeric = (-3.0 * points[0] + 4.0 * points[1] - points[2]) / (2.0 * step)
    assert float(slope) < 0.0
    assert float(slope) == pytest.approx(float(numeric), rel=1e-7)  # one-sided, second order in κD = 1e-5


@BOUNDARIES
@TOTALS
def test_energy_and_moments_follow_rotation_and_permutation(periodic, total_charge, make_system, solve):
    system = stronger(make_system(periodic=periodic), 5.0)
    settings = {**TIGHT, "total_charge": total_charge}
    result = solve(system, **settings)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    turned = system._replace(
        positions=system.positions @ turn.T,
        cell=system.cell @ turn.T,
        dipole=system.dipole @ turn.T,
        quadrupole=turn @ system.quadrupole @ turn.T,
        polarizability=turn @ system.polarizability @ turn.T,
    )
    after = solve(turned, **settings)
    torch.testing.assert_close(after.energy, result.energy, **CLOSE)
    torch.testing.assert_close(after.charge, result.charge, **CLOSE)
    torch.testing.assert_close(after.dipole, result.dipole @ turn.T, **CLOSE)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = solve(system.select(order), **settings)
    torch.testing.assert_close(shuffled.energy, result.energy, **CLOSE)
    torch.testing.assert_close(shuffled.charge, result.charge[order], **CLOSE)
    torch.testing.assert_close(shuffled.atomic_energy, result.atomic_energy[order], **CLOSE)


@TOTALS
@SOLUTIONS
def test_a_batch_of_open_and_periodic_structures_is_one_by_one(
    total_charge, most_work, make_system, solve, join, monkeypatch
):
    iterate(monkeypatch, most_work)
    systems = [
        stronger(make_system(n_atoms=n, periodic=periodic, seed=n), strength)
        for n, periodic, strength in ((2, True, 1.0), (4, False, 100.0), (3, True, 10.0), (1, False, 1.0))
    ]
    settings = {**TIGHT, "total_charge": total_charge}
    together = solve(join(systems), **settings)
    alone = [solve(system, **settings) for system in systems]
    for name in ("energy", "atomic_energy", "charge", "dipole"):
        torch.testing.assert_close(
            getattr(together, name), torch.cat([getattr(one, name) for one in alone]), rtol=1e-12, atol=1e-12
        )


def slab_of(system):
    return system._replace(pbc=torch.tensor([[True, True, False]]))


def test_a_slab_is_solved_like_any_other_boundary(make_system, solve):
    system = stronger(slab_of(make_system()), 3.0)
    for total_charge in ("free", "fixed"):
        energy, moments = dense_solution(system, solve, total_charge)
        result = solve(system, **TIGHT, total_charge=total_charge)
        torch.testing.assert_close(result.energy[0], energy, **CLOSE)
        torch.testing.assert_close(result.charge - system.charge, moments[:, 0], **CLOSE)


@SOLUTIONS
def test_a_thick_slab_whose_total_charge_runs_away_is_refused_unless_that_is_fixed(
    most_work, make_system, solve, monkeypatch
):
    iterate(monkeypatch, most_work)
    # two charged sheets lower their energy by −2π k_e Q²|z|/A for the charge that they take from nowhere
    system = slab_of(make_system(n_atoms=4))
    heights = torch.tensor([0.0, 0.0, 60.0, 60.0], dtype=torch.float64)
    system = stronger(system._replace(positions=torch.cat([system.positions[:, :2], heights[:, None]], 1)), 10.0)
    with pytest.raises(ResponseError, match=r"structure 0 has no minimum .*conserve_charge: true"):
        solve(system, **TIGHT)
    fixed = solve(system, **TIGHT, total_charge="fixed")
    assert float(fixed.energy) < float(solve(system, response=None).energy)


@TOTALS
def test_a_doubled_cell_has_twice_the_energy(total_charge, make_system, solve):
    system = stronger(make_system(), 10.0)
    shift = torch.repeat_interleave(system.cell[0, :1] * torch.tensor([[0.0], [1.0]]), 5, 0)
    both = system.select(torch.arange(5).repeat(2))
    cell = system.cell * torch.tensor([2.0, 1.0, 1.0]).double()[None, :, None]
    doubled = both._replace(positions=both.positions + shift, cell=cell)
    settings = {**TIGHT, "total_charge": total_charge}
    one, two = solve(system, **settings), solve(doubled, **settings)
    # the sum over k of the doubled cell holds that of the single one; the others' structure factors vanish
    torch.testing.assert_close(two.energy, 2.0 * one.energy, **CLOSE)
    torch.testing.assert_close(two.charge, one.charge.repeat(2), **CLOSE)


def test_float32_and_no_grad_work(make_system, solve):
    system = make_system()
    small = system._replace(
        **{
            name: getattr(system, name).float()
            for name in ("positions", "cell", "charge", "dipole", "quadrupole", "softness", "polarizability")
        }
    )
    expected = solve(system, response="self_consistent")
    with torch.no_grad():
        result = solve(small, response="self_consistent")
    assert result.energy.dtype == torch.float32
    torch.testing.assert_close(result.energy.double(), expected.energy, rtol=1e-5, atol=1e-6)  # float32 inputs


def test_tracing_raises_an_error(make_system):
    system = make_system(n_atoms=2)
    layer = LatentElectrostatics(response="self_consistent", static_cell=(9.0, 9.0, 9.0)).eval()
    with pytest.raises(ConfigError, match="response: self_consistent cannot be traced or compiled"):
        trace(lambda positions: call(layer, system._replace(positions=positions)).energy)(system.positions)


def test_settings_of_the_response_are_checked():
    with pytest.raises(ConfigError, match="tolerance of the response is nan"):
        SelfConsistentResponse(tolerance=math.nan)


@pytest.mark.parametrize("periodic", [True, False, "slab"])
@pytest.mark.parametrize("n_atoms", [1, 2])
def test_where_a_fixed_charge_leaves_nothing_to_answer_nothing_is_induced(n_atoms, periodic, make_system, solve):
    """One atom, or two in one place, have one potential: what the projection leaves of it is rounding."""
    for seed in range(5):
        system = make_system(n_atoms, periodic=periodic, order=0, size=5.0, seed=seed)
        system = system.select(torch.zeros(n_atoms, dtype=torch.long))
        system = system._replace(charge=torch.tensor([0.56, 0.44], dtype=torch.float64)[:n_atoms])
        settings = {"remove_self_interaction": False, "response_tolerance": 1e-12, "net_charge_warning": None}
        found = solve(system, response="self_consistent", total_charge="fixed", **settings)
        alone = solve(system, response=None, **settings)
        torch.testing.assert_close(found.energy, alone.energy, rtol=1e-12, atol=1e-12)  # rounding
        torch.testing.assert_close(found.charge, alone.charge, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("third", [[0.0, 0.0, 0.0], [0.3, -0.2, 1.0], [0.0, 0.0, 500.0]], ids=["zero", "short", "long"])
@pytest.mark.parametrize("method", ["auto", "direct"])
def test_the_third_vector_of_a_slab_is_not_read(third, method, make_system, solve):
    system = make_system()
    slab = system._replace(pbc=torch.tensor([[True, True, False]]))
    settings = {**TIGHT, "total_charge": "fixed", "method": method}
    expected = solve(slab, **settings)
    given = slab._replace(cell=torch.cat([slab.cell[:, :2], torch.tensor(third).double().view(1, 1, 3)], 1))
    found = solve(given, **settings)
    torch.testing.assert_close(found.energy, expected.energy, **CLOSE)
    torch.testing.assert_close(found.dipole, expected.dipole, **CLOSE)
