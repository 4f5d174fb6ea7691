"""The reciprocal sum: its grid, known lattice sums, and what must not depend on how the lattice is described."""

import itertools
import math

import pytest
import torch

from les_plugins.electrostatics.periodic.reciprocal import _kernel, _tables, grid_shape
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.units import COULOMB_CONSTANT, RECIPROCAL_PREFACTOR

ROCK_SALT = [(x, y, z) for x, y, z in itertools.product((0, 1), repeat=3)]


def counted_vectors(cell, cutoff):
    """How often every reciprocal vector counts, ±n taken together under the lexicographically positive one."""
    shape = grid_shape((tuple(cell.flatten().tolist()),), cutoff)
    tables = _tables(shape.extent, shape.slabs, cell.device)
    inverse = torch.linalg.inv(cell)[None, :, list(shape.axes[0])]
    present = _kernel(cell[None], inverse, shape, ElectrostaticsSettings(dl=2.0 * math.pi / cutoff))[0] > 0.0
    multiplicity = torch.where(present, 0.5 * tables.weight, 0.0).T.tolist()
    points = [
        point
        for slab in shape.slabs
        for point in itertools.product(range(slab.rows), range(*slab.second), range(*slab.third))
    ]
    counts = {}
    for (row, second, third), weights in zip(points, multiplicity, strict=True):
        for sign, weight in zip((1, -1), weights, strict=True):
            if weight == 0.0:
                continue
            vector = [0, 0, 0]
            for axis, index in zip(shape.axes[0], (sign * row, second, third), strict=True):
                vector[axis] = int(index)
            key = max(tuple(vector), tuple(-n for n in vector))
            counts[key] = counts.get(key, 0.0) + weight
    return counts


@pytest.mark.parametrize("seed", range(6))
def test_grid_holds_every_pair_of_vectors_in_the_sphere_once(seed):
    generator = torch.Generator().manual_seed(seed)
    cell = 4.0 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    cutoff = 2.0 * math.pi / 1.3
    bound = int(cutoff * cell.norm(dim=1).max() / (2.0 * math.pi)) + 2
    index = torch.cartesian_prod(*[torch.arange(-bound, bound + 1)] * 3)
    length = (2.0 * math.pi * index.double() @ torch.linalg.inv(cell).T).norm(dim=1)
    inside = index[(length <= cutoff) & (length > 0)].tolist()
    expected = {max(tuple(n), tuple(-i for i in n)) for n in inside}
    counts = counted_vectors(cell, cutoff)
    assert set(counts) == expected
    assert all(weight == 1.0 for weight in counts.values())


def test_vectors_on_the_cutoff_sphere_belong_to_it_in_every_description_of_the_cell():
    # 12 Å / 1.2 Å = 10: (10, 0, 0) lies on the sphere, whatever the rounding of a rotated or repeated cell says
    angle = torch.tensor(0.7, dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64)
    rotation[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    cell = 12.0 * torch.eye(3, dtype=torch.float64)
    cutoff = 2.0 * math.pi / 1.2
    single = counted_vectors(cell, cutoff)
    assert (10, 0, 0) in single
    assert set(counted_vectors(cell @ rotation.T, cutoff)) == set(single)
    doubled = counted_vectors(cell * torch.tensor([[1.0], [1.0], [2.0]], dtype=torch.float64), cutoff)
    assert {(a, b, 2 * c) for a, b, c in single} <= set(doubled)


@pytest.mark.parametrize(
    ("name", "constant"), [("rock salt", 1.747564594633182), ("caesium chloride", 1.762674773070988)]
)
def test_madelung_constant(name, constant, make_system, solve):
    if name == "rock salt":
        sites = torch.tensor(ROCK_SALT, dtype=torch.float64) / 2.0
        charge = torch.tensor([1.0 if sum(site) % 2 == 0 else -1.0 for site in ROCK_SALT], dtype=torch.float64)
        nearest = 0.5
    else:
        sites = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
        charge = torch.tensor([1.0, -1.0], dtype=torch.float64)
        nearest = math.sqrt(0.75)
    edge, sigma = 5.0, 1.0
    system = make_system(n_atoms=len(sites), order=0, response=None)._replace(
        positions=edge * sites, charge=charge, cell=edge * torch.eye(3, dtype=torch.float64)[None]
    )
    smeared = solve(system, sigma=sigma, dl=0.8).energy[0]  # truncated at exp(−σ²k²/2) = 4e-14
    shifts = edge * torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 3)
    distance = (edge * (sites[:, None] - sites[None])[:, :, None] + shifts).norm(dim=-1)  # images to 12 Å: erfc 1e-33
    kernel = torch.where(distance > 1e-9, torch.erfc(distance / (math.sqrt(2.0) * sigma)) / distance, 0.0)
    sharp = 0.5 * COULOMB_CONSTANT * torch.einsum("i,j,ijs->", charge, charge, kernel)
    pairs = len(sites) / 2
    madelung = -(smeared + sharp) * nearest * edge / (COULOMB_CONSTANT * pairs)
    assert float(madelung) == pytest.approx(constant, abs=1e-6)  # theory, section 12


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1)])
def test_energy_of_a_supercell_is_a_multiple(repeats, make_system, solve_with_forces):
    system = make_system()
    shifts = torch.cartesian_prod(*[torch.arange(float(n), dtype=torch.float64) for n in repeats]) @ system.cell[0]
    copies = len(shifts)
    repeated = system.select(torch.arange(5).repeat(copies))
    repeated = repeated._replace(
        positions=repeated.positions + shifts.repeat_interleave(5, 0),
        cell=system.cell * torch.tensor(repeats, dtype=torch.float64)[:, None],
    )
    one, forces = solve_with_forces(system)
    many, many_forces = solve_with_forces(repeated)
    torch.testing.assert_close(many.energy, copies * one.energy, rtol=1e-10, atol=1e-10)  # rounding only
    torch.testing.assert_close(many_forces, forces.repeat(copies, 1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "change",
    [
        [[1, 1, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [3, 1, 0], [-2, 5, 1]],
        [[1, 4, -3], [0, 1, 6], [0, 0, 1]],
        [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
        [[-1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [1, 0, 0], [2, 1, 0]],
    ],
    ids=["sheared", "strongly sheared", "very strongly sheared", "left-handed", "reflected", "permuted and sheared"],
)
def test_equivalent_lattice_vectors_give_the_same_energy_and_forces(change, make_system, solve_with_forces):
    system = make_system(size=5.0)
    matrix = torch.tensor(change, dtype=torch.float64)
    assert abs(float(torch.linalg.det(matrix))) == pytest.approx(1.0)
    one, forces = solve_with_forces(system)
    other, other_forces = solve_with_forces(system._replace(cell=matrix @ system.cell))
    # the same sum over the same vectors; a skewed inverse costs a few digits of 1e-16
    torch.testing.assert_close(other.energy, one.energy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other_forces, forces, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other.potential, one.potential, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other.field, one.field, rtol=1e-9, atol=1e-9)


def test_energy_equals_the_sum_over_k_written_out(make_system, solve):
    system = make_system(response=None)
    cutoff = 2.0 * math.pi / 1.5
    index = torch.cartesian_prod(*[torch.arange(-12.0, 13.0, dtype=torch.float64)] * 3)
    k = 2.0 * math.pi * index @ torch.linalg.inv(system.cell[0]).T
    k = k[(k.norm(dim=1) <= cutoff) & (k.norm(dim=1) > 0)]
    weight = (
        system.charge[:, None]
        + 1j * (system.dipole @ k.T)
        - 0.5 * torch.einsum("ka,nab,kb->nk", k, system.quadrupole, k)
    )
    structure_factor = (weight * torch.exp(1j * (system.positions @ k.T))).sum(0)
    square = (k * k).sum(1)
    volume = torch.linalg.det(system.cell[0]).abs()
    expected = RECIPROCAL_PREFACTOR / volume * (torch.exp(-0.5 * square) / square * structure_factor.abs() ** 2).sum()
    energy = solve(system, dl=1.5, remove_self_interaction=False).energy[0]
    assert float(energy) == pytest.approx(float(expected), rel=1e-12)  # rounding only


def test_cell_too_small_for_any_vector_leaves_minus_the_self_energy(make_system, solve):
    system = make_system(order=0, response=None)._replace(cell=torch.eye(3, dtype=torch.float64)[None])
    result = solve(system, dl=2.0)
    expected = -RECIPROCAL_PREFACTOR / (2.0 * math.pi) ** 1.5 * system.charge.square().sum()
    assert float(result.energy[0]) == pytest.approx(float(expected), rel=1e-12)  # a closed form


@pytest.mark.parametrize("order", [0, 2])
def test_default_resolution_is_converged_and_the_literature_one_is_not(order, make_system, solve_with_forces):
    # a 12-atom cell of water-like density and moments; section 2.3 of the theory gives 3.6 (q) and 15.5 meV/Å (q+u+Q)
    # on water
    system = make_system(n_atoms=12, order=order, response=None, size=5.0)
    _, exact = solve_with_forces(system, dl=0.7)
    error = {dl: float((solve_with_forces(system, dl=dl)[1] - exact).square().mean().sqrt()) for dl in (2.0, 1.2)}
    assert error[2.0] > 1e-3  # eV/Å
    assert error[1.2] < 1e-4  # random moments here are larger than water's
    assert error[2.0] > 50.0 * error[1.2]
