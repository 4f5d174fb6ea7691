"""Dipole, Born effective charges, energy and forces in a field: of charges with the true total (theory 5.2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_external_field import BOUNDARIES, EPSILON, FIELD, OPEN, PERIODIC, SLAB, TRICLINIC, moments, positions, result
from torch import Tensor

from les_plugins.electrostatics.lattice import open_directions
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.observables import charge_of_total
from les_plugins.hosting.calculator import LatentStructure, born_results, field_results, latent_results
from les_plugins.model.long_range import LongRangeResult

#: e, what the heads say, and what is true.
NET = 0.7
TOTALS = pytest.mark.parametrize("total", [None, 0.0, 1.0, -2.0])


def given(total: float | None) -> Tensor | None:
    return None if total is None else torch.tensor([total], dtype=torch.float64)


def physical(place: Tensor, pbc: Tensor, total: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Dipole, Z*, and forces and energy of the field along open directions."""
    leaf, charge = place.clone().requires_grad_(), given(total)
    found, field = result(leaf, pbc, NET), open_directions(TRICLINIC, pbc)[0] @ FIELD
    dipole = latent_results(LatentStructure(found, leaf, TRICLINIC, pbc, EPSILON, total_charge=charge))["dipole"]
    born = born_results(LatentStructure(found, leaf, TRICLINIC, pbc, EPSILON, total_charge=charge))
    energy, forces, _ = field_results(LatentStructure(found, leaf, TRICLINIC, pbc, EPSILON, total_charge=charge), field)
    return dipole, born, forces, energy


def along(pbc: Tensor) -> np.ndarray:
    """Projector on the directions along which a structure is open."""
    matrix: np.ndarray = open_directions(TRICLINIC, pbc)[0].numpy()
    return matrix


@TOTALS
@pytest.mark.parametrize("pbc", [OPEN, SLAB], ids=["open", "slab"])
def test_dipole_born_charges_and_forces_agree_by_finite_differences(pbc: Tensor, total: float | None) -> None:
    place, step, charge, projector = positions(), 1e-4, total or 0.0, along(pbc)
    _, born, forces, _ = physical(place, pbc, total)
    # translation: Σ Z* = Q along open directions, and a field pushes the whole with Q E
    np.testing.assert_allclose(projector @ born.sum(0), charge * projector, atol=1e-10)
    np.testing.assert_allclose(projector @ forces.sum(0), charge * projector @ FIELD.numpy(), atol=1e-10)
    for atom, axis in ((0, 0), (1, 1), (3, 2)):
        shift = torch.zeros_like(place)
        shift[atom, axis] = step
        up, down = (physical(place + sign * shift, pbc, total) for sign in (1, -1))
        slope = projector @ (up[0] - down[0]) / (2.0 * step)
        np.testing.assert_allclose(projector @ born[atom, :, axis], slope, atol=1e-6)  # step² times a third derivative
        assert forces[atom, axis] == pytest.approx(-(up[3] - down[3]) / (2.0 * step), abs=1e-6)


@TOTALS
def test_the_dipole_of_a_molecule_moves_with_its_total_charge_only(total: float | None) -> None:
    place, way = positions(), torch.tensor([100.0, -30.0, 7.0], dtype=torch.float64)
    here, there = (physical(place + shift, OPEN, total)[0] for shift in (torch.zeros(3, dtype=torch.float64), way))
    # rounding of places of 100 Å, amplified by the pair sums
    np.testing.assert_allclose(there - here, (total or 0.0) * way.numpy(), atol=1e-9)


@TOTALS
@BOUNDARIES
def test_rigid_charges_have_born_charges_that_add_up_to_the_total(pbc: Tensor, total: float | None) -> None:
    place = positions().requires_grad_()
    charge = moments(place, NET)[0].charge.detach()
    found = LongRangeResult(charge[:1], charge, charge, charge, charge, None, Multipoles(charge), None, None)
    true = charge_of_total(charge, torch.zeros(4, dtype=torch.long), 1, given(total))
    assert float(true.sum()) == pytest.approx(total or 0.0, abs=1e-14)
    scale = np.sqrt(EPSILON) if pbc is PERIODIC else 1.0
    born = born_results(LatentStructure(found, place, TRICLINIC, pbc, EPSILON, total_charge=given(total)))
    expected = scale * true.numpy()[:, None, None] * np.eye(3)
    np.testing.assert_allclose(born, expected, atol=1e-12)
    forces = field_results(LatentStructure(found, place, TRICLINIC, pbc, EPSILON, total_charge=given(total)), FIELD)[1]
    np.testing.assert_allclose(forces, np.einsum("a,nab->nb", FIELD.numpy(), expected), atol=1e-12)
    physical = latent_results(LatentStructure(found, place, TRICLINIC, pbc, EPSILON, total_charge=given(total)))
    np.testing.assert_allclose(physical["charges"], scale * true.numpy(), atol=1e-14)
    np.testing.assert_allclose(physical["dipole"], physical["charges"] @ place.detach().numpy(), atol=1e-12)
