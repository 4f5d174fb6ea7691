"""Polarization and Born effective charges (theory, section 8)."""

import pytest
import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.observables import (
    born_effective_charges,
    electronic_dielectric_tensor,
    electronic_screening,
    enforce_asr,
    polarization,
    sum_rule_violation,
    system_polarizability,
)
from les_plugins.errors import GeometryError
from les_plugins.units import VACUUM_PERMITTIVITY

ROUNDING = {"rtol": 1e-11, "atol": 1e-11}
OPEN = torch.zeros(1, 3, dtype=torch.bool)
PERIODIC = torch.ones(1, 3, dtype=torch.bool)
IDENTITY = torch.eye(3, dtype=torch.float64)
TRICLINIC = torch.tensor([[6.0, 0.3, -0.4], [1.9, 5.2, 0.6], [-0.8, 1.1, 7.0]], dtype=torch.float64)
BOUNDARIES = pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_structure(n_atoms):
    return torch.zeros(n_atoms, dtype=torch.long)


def waves(positions, cell, seed=0):
    """Charges and dipoles that depend on the positions and have the period of the cell."""
    fractional = positions @ torch.linalg.inv(cell)
    difference = fractional[:, None] - fractional[None]
    phase = torch.cos(2.0 * torch.pi * difference + normal(3, seed=seed)).sum((1, 2))
    moved = torch.sin(2.0 * torch.pi * difference).sum(1)
    return normal(len(positions), seed=seed) + 0.1 * phase, 0.2 * moved @ normal(3, 3, seed=seed + 1)


@BOUNDARIES
def test_fixed_charges_are_their_own_born_charges_less_the_mean(periodic):
    positions, charge = normal(6, 3).requires_grad_(), normal(6, seed=1)
    born = born_effective_charges(positions, TRICLINIC[None], PERIODIC if periodic else OPEN, one_structure(6), charge)
    torch.testing.assert_close(born, (charge - charge.mean())[:, None, None] * IDENTITY, **ROUNDING)


@BOUNDARIES
@pytest.mark.parametrize("scale", [4.0, torch.tensor([4.0])], ids=["number", "tensor"])
def test_screening_scales_born_charges_by_its_square_root(periodic, scale):
    positions, charge = normal(6, 3).requires_grad_(), normal(6, seed=1)
    arguments = (positions, TRICLINIC[None], PERIODIC if periodic else OPEN, one_structure(6), charge)
    scaled = born_effective_charges(*arguments, epsilon=scale)
    torch.testing.assert_close(scaled, 2.0 * born_effective_charges(*arguments), **ROUNDING)


def test_open_born_charges_are_central_differences_of_the_polarization():
    start = normal(5, 3)

    def moment(positions):
        charge, dipole = waves(positions, TRICLINIC)
        return polarization(positions, one_structure(5), charge - charge.mean(), dipole)[0]

    positions = start.clone().requires_grad_()
    born = born_effective_charges(
        positions, torch.zeros(1, 3, 3).double(), OPEN, one_structure(5), *waves(positions, TRICLINIC)
    )
    step, numeric = 1e-5, torch.zeros_like(born)
    for atom in range(5):
        for axis in range(3):
            shift = torch.zeros_like(start)
            shift[atom, axis] = step
            numeric[atom, :, axis] = (moment(start + shift) - moment(start - shift)) / (2.0 * step)
    torch.testing.assert_close(born, numeric, rtol=1e-7, atol=1e-8)  # step² times a third derivative of order 1


def test_first_index_is_the_polarization_and_second_the_displacement():
    positions = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    along_y = torch.stack([torch.zeros(2).double(), 0.7 * positions[:, 0], torch.zeros(2).double()], 1)
    born = born_effective_charges(
        positions, torch.zeros(1, 3, 3).double(), OPEN, one_structure(2), torch.zeros(2).double(), along_y
    )
    expected = torch.zeros(2, 3, 3, dtype=torch.float64)
    expected[:, 1, 0] = 0.7
    torch.testing.assert_close(born, expected, **ROUNDING)


def test_periodic_born_charges_are_invariant_under_translation_and_wrapping():
    start = normal(5, 3)
    images = torch.randint(-4, 5, (5, 3), generator=torch.Generator().manual_seed(2)).double() @ TRICLINIC

    def born(positions):
        positions = positions.clone().requires_grad_()
        return born_effective_charges(
            positions, TRICLINIC[None], PERIODIC, one_structure(5), *waves(positions, TRICLINIC)
        )

    reference = born(start)
    torch.testing.assert_close(born(start + images), reference, **ROUNDING)
    torch.testing.assert_close(born(start + torch.tensor([1.1, -7.3, 0.4]).double()), reference, **ROUNDING)


def test_periodic_born_charges_turn_with_the_crystal():
    turn, _ = torch.linalg.qr(normal(3, 3, seed=4))
    results = []
    for matrix in (IDENTITY, turn):
        cell = TRICLINIC @ matrix.T
        positions = (normal(5, 3) @ matrix.T).requires_grad_()
        charge, dipole = waves(positions, cell)
        born = born_effective_charges(positions, cell[None], PERIODIC, one_structure(5), charge, dipole @ matrix.T)
        results.append(matrix.T @ born @ matrix)
    torch.testing.assert_close(*results, **ROUNDING)


def test_supercell_keeps_the_born_charges_of_fixed_charges_and_induced_dipoles():
    layer = LatentElectrostatics()
    positions, charge, alpha = normal(4, 3), normal(4, seed=1), 0.02 * torch.ones(4, dtype=torch.float64)

    def born(positions, cell, charge, alpha):
        positions = positions.clone().requires_grad_()
        batch = one_structure(len(positions))
        result = layer(positions, cell[None], PERIODIC, batch, Multipoles(charge), polarizability=alpha)
        # every replica's own displacement counts: the dipoles feel all images of the atom in the single cell
        return born_effective_charges(positions, cell[None], PERIODIC, batch, result.charge, result.dipole)

    single = born(positions, TRICLINIC, charge, alpha)
    doubled_cell = TRICLINIC * torch.tensor([[1.0], [2.0], [1.0]], dtype=torch.float64)
    double = born(torch.cat([positions, positions + TRICLINIC[1]]), doubled_cell, charge.repeat(2), alpha.repeat(2))
    torch.testing.assert_close(double, single.repeat(2, 1, 1), **ROUNDING)


@pytest.mark.parametrize("shape", [IDENTITY, TRICLINIC / 6.0], ids=["cubic", "triclinic"])
def test_charge_flow_converges_to_the_open_result_as_the_cell_grows(shape):
    start = torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.5, -0.4]], dtype=torch.float64)

    def born(cell, pbc):
        positions = start.clone().requires_grad_()
        flow = (positions[1] - positions[0]).square().sum()
        charge = torch.stack([0.3 + 0.2 * flow, -0.3 - 0.2 * flow])
        return born_effective_charges(positions, cell[None], pbc, one_structure(2), charge)

    expected = born(IDENTITY, OPEN)
    errors = [float((born(edge * shape, PERIODIC) - expected).abs().max()) for edge in (15.0, 30.0, 60.0)]
    # sin(k d)/k = d − k² d³/6: the error falls with the square of the edge
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.05)
    assert errors[2] < 2e-3


def test_sum_rule_holds_for_a_translation_invariant_open_structure():
    positions = normal(5, 3).requires_grad_()
    born = born_effective_charges(
        positions, torch.zeros(1, 3, 3).double(), OPEN, one_structure(5), *waves(positions, TRICLINIC)
    )
    torch.testing.assert_close(sum_rule_violation(born, one_structure(5))[0], torch.zeros(3, 3).double(), **ROUNDING)


def test_enforced_sum_rule_holds_in_every_structure_and_changes_nothing_twice():
    born, batch = normal(7, 3, 3), torch.tensor([1, 0, 1, 3, 0, 1, 3])
    violation = sum_rule_violation(born, batch)
    assert violation.shape == (4, 3, 3)
    torch.testing.assert_close(violation[0], 0.5 * (born[1] + born[4]), **ROUNDING)
    assert violation[2].abs().max() == 0.0  # an empty structure
    enforced = enforce_asr(born, batch)
    torch.testing.assert_close(sum_rule_violation(enforced, batch), torch.zeros(4, 3, 3).double(), **ROUNDING)
    torch.testing.assert_close(enforce_asr(enforced, batch), enforced, **ROUNDING)


def test_unsorted_mixed_batch_equals_one_by_one():
    sizes, flags = [3, 2, 4], [True, False, True]
    cells = torch.stack([TRICLINIC, torch.zeros(3, 3).double(), 1.3 * TRICLINIC])
    starts = [normal(n, 3, seed=n) for n in sizes]
    pbc = torch.tensor(flags)[:, None].expand(-1, 3)
    epsilon = torch.tensor([1.5, 1.0, 2.5], dtype=torch.float64)

    def moments(positions, index):
        return waves(positions, 1.3 * TRICLINIC if index == 2 else TRICLINIC)

    alone = []
    for index, start in enumerate(starts):
        positions = start.clone().requires_grad_()
        alone.append(
            born_effective_charges(
                positions,
                cells[index : index + 1],
                pbc[index : index + 1],
                one_structure(sizes[index]),
                *moments(positions, index),
                epsilon=float(epsilon[index]),
            )
        )
    batch = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    shuffle = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    positions, batch = torch.cat(starts)[shuffle].requires_grad_(), batch[shuffle]
    back = torch.argsort(shuffle)
    parts = [moments(part, i) for i, part in enumerate(positions[back].split(sizes))]
    charge, dipole = (torch.cat([part[i] for part in parts])[shuffle] for i in range(2))
    born = born_effective_charges(positions, cells, pbc, batch, charge, dipole, epsilon=epsilon)
    torch.testing.assert_close(born, torch.cat(alone)[shuffle], **ROUNDING)


@BOUNDARIES
def test_charge_channels_add_up(periodic):
    positions = normal(5, 3).requires_grad_()
    channels = torch.stack([waves(positions, TRICLINIC, seed)[0] for seed in range(3)], 1)
    arguments = (positions, TRICLINIC[None], PERIODIC if periodic else OPEN, one_structure(5))
    torch.testing.assert_close(
        born_effective_charges(*arguments, channels), born_effective_charges(*arguments, channels.sum(1)), **ROUNDING
    )
    torch.testing.assert_close(
        polarization(positions, one_structure(5), channels),
        polarization(positions, one_structure(5), channels.sum(1)),
        **ROUNDING,
    )


@BOUNDARIES
def test_born_charges_of_the_layers_induced_moments_can_be_differentiated_again(periodic):
    layer, positions = LatentElectrostatics(), normal(4, 3).requires_grad_()
    pbc = PERIODIC if periodic else OPEN
    result = layer(
        positions,
        TRICLINIC[None],
        pbc,
        one_structure(4),
        Multipoles(normal(4, seed=1)),
        softness=torch.full((4,), 0.02, dtype=torch.float64),
        polarizability=torch.full((4,), 0.02, dtype=torch.float64),
    )
    born = born_effective_charges(
        positions, TRICLINIC[None], pbc, one_structure(4), result.charge, result.dipole, create_graph=True
    )
    (gradient,) = torch.autograd.grad(born.square().sum(), positions, retain_graph=True)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 1e-6
    arguments = (positions, TRICLINIC[None], pbc, one_structure(4), result.charge, result.dipole)
    assert not born_effective_charges(*arguments).requires_grad


def test_polarization_of_a_charged_structure_moves_with_the_origin_and_of_a_neutral_one_does_not():
    positions, charge, shift = normal(4, 3), normal(4, seed=1), torch.tensor([1.0, 2.0, -3.0]).double()
    batch = one_structure(4)
    total = torch.tensor([-1.5], dtype=charge.dtype)
    moved = polarization(positions + shift, batch, charge, total_charge=total)
    moved = moved - polarization(positions, batch, charge, total_charge=total)
    torch.testing.assert_close(moved[0], total * shift, **ROUNDING)
    for neutral in (charge, charge - charge.mean()):  # what the heads miss is not a charge of the structure
        torch.testing.assert_close(
            polarization(positions + shift, batch, neutral), polarization(positions, batch, neutral), **ROUNDING
        )


@pytest.mark.parametrize("anisotropic", [False, True])
def test_electronic_screening_follows_its_formula_and_is_one_in_vacuum(anisotropic):
    cell = torch.stack([TRICLINIC, torch.zeros(3, 3).double()])
    pbc = torch.tensor([[True] * 3, [False] * 3])
    batch = torch.tensor([0, 1, 0])
    mean = torch.tensor([0.03, 0.5, 0.02], dtype=torch.float64)
    alpha = mean[:, None, None] * torch.diag(torch.tensor([0.5, 1.0, 1.5]).double()) if anisotropic else mean
    susceptibility = 0.05 / (VACUUM_PERMITTIVITY * float(torch.linalg.det(TRICLINIC).abs()))
    expected = torch.tensor([1.78 / (1.0 + susceptibility), 1.0], dtype=torch.float64)
    torch.testing.assert_close(electronic_screening(1.78, alpha, cell, pbc, batch), expected, **ROUNDING)
    without = electronic_screening(1.78, None, cell, pbc, batch)
    torch.testing.assert_close(without, torch.tensor([1.78, 1.0], dtype=torch.float64), **ROUNDING)


@pytest.mark.parametrize("anisotropic", [False, True])
def test_the_mean_of_the_electronic_dielectric_tensor_is_the_number_that_was_given(anisotropic):
    cell = torch.stack([TRICLINIC, torch.zeros(3, 3).double()])
    pbc = torch.tensor([[True] * 3, [False] * 3])
    batch = torch.tensor([0, 1, 0])
    mean = torch.tensor([0.03, 0.5, 0.02], dtype=torch.float64)
    alpha = mean[:, None, None] * torch.diag(torch.tensor([0.5, 1.0, 1.5]).double()) if anisotropic else mean
    for given in (alpha, None):
        tensor = electronic_dielectric_tensor(1.78, given, cell, pbc, batch)
        assert float(tensor[0].diagonal().mean()) == pytest.approx(1.78)
        torch.testing.assert_close(tensor[1], IDENTITY, **ROUNDING)
    wide = float(electronic_dielectric_tensor(1.78, alpha, cell, pbc, batch)[0, 2, 2])
    assert (wide > 1.79) == anisotropic


def test_positions_without_a_graph_and_wires_are_refused():
    with pytest.raises(GeometryError, match=r"positions\.requires_grad is False"):
        born_effective_charges(normal(2, 3), TRICLINIC[None], PERIODIC, one_structure(2), normal(2))
    wire = torch.tensor([[True, False, False]])
    with pytest.raises(GeometryError, match=r"pbc is \[\[True, False, False\]\]; allowed: three True, two or none"):
        born_effective_charges(normal(2, 3).requires_grad_(), TRICLINIC[None], wire, one_structure(2), normal(2))


def test_polarizability_of_a_soft_slab_without_its_cell_is_refused():
    slab = torch.tensor([[True, True, False]])
    with pytest.raises(GeometryError, match="polarizability of a slab with softness needs its cell"):
        system_polarizability(normal(2, 3), slab, one_structure(2), normal(2).abs(), None)
