"""From latent to physical moments: the factor of every property of a calculator (theory, section 8.3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_external_field import BOUNDARIES, EPSILON, OPEN, PERIODIC, TRICLINIC, positions, result
from torch import Tensor

from les_plugins.electrostatics.observables import born_effective_charges, system_polarizability
from les_plugins.hosting.calculator import LatentStructure, born_results, latent_results
from les_plugins.units import VACUUM_PERMITTIVITY

BATCH = torch.zeros(4, dtype=torch.long)
VOLUME = float(torch.linalg.det(TRICLINIC[0]).abs())


def screening(alpha: Tensor, pbc: Tensor) -> float:
    """ε_e from its formula: ε_∞/(1 + χ), χ = Σ α/(ε0 V); one in vacuum."""
    return EPSILON / (1.0 + float(alpha.sum()) / (VACUUM_PERMITTIVITY * VOLUME)) if bool(pbc.all()) else 1.0


@BOUNDARIES
def test_charges_dipole_and_born_charges_carry_the_root_and_polarizability_the_screening_itself(pbc: Tensor) -> None:
    place = positions().requires_grad_()
    found = result(place, pbc)
    epsilon = screening(found.polarizability.detach(), pbc)
    physical = latent_results(LatentStructure(found, place, TRICLINIC, pbc, EPSILON))
    neutral = physical["latent_charges"] - physical["latent_charges"].mean()
    np.testing.assert_allclose(physical["charges"], epsilon**0.5 * neutral, rtol=1e-12, atol=1e-15)
    latent = born_effective_charges(place, TRICLINIC, pbc, BATCH, found.charge, found.dipole)
    born = born_results(LatentStructure(found, place, TRICLINIC, pbc, EPSILON))
    np.testing.assert_allclose(born, epsilon**0.5 * latent.numpy(), rtol=1e-12, atol=1e-14)
    alpha = system_polarizability(place, pbc, BATCH, found.softness, found.polarizability, TRICLINIC)[0].detach()
    np.testing.assert_allclose(physical["polarizability"], epsilon * alpha.numpy(), rtol=1e-12, atol=1e-14)
    assert (epsilon != 1.0) == bool(pbc.all())


def test_the_polarizability_of_a_crystal_is_that_of_its_atoms_and_of_a_molecule_has_the_flow_of_charge() -> None:
    place = positions()
    for pbc in (PERIODIC, OPEN):
        found = result(place, pbc)
        atoms = float(found.polarizability.sum()) * np.eye(3)
        kappa = found.softness.numpy()
        lever = place.numpy() - kappa @ place.numpy() / kappa.sum()
        flow = np.einsum("n,na,nb->ab", kappa, lever, lever)
        assert np.linalg.eigvalsh(flow).min() > 1e-3
        alpha = latent_results(LatentStructure(found, place, TRICLINIC, pbc, EPSILON))["polarizability"]
        expected = screening(found.polarizability, pbc) * (atoms if bool(pbc.all()) else atoms + flow)
        np.testing.assert_allclose(alpha, expected, rtol=1e-12, atol=1e-14)


def test_polarization_and_dielectric_tensor_are_those_of_a_crystal() -> None:
    place = positions()
    found = result(place, PERIODIC)
    crystal = latent_results(LatentStructure(found, place, TRICLINIC, PERIODIC, EPSILON))
    np.testing.assert_allclose(crystal["polarization"], crystal["dipole"] / VOLUME, rtol=1e-12)
    assert np.trace(crystal["dielectric_tensor"]) / 3.0 == pytest.approx(EPSILON, rel=1e-12)
    # ε_∞ = ε_e + α_physical/(ε0 V): the screening and the response of the model's own dipoles
    own = crystal["polarizability"] / (VACUUM_PERMITTIVITY * VOLUME)
    screen = screening(found.polarizability, PERIODIC) * np.eye(3)
    np.testing.assert_allclose(crystal["dielectric_tensor"], screen + own, rtol=1e-12, atol=1e-14)
    molecule = latent_results(LatentStructure(result(place, OPEN), place, TRICLINIC, OPEN, EPSILON))
    assert not {"polarization", "dielectric_tensor"} & set(molecule)
