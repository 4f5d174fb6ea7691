"""Polarization, Z* and currents of charge that only moves between neighbours (theory, section 8.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from transfers import ELEMENT, EPSILON, crystal, evaluated, model

from les_plugins import LatentElectrostatics
from les_plugins.electrostatics.flow import Transfers
from les_plugins.electrostatics.long_waves import long_waves
from les_plugins.electrostatics.observables import Current, born_effective_charges, sum_rule_violation
from les_plugins.model.carriers import carriers_of
from les_plugins.model.physical import (
    LatentStructure,
    born_results,
    current_of,
    field_results,
    latent_results,
    long_wave_results,
    one_shot_response,
)

FIELD = torch.tensor([0.03, -0.02, 0.05], dtype=torch.float64)


def dipole(atoms: Atoms, **options: Any) -> np.ndarray:
    moment: np.ndarray = latent_results(evaluated(atoms, **options))["dipole"]
    return moment


BOUNDARIES = pytest.mark.parametrize("pbc", [True, [True, True, False], False], ids=["periodic", "slab", "open"])


@BOUNDARIES
@pytest.mark.parametrize("solve", ["one_shot", "self_consistent"])
def test_born_charges_are_the_derivative_of_the_polarization(pbc: Any, solve: str) -> None:
    atoms, step = crystal(pbc=pbc), 1e-4
    born = born_results(evaluated(atoms, solve=solve))
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        moved = [atoms.copy(), atoms.copy()]
        for frame, sign in zip(moved, (-1, 1), strict=True):
            frame.positions[atom, axis] += sign * step
        difference = (dipole(moved[1], solve=solve) - dipole(moved[0], solve=solve)) / (2 * step)
        # step² times the third derivative of P, and the iterations' tolerance over the step
        np.testing.assert_allclose(born[atom, :, axis], difference, rtol=0, atol=1e-6)


@BOUNDARIES
def test_the_acoustic_sum_rule_holds_to_rounding(pbc: Any) -> None:
    born = born_results(evaluated(crystal(pbc=pbc)))
    assert np.abs(born).max() > 0.5
    assert np.abs(born.sum(0)).max() < 1e-12  # every term depends on differences of positions alone


def test_born_charges_do_not_depend_on_which_cell_of_a_crystal_was_given() -> None:
    born = born_results(evaluated(crystal()))
    for repeat in ((2, 1, 1), (1, 2, 2), (3, 1, 1)):
        found = born_results(evaluated(crystal(repeat)))
        # rounding of sums over more waves
        np.testing.assert_allclose(found, np.tile(born, (len(found) // len(born), 1, 1)), rtol=0, atol=1e-10)


def test_phases_and_long_waves_approach_them_as_the_cell_grows() -> None:
    """Phases with the second order of the smallest wave vector, long waves with the fourth."""
    along = np.linalg.inv(crystal().cell.array)[:, 0]  # the polarization along the axis that grows
    exact = np.einsum("a,nab->nb", along, born_results(evaluated(crystal())))
    deviations = []
    for number in (2, 4):
        found = evaluated(crystal((number, 1, 1)))
        places = (found.positions, found.cell, found.pbc, found.batch)
        latent, screening = found.latent, float(found.screening)
        phases = born_effective_charges(*places, latent.charge, latent.dipole, screening)
        # of charges alone: dipoles have their part at k = 0 in both, and no field of the wave induced them
        waves = long_waves(found.positions, found.cell[0], latent.charge, latent.dipole, epsilon=screening).born
        rows = [np.einsum("a,nab->nb", along, each[:4].numpy()) for each in (phases, waves)]
        deviations.append([np.abs(row - exact).max() for row in rows])
    assert deviations[0][0] / deviations[1][0] == pytest.approx(4.0, rel=0.2)
    assert deviations[0][1] / deviations[1][1] == pytest.approx(16.0, rel=0.3)
    assert deviations[1][1] < 1e-3


def test_an_open_structure_has_the_polarization_and_born_charges_of_its_charges() -> None:
    """Of charges with places there is nothing to choose: Σ e r + Σ t d is Σ q r."""
    structure = evaluated(crystal(pbc=False))
    latent = structure.latent
    places = (structure.positions, structure.cell, structure.pbc, structure.batch)
    expected = born_effective_charges(*places, latent.charge, latent.dipole)
    assert structure.carriers.is_fixed
    np.testing.assert_allclose(born_results(structure), expected.numpy(), rtol=0, atol=1e-12)
    moment = latent.charge @ structure.positions + latent.dipole.sum(0)
    np.testing.assert_allclose(latent_results(structure)["dipole"], moment.detach().numpy(), rtol=0, atol=1e-12)


@BOUNDARIES
@pytest.mark.parametrize("total", [None, 0.7], ids=["neutral", "charged"])
def test_charges_of_elements_that_do_not_add_up_get_the_total_charge(pbc: Any, total: float | None) -> None:
    """Each atom loses the same constant, which does not depend on the positions: the charges stay fixed."""
    structure = evaluated(crystal(pbc=pbc), total, shift=0.05)
    assert structure.carriers.is_fixed
    born, root = born_results(structure), float(structure.screening.sqrt())
    np.testing.assert_allclose(born.sum(0), root * (total or 0.0) * np.eye(3), rtol=0, atol=1e-12)
    if total is None:
        np.testing.assert_allclose(born, born_results(evaluated(crystal(pbc=pbc), shift=0.05)), rtol=0, atol=1e-12)
    assert latent_results(structure)["charges"].sum() == pytest.approx(root * (total or 0.0), abs=1e-12)


def test_another_image_of_an_atom_moves_the_polarization_by_its_charge_of_element() -> None:
    atoms = crystal()
    there = atoms.copy()
    there.positions[1] += there.cell.array[0] - 2.0 * there.cell.array[2]
    root = float(evaluated(atoms).screening.sqrt())
    jump = root * ELEMENT[17] * (atoms.cell.array[0] - 2.0 * atoms.cell.array[2])
    np.testing.assert_allclose(dipole(there) - dipole(atoms), jump, rtol=0, atol=1e-11)


@BOUNDARIES
@pytest.mark.parametrize("solve", ["one_shot", "self_consistent"])
def test_a_current_is_the_born_charges_times_the_velocities(pbc: Any, solve: str) -> None:
    """After the energy has been differentiated too, as hosts do, which frees the graph that both came from."""
    structure = evaluated(crystal(pbc=pbc), solve=solve)
    velocities = np.random.default_rng(0).normal(size=(4, 3))
    born = born_results(structure)
    current = current_of(structure)
    assert current is not None
    torch.autograd.grad(structure.latent.energy.sum(), structure.positions)
    found = current(torch.tensor(velocities))[0].numpy()
    # the self-consistent equations are solved again for the second derivative, to their tolerance
    np.testing.assert_allclose(found, np.einsum("nab,nb->a", born, velocities), rtol=0, atol=1e-8)


def test_currents_of_structures_of_a_batch_are_their_own() -> None:
    frames = [crystal(), crystal((2, 1, 1))]
    separate, charges, moments, leaves = [], [], [], []
    for atoms in frames:
        structure = evaluated(atoms)
        velocities = torch.tensor(np.random.default_rng(len(atoms)).normal(size=(len(atoms), 3)))
        current = current_of(structure)
        assert current is not None
        separate.append(current(velocities)[0])
    leaf = torch.tensor(np.concatenate([atoms.positions for atoms in frames]), requires_grad=True)
    batch = torch.tensor([0] * 4 + [1] * 8)
    for number, atoms in enumerate(frames):
        latent = model(atoms, leaf[batch == number], LatentElectrostatics(response="one_shot"))
        carriers = carriers_of(latent, torch.zeros(len(atoms), dtype=torch.long), 1)
        charges.append(carriers.charge)
        moments.append(carriers.moment)
        leaves.append(torch.tensor(np.random.default_rng(len(atoms)).normal(size=(len(atoms), 3))))
    together = carriers._replace(charge=torch.cat(charges), moment=torch.cat(moments))
    epsilon = evaluated(frames[0]).screening.expand(2)
    found = Current(together, leaf, batch, epsilon)(torch.cat(leaves))
    torch.testing.assert_close(found, torch.stack(separate), rtol=0, atol=1e-11)


def test_forces_of_a_field_in_a_crystal_are_the_field_times_the_born_charges() -> None:
    weak = 1e-6 * FIELD  # the energy of second order is not seen
    forces = field_results(evaluated(crystal()), weak)[1]
    expected = np.einsum("a,nab->nb", weak.numpy(), born_results(evaluated(crystal())))
    np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-11)


def test_the_work_of_a_field_in_a_crystal_is_the_field_times_the_change_of_polarization() -> None:
    """U(E) = U(0) − E·ΔP − ½ E·α·E along a path: the forces' work by the trapezoid rule, P by its ends."""
    start, steps = crystal(), 20
    way = 0.6 * np.random.default_rng(5).normal(size=(4, 3))
    way[1] += start.cell.array[0]  # one ion through the boundary of the cell, positions unwrapped
    frames = []
    for part in np.linspace(0.0, 1.0, steps + 1):
        frames.append(start.copy())
        frames[-1].positions += part * way
    found = [field_results(evaluated(atoms), FIELD) for atoms in frames]
    power = np.array([(forces * way).sum() for _, forces, _ in found])
    work = 0.5 * (power[1:] + power[:-1]).sum() / steps
    booked = FIELD.numpy() @ (dipole(frames[-1]) - dipole(frames[0])) - (found[-1][0] - found[0][0])
    assert abs(work) > 0.05
    assert work == pytest.approx(booked, rel=1e-2)  # of the trapezoid rule with 20 steps


def test_long_wave_born_charges_of_transfers_are_the_born_charges() -> None:
    structure = evaluated(crystal(), solve="self_consistent")
    # no wave is looked at: the response need not be one that can be taken out of it
    found = long_wave_results(structure, torch.nn.Identity(), {"long_wave_born_charges"})
    np.testing.assert_array_equal(found["long_wave_born_charges"], born_results(structure))
    assert one_shot_response(torch.nn.Identity(), structure.latent._replace(polarizability=None)) is None


def test_charge_that_flows_on_pairs_is_a_moment_as_transfers_are() -> None:
    structure = evaluated(crystal())
    latent = structure.latent
    assert latent.transfers is not None
    flow = Transfers(*latent.transfers[:3], 0.1 * latent.transfers.vector[:, 0])
    flowed = latent._replace(charge=latent.charge + flow.charges(4), flow=flow)
    with_transfers = carriers_of(flowed, structure.batch, 1)
    assert with_transfers.is_fixed
    added = with_transfers.total(structure.positions, structure.batch, 1) - structure.carriers.total(
        structure.positions, structure.batch, 1
    )
    torch.testing.assert_close(added[0], flow.moments(4).sum(0), rtol=0, atol=1e-12)
    free = carriers_of(flowed._replace(transfers=None), structure.batch, 1)
    assert not free.is_fixed
    torch.testing.assert_close(free.charge, latent.charge - latent.charge.mean(), rtol=0, atol=1e-12)
    assert free.moment is not None
    torch.testing.assert_close(free.moment, latent.dipole + flow.moments(4), rtol=0, atol=1e-12)


def test_charges_that_are_not_those_of_elements_and_transfers_keep_the_phases() -> None:
    structure = evaluated(crystal())
    latent, batch = structure.latent, structure.batch
    changed = latent.charge * torch.tensor([1.0, 1.01, 1.0, 1.0], dtype=torch.float64)
    for other in (
        latent._replace(charge=changed),
        latent._replace(transfers=None),
        latent._replace(softness=torch.full((4,), 0.01, dtype=torch.float64)),
    ):
        assert carriers_of(other, batch, 1).source == "phases"
    assert carriers_of(latent, batch, 1).source == latent_results(structure)["polarization_source"] == "transfers"
    phases = LatentStructure(
        latent._replace(transfers=None), structure.positions, structure.cell, structure.pbc, EPSILON
    )
    assert current_of(phases) is None
    violation = sum_rule_violation(torch.tensor(born_results(phases)), batch)
    assert violation.abs().max() > 1e-4  # what phases give in a small cell
