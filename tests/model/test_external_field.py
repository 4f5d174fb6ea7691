"""A molecule and a crystal in a uniform field: energy, forces and dipole belong together (theory, section 7)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics.observables import born_effective_charges, field_forces, polarization
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.calculator import (
    LatentStructure,
    LongRangeCalculator,
    born_results,
    field_results,
    latent_results,
)
from les_plugins.model.long_range import LongRangeResult

OPEN, PERIODIC = torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
TRICLINIC = torch.tensor([[[6.0, 0.3, -0.4], [1.9, 5.2, 0.6], [-0.8, 1.1, 7.0]]], dtype=torch.float64)
FIELD = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
EPSILON = 1.78
SLAB = torch.tensor([[True, False, True]])
BOUNDARIES = pytest.mark.parametrize("pbc", [OPEN, PERIODIC, SLAB], ids=["open", "periodic", "slab"])


def positions() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    grid = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.1, 0.2], [0.3, 1.7, -0.4], [-0.5, 0.4, 1.6]], dtype=torch.float64)
    return grid + 0.1 * torch.randn(4, 3, generator=generator, dtype=torch.float64)


def moments(place: Tensor, net: float = 0.0) -> tuple[Multipoles, Tensor, Tensor]:
    """Charges, dipoles, softness and polarizability that depend on the distances, as those of a model do."""
    difference = place[:, None] - place[None]
    squares = (difference**2).sum(2)
    near = torch.exp(-squares / 4.0) - torch.eye(len(place), dtype=place.dtype)
    charge = torch.tensor([0.4, -0.3, 0.2, -0.3], dtype=place.dtype) * near.sum(1)
    charge = charge - charge.mean() + net / len(place)
    dipole = 0.2 * (near[:, :, None] * difference).sum(1)
    return Multipoles(charge, dipole), 0.02 + 0.01 * near.sum(1), 0.03 + 0.02 * near.sum(1)


def result(place: Tensor, pbc: Tensor, net: float = 0.0, field: Tensor | None = None) -> LongRangeResult:
    permanent, softness, alpha = moments(place, net)
    batch = torch.zeros(len(place), dtype=torch.long)
    found = LatentElectrostatics()(
        place, TRICLINIC, pbc, batch, permanent, softness=softness, polarizability=alpha, external_field=field
    )
    return LongRangeResult(
        found.energy,
        found.atomic_energy,
        found.potential,
        found.field,
        found.charge,
        found.dipole,
        permanent,
        softness,
        alpha,
    )


def gauge(found: LongRangeResult, place: Tensor) -> Tensor:
    """(3,) polarization of the layer beyond section 8: where the net induced charge counts from (theory, section 7)."""
    assert found.softness is not None
    centre = found.softness @ place / found.softness.sum()
    return (found.charge - found.permanent.charge).sum() * (place.mean(0) - centre)


@pytest.mark.parametrize("net", [0.0, 0.7], ids=["neutral", "charged"])
def test_a_molecule_in_a_field_has_the_energy_of_the_layer_and_its_forces(net: float) -> None:
    place = positions().requires_grad_()
    without = result(place, OPEN, net)
    total = torch.tensor([net], dtype=torch.float64)
    energy, forces, induced = field_results(
        LatentStructure(without, place, TRICLINIC, OPEN, EPSILON, total_charge=total), FIELD
    )
    field = FIELD.clone().requires_grad_()
    within = result(place, OPEN, net, field)
    added = (within.energy - without.energy).sum() + field @ gauge(without, place)
    assert energy == pytest.approx(float(added.detach()), abs=1e-10)
    (slope, rate) = torch.autograd.grad(added, (place, field))
    np.testing.assert_allclose(forces, -slope.numpy(), atol=1e-10)
    moment = (
        latent_results(LatentStructure(without, place, TRICLINIC, OPEN, EPSILON, total_charge=total))["dipole"]
        + induced
    )
    np.testing.assert_allclose(moment, -rate.numpy(), atol=1e-10)


@pytest.mark.parametrize("net", [0.0, 0.7], ids=["neutral", "charged"])
def test_a_slab_in_a_field_along_its_normal_has_the_energy_of_the_layer_and_its_forces(net: float) -> None:
    place = positions().requires_grad_()
    normal = torch.linalg.cross(TRICLINIC[0, 2], TRICLINIC[0, 0])
    normal = normal / normal.norm()
    strength = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    without, within = result(place, SLAB, net), result(place, SLAB, net, strength * normal)
    total = torch.tensor([net], dtype=torch.float64)
    energy, forces, induced = field_results(
        LatentStructure(without, place, TRICLINIC, SLAB, EPSILON, total_charge=total), 0.4 * normal
    )
    added = (within.energy - without.energy).sum() + strength * (normal @ gauge(without, place))
    assert energy == pytest.approx(float(added.detach()), abs=1e-10)
    slope, rate = torch.autograd.grad(added, (place, strength))
    np.testing.assert_allclose(forces, -slope.numpy(), atol=1e-10)
    moment = (
        latent_results(LatentStructure(without, place, TRICLINIC, SLAB, EPSILON, total_charge=total))["dipole"]
        + induced
    )
    assert float(moment @ normal.numpy()) == pytest.approx(-float(rate), abs=1e-10)


def test_forces_on_a_slab_are_those_along_its_normal_and_those_in_its_plane_together() -> None:
    place = positions().requires_grad_()
    permanent, _, alpha = moments(place)
    batch = torch.zeros(4, dtype=torch.long)
    # no softness: the gauge of its net charge is not in the Born charges
    bare = LatentElectrostatics()(place, TRICLINIC, SLAB, batch, permanent, polarizability=alpha)
    found = LongRangeResult(*bare[:6], permanent, None, alpha)
    born = born_results(LatentStructure(found, place, TRICLINIC, SLAB, EPSILON))
    weak = 1e-6 * FIELD  # the energy of second order is not seen
    forces = field_results(LatentStructure(found, place, TRICLINIC, SLAB, EPSILON), weak)[1]
    np.testing.assert_allclose(forces, np.einsum("a,nab->nb", weak.numpy(), born), rtol=0, atol=1e-11)
    assert np.abs(forces).max() > 1e-8


def test_work_of_a_static_field_around_a_closed_path_vanishes_as_the_cell_grows() -> None:
    """Born charges at the smallest k of the cell: E·Z* is a slope for rigid charges, and for a model's as k → 0."""
    start = positions()
    steps = 24
    angles = 2.0 * np.pi * (np.arange(steps) + 0.5) / steps
    one, other = 0.3 * torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3)).double()

    def work(factor: float) -> float:
        total = 0.0
        for angle in angles:
            place = (start + np.cos(angle) * one + np.sin(angle) * other).requires_grad_()
            found = moments(place)[0]
            forces = field_forces(
                place, factor * TRICLINIC, PERIODIC, torch.zeros(4, dtype=torch.long), found.charge, FIELD, found.dipole
            )
            velocity = -np.sin(angle) * one + np.cos(angle) * other
            total += float((forces * velocity).sum()) * 2.0 * np.pi / steps
        return abs(total)

    small, middle, large = work(1.0), work(3.0), work(6.0)
    assert small > 0.01  # eV: E·Z* is no slope in a cell of 6 Å, where the charges change; the energy has no such term
    assert middle < small / 4.0
    assert large == pytest.approx(middle / 4.0, rel=0.05)  # the square of the wave vector


def test_energy_force_and_dipole_of_a_molecule_agree_by_finite_differences() -> None:
    start, step = positions(), 1e-4

    def energy(place: Tensor, field: Tensor) -> float:
        leaf = place.clone().requires_grad_()
        found = result(leaf, OPEN)
        return (
            float(found.energy.detach())
            + field_results(LatentStructure(found, leaf, TRICLINIC, OPEN, EPSILON), field)[0]
        )

    leaf = start.clone().requires_grad_()
    found = result(leaf, OPEN)
    _, pushed, induced = field_results(LatentStructure(found, leaf, TRICLINIC, OPEN, EPSILON), FIELD)
    (slope,) = torch.autograd.grad(found.energy.sum(), leaf)
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        shift = torch.zeros_like(start)
        shift[atom, axis] = step
        numeric = -(energy(start + shift, FIELD) - energy(start - shift, FIELD)) / (2.0 * step)
        assert pushed[atom, axis] - float(slope[atom, axis]) == pytest.approx(numeric, abs=1e-6)
    dipole = latent_results(LatentStructure(found, leaf, TRICLINIC, OPEN, EPSILON))["dipole"] + induced
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        numeric = -(energy(start, FIELD + shift) - energy(start, FIELD - shift)) / (2.0 * step)
        assert dipole[axis] == pytest.approx(numeric, abs=1e-6)


def test_a_field_along_the_dipole_lowers_the_energy_and_pulls_positive_charges_along_it() -> None:
    place = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]], dtype=torch.float64, requires_grad=True)
    charge = torch.tensor([0.5, -0.5], dtype=torch.float64)
    found = LongRangeResult(charge[:1], charge, charge, charge, charge, None, Multipoles(charge), None, None)
    up = torch.tensor([0.0, 0.0, 0.2], dtype=torch.float64)
    energy, forces, _ = field_results(LatentStructure(found, place, TRICLINIC, OPEN, EPSILON), up)
    assert energy == pytest.approx(-0.5 * 0.2)
    np.testing.assert_allclose(forces, [[0.0, 0.0, 0.1], [0.0, 0.0, -0.1]], atol=1e-14)


@BOUNDARIES
def test_field_forces_are_the_field_times_the_born_charges_summed_over_the_first_index(pbc: Tensor) -> None:
    place = positions().requires_grad_()
    found, batch = result(place, pbc), torch.zeros(4, dtype=torch.long)
    born = born_effective_charges(place, TRICLINIC, pbc, batch, found.charge, found.dipole, epsilon=1.5)
    assert (born - born.transpose(1, 2)).abs().max() > 0.01  # the two indices are told apart
    for field in (FIELD, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)):
        direct = field_forces(place, TRICLINIC, pbc, batch, found.charge, field, found.dipole, epsilon=1.5)
        torch.testing.assert_close(direct, torch.einsum("a,nab->nb", field, born), rtol=1e-11, atol=1e-11)


def test_periodic_forces_are_born_charges_times_field_plus_the_slope_of_the_induced_energy() -> None:
    start, step = positions(), 1e-4

    def induced_energy(place: Tensor) -> float:
        leaf = place.clone().requires_grad_()
        return field_results(LatentStructure(result(leaf, PERIODIC), leaf, TRICLINIC, PERIODIC, EPSILON), FIELD)[0]

    leaf = start.clone().requires_grad_()
    found = result(leaf, PERIODIC)
    _, forces, induced = field_results(LatentStructure(found, leaf, TRICLINIC, PERIODIC, EPSILON), FIELD)
    born = born_results(LatentStructure(found, leaf, TRICLINIC, PERIODIC, EPSILON))
    explicit = forces - np.einsum("a,nab->nb", FIELD.numpy(), born)
    for atom, axis in ((0, 0), (2, 1), (3, 2)):
        shift = torch.zeros_like(start)
        shift[atom, axis] = step
        numeric = -(induced_energy(start + shift) - induced_energy(start - shift)) / (2.0 * step)
        assert explicit[atom, axis] == pytest.approx(numeric, abs=1e-6)
    assert np.abs(explicit).max() > 1e-6
    alpha = latent_results(LatentStructure(found, leaf, TRICLINIC, PERIODIC, EPSILON))["polarizability"]
    np.testing.assert_allclose(induced, alpha @ FIELD.numpy(), atol=1e-12)


def test_the_born_charge_times_a_displacement_is_the_change_of_the_dipole_with_its_sign() -> None:
    start, step = positions(), 1e-5
    batch, moved = torch.zeros(4, dtype=torch.long), torch.randn(4, 3, generator=torch.Generator().manual_seed(5))

    def moment(place: Tensor) -> Tensor:
        found = result(place, OPEN)
        return polarization(place, batch, found.charge - found.charge.mean(), found.dipole)[0].detach()

    leaf = start.clone().requires_grad_()
    found = result(leaf, OPEN)
    born = born_effective_charges(leaf, TRICLINIC, OPEN, batch, found.charge, found.dipole)
    numeric = (moment(start + step * moved.double()) - moment(start - step * moved.double())) / (2.0 * step)
    torch.testing.assert_close(torch.einsum("nab,nb->a", born, moved.double()), numeric, rtol=1e-7, atol=1e-8)
    transposed = torch.einsum("nba,nb->a", born, moved.double())
    assert (transposed - numeric).abs().max() > 0.01


def test_a_field_that_cannot_be_raises_an_error() -> None:
    class Bare(LongRangeCalculator):
        has_long_range = False

        def reset(self) -> None:
            pass

    with pytest.raises(ConfigError, match="three finite numbers in V/Å"):
        Bare().external_field = [1.0, 2.0]
    with pytest.raises(ConfigError, match="three finite numbers in V/Å"):
        Bare().external_field = [1.0, 2.0, float("nan")]
    with pytest.raises(HostError, match="no long-range part that a field could act on"):
        Bare().external_field = [0.0, 0.0, 1.0]
