"""Slabs of the particle mesh: together they are the whole mesh, and what a rank sends for them stays small."""

import pytest
import torch

from les_plugins import LatentElectrostatics
from les_plugins.electrostatics.communication import bytes_per_step
from les_plugins.electrostatics.parallel.shortened import SIGN_AND_EXPONENT, lengthened, shortened
from les_plugins.electrostatics.periodic.columns import Columns, prolate_sequences
from les_plugins.electrostatics.periodic.mesh import _kernel
from les_plugins.electrostatics.periodic.slabs import SlabFilter, SlabMesh, Waves
from les_plugins.electrostatics.periodic.splines import Mesh

MESH = Mesh((11, 12, 15), 10)
#: Fewer planes than splines reach, planes for one rank in two, and none for most.
NUMBERS = pytest.mark.parametrize("n_ranks", [1, 2, 3, 4, 16])


class OneRank:
    """What `Waves` needs of ranks, for one that is alone."""

    rank, size = 0, 1

    def exchange(self, rows, sent, received):
        assert sent == received == [len(rows)]
        return rows


def some_atoms():
    """Places in the cell, some on its faces; and moments of order 2."""
    generator = torch.Generator().manual_seed(3)
    fractional = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    fractional[0], fractional[1], fractional[2, 0] = 0.0, 1.0, 1.0 - 1e-16
    return fractional, torch.randn(40, 10, generator=generator, dtype=torch.float64)


def slabs(n_ranks, fractional):
    """Each with the indices of the atoms that reach it."""
    takers = SlabMesh.of(MESH, 0, n_ranks).takers(fractional, n_ranks)
    return [(SlabMesh.of(MESH, rank, n_ranks), takers[rank].nonzero()[:, 0]) for rank in range(n_ranks)]


@NUMBERS
def test_slabs_of_a_density_together_are_the_whole(n_ranks):
    fractional, moments = some_atoms()
    parts = [slab.spread(fractional[atoms], moments[atoms], 2) for slab, atoms in slabs(n_ranks, fractional)]
    # sums of the same products in another order
    torch.testing.assert_close(torch.cat(parts), MESH.spread(fractional, moments, 2), rtol=1e-12, atol=1e-10)


@NUMBERS
def test_what_slabs_have_for_an_atom_adds_up_to_what_the_whole_has(n_ranks):
    fractional, _ = some_atoms()
    values = torch.randn(MESH.sizes, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = torch.zeros(len(fractional), 20, dtype=torch.float64)
    for slab, atoms in slabs(n_ranks, fractional):
        own = values[slab.first : slab.first + slab.planes]
        found.index_add_(0, atoms, slab.gather(fractional[atoms], own, 3))
    whole = MESH.gather(fractional, values, 3)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12 * float(whole.abs().max()))


def triclinic_cell():
    return torch.tensor([[5.0, 0.3, 0.0], [1.9, 6.0, -0.4], [-0.8, 1.1, 7.0]], dtype=torch.float64)


def test_columns_hold_every_wave_of_the_kernel_and_no_wave_is_changed():
    cell, cutoff = triclinic_cell(), 4.0
    inverse = torch.linalg.inv(cell)
    kernel = _kernel(cell, inverse, MESH, 1.0, cutoff).flatten(1)
    waves = Waves.of(inverse, MESH, cutoff, OneRank())
    columns = waves.own
    mine = SlabFilter.of(cell, inverse, waves, 1.0, cutoff).kernel
    torch.testing.assert_close(mine.T, kernel[:, columns], rtol=1e-12, atol=1e-13)
    left_out = torch.ones(kernel.shape[1], dtype=torch.bool)
    left_out[columns] = False
    assert int(left_out.sum()) > 0
    assert float(kernel[:, left_out].abs().max()) == 0.0


def test_filter_of_slabs_has_right_derivatives_of_first_and_second_order():
    generator = torch.Generator().manual_seed(5)
    mesh, cell, cutoff = Mesh((5, 4, 6), 4), triclinic_cell(), 2.2
    inverse = torch.linalg.inv(cell)
    waves = Waves.of(inverse, mesh, cutoff, OneRank())
    kernel = SlabFilter.of(cell, inverse, waves, 1.0, cutoff).kernel.requires_grad_()
    density = torch.randn(mesh.sizes, generator=generator, dtype=torch.float64, requires_grad=True)

    def both(density, kernel):
        slab_filter = SlabFilter(kernel, waves)
        return slab_filter.filtered(density), slab_filter.kernel_gradient(density)

    assert torch.autograd.gradcheck(both, (density, kernel), fast_mode=True)
    assert torch.autograd.gradgradcheck(both, (density, kernel), fast_mode=True)
    potential, squares = both(density, kernel)
    energy = (kernel * squares).sum()
    torch.testing.assert_close(energy, 0.5 * (potential * density).sum())  # E is quadratic in the density


@NUMBERS
def test_every_column_is_of_one_rank(n_ranks):
    inverse = torch.linalg.inv(triclinic_cell())
    parts = [one.places for one in Columns.shared_out(inverse, MESH, 4.0, n_ranks)]
    (whole,) = Columns.shared_out(inverse, MESH, 4.0, 1)
    assert torch.equal(torch.cat(parts).sort().values, whole.places.sort().values)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def long_columns():
    """Of a skew cell in which waves along the first axis are many, and their bands not around zero."""
    cell = torch.tensor([[60.0, 0.0, 0.0], [9.0, 7.0, 0.0], [-14.0, 2.0, 6.0]], dtype=torch.float64)
    (columns,) = Columns.shared_out(torch.linalg.inv(cell), Mesh((180, 24, 24), 10), 4.0, 1)
    assert columns.middle is not None
    return columns


def random_lines(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, len(columns.places), generator=generator, dtype=torch.complex128)


def beyond(columns):
    """(n₁, c): which waves of a column are not in its band."""
    wave = torch.arange(columns.size)[:, None] - columns.middle
    distance = (wave + columns.size // 2) % columns.size - columns.size // 2
    reach = torch.tensor([band.reach for band in columns.bands for _ in range(band.start, band.end)])
    return distance.abs() > reach


def test_what_a_slab_sends_holds_all_that_waves_see_of_it():
    columns, planes = long_columns(), 60
    lines = random_lines(planes, columns, 7)
    packed = columns.packed(lines)
    assert len(packed) == columns.bytes_of(planes) < 0.7 * 16 * lines.numel()
    lost = torch.fft.fft(columns.unpacked(packed, planes) - lines, n=columns.size, dim=0, norm="ortho")
    assert float(lost[~beyond(columns)].abs().max()) < 5e-12  # of numbers around 1, some 2⁻⁴¹ of each
    assert float(lost.abs().max()) > 0.1  # other waves are not there


def test_unpacking_is_the_transpose_of_packing_for_waves():
    columns, planes = long_columns(), 60
    density, amplitudes = random_lines(planes, columns, 8), random_lines(columns.size, columns, 9)
    amplitudes[beyond(columns)] = 0.0
    potential = torch.fft.ifft(amplitudes, dim=0, norm="ortho")[:planes]
    forth, back = (columns.unpacked(columns.packed(lines), planes) for lines in (density, potential))
    one, other = (forth.conj() * potential).sum(), (density.conj() * back).sum()
    torch.testing.assert_close(one, other, rtol=0.0, atol=1e-12 * density.numel() ** 0.5)


def test_sequences_are_orthonormal_and_few_digits_go_with_the_last():
    found = prolate_sequences(280, 70, 40, torch.device("cpu"))
    count = len(found.values)
    torch.testing.assert_close(found.values @ found.values.T, torch.eye(count).double(), rtol=0, atol=1e-13)
    assert 81 * 70 / 280 < count < 45  # the band's share of the planes, and what its edges see of others
    widths = [width for _, width in found.widths]
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (7, 2)


def test_numbers_in_fewer_bytes_are_rounded():
    values = torch.tensor([0.0, -1.0, 1.0 / 3.0, 1e300, -1e-300, 2.0 - 2.0**-52], dtype=torch.float64)
    for width in range(2, 9):
        found = lengthened(shortened(values, width), width)
        error = 0.5 * 2.0 ** -(8 * width - SIGN_AND_EXPONENT)
        assert ((found - values).abs() <= error * values.abs()).all()
    assert torch.equal(lengthened(shortened(values, 8), 8), values)


def test_a_large_box_on_four_ranks_sends_little():
    n_atoms, edge = 98_304, 99.36  # water, q + u + Q
    cell = edge * torch.eye(3, dtype=torch.float64)[None]
    places = edge * torch.rand(n_atoms, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    atoms = [(own, torch.zeros(len(own), dtype=torch.long)) for own in places.split(n_atoms // 4)]
    layer = LatentElectrostatics(method="mesh", response="one_shot")
    assert max(bytes_per_step(layer, cell, atoms=atoms, rank=rank) for rank in range(4)) < 25e6
