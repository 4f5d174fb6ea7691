"""Open structures of more pairs than are summed at once: the same numbers, in bounded memory, up to a limit."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics import pairs
from les_plugins.electrostatics.recomputed import recomputed
from les_plugins.errors import GeometryError

NAMES = ("positions", "charge", "dipole", "quadrupole", "softness", "polarizability")


@pytest.fixture
def in_pieces(monkeypatch):
    """A dozen atoms are too many at once."""

    def limit():
        monkeypatch.setattr(pairs, "AT_ONCE", 20)
        monkeypatch.setattr(pairs, "BLOCK", 3)

    return limit


def with_derivatives(system, solve, **settings):
    names = [name for name in NAMES if getattr(system, name) is not None]
    values = [getattr(system, name).clone().requires_grad_() for name in names]
    result = solve(system._replace(**dict(zip(names, values, strict=True))), **settings)
    first = torch.autograd.grad(result.energy.sum(), values, create_graph=True)
    third = sum(value.square().sum() for value in (*first, result.charge, result.potential, result.field))
    return [*(value for value in result if value is not None), *first, *torch.autograd.grad(third, values)]


@pytest.mark.parametrize("settings", [{}, {"response": "self_consistent", "response_tolerance": 1e-13}])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_pieces_give_the_numbers_and_derivatives_of_the_whole(order, settings, in_pieces, make_system, solve, join):
    sizes = (1, 13, 2, 9)
    systems = [make_system(n, periodic=False, order=order, size=9.0, seed=n) for n in sizes]
    system = join(systems)
    whole = with_derivatives(system, solve, **settings)
    in_pieces()
    assert len(pairs.pieces(sizes, torch.device("cpu"))) > 8
    for one, other in zip(with_derivatives(system, solve, **settings), whole, strict=True):
        # order of sums; the iterations of the response end at 1e-13
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("counts", [(0,), (1,), (5,), (0, 4, 1, 8, 0), (30, 2, 7)])
def test_every_pair_of_a_structure_is_in_one_block(counts, in_pieces):
    expected, start = set(), 0
    for n in counts:
        expected |= {(i + start, j + start) for j in range(n) for i in range(j)}
        start += n
    in_pieces()
    found = []
    for blocks in pairs.pieces(counts, torch.device("cpu")):
        first, second = pairs.pair_indices(blocks, torch.device("cpu"))
        assert len(first) == sum(block.n_pairs for block in blocks)
        found += list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


def test_700_atoms_are_summed_at_once_and_4000_in_pieces_of_bounded_size():
    assert len(pairs.pieces([700], torch.device("cpu"))) == 1
    for counts in ([4000], [300] * 40):
        sizes = [sum(block.n_pairs for block in blocks) for blocks in pairs.pieces(counts, torch.device("cpu"))]
        assert sum(sizes) == sum(n * (n - 1) // 2 for n in counts)
        assert max(sizes) <= pairs.BLOCK**2


def test_recomputed_functions_have_derivatives_of_every_order():
    def function(a, b):
        return a.sin() * b, (a * b).exp()

    values = [torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def both(*arguments):
        return recomputed(function, *arguments)

    assert torch.autograd.gradcheck(both, values)
    assert torch.autograd.gradgradcheck(both, values)

    def slope(a, b):
        (value,) = torch.autograd.grad(both(a, b)[0].sum(), a, create_graph=True)
        return value

    assert torch.autograd.gradgradcheck(slope, values)


def test_more_atoms_than_can_be_summed_are_refused_before_anything_is_allocated(solve, make_system):
    n = 50_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arguments = (torch.rand(n, 3) * 80, torch.zeros(2, 3, 3), torch.zeros(2, 3, dtype=torch.bool))
    batch = torch.ones(n, dtype=torch.long)
    message = (
        r"structure 1 is open and has 50000 atoms: 1.25e\+09 pairs, a list of which takes 18.6 GiB; allowed: .* 20000"
    )
    with pytest.raises(GeometryError, match=message):
        LatentElectrostatics()(*arguments, batch, Multipoles(torch.zeros(n)))
    # kB; the structure itself has a MB, and one index of its pairs has 10 GB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


PEAK = """
import resource, torch
from les_plugins import LatentElectrostatics, Multipoles
n = 4000
generator = torch.Generator().manual_seed(0)
normal = lambda *shape: 0.1 * torch.randn(n, *shape, generator=generator, dtype=torch.float64)
positions = (34.0 * torch.rand(n, 3, generator=generator, dtype=torch.float64)).requires_grad_()
root = normal(5)
from les_plugins.electrostatics.multipoles import spherical_to_cartesian
moments = Multipoles(normal(), normal(3), spherical_to_cartesian(root))
small = torch.full((n,), 1e-3, dtype=torch.float64)
result = LatentElectrostatics()(
    positions, torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(n, dtype=torch.long), moments,
    softness=small, polarizability=small,
)
(gradient,) = torch.autograd.grad(result.energy.sum(), positions)
assert bool(gradient.isfinite().all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_energy_and_forces_of_4000_atoms_take_less_than_2_gib():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", PEAK], capture_output=True, text=True, check=True)
    assert 0.1 < float(run.stdout) < 2.0  # of the whole process, torch included
