"""Charges on the mesh against torch-pme, an independent code: its Ewald sum, and its P3M as fine as it goes.

Without neighbours, torch-pme's Coulomb potential of smearing σ is its long-range part alone, which is our smeared
charge without the interaction with itself.
"""

import pytest
import torch

from les_plugins.units import COULOMB_CONSTANT

torchpme = pytest.importorskip("torchpme")


def torchpme_energy_and_forces(calculator, system):
    places = system.positions.clone().requires_grad_()
    none = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=torch.float64)
    potential = calculator.to(torch.float64)(system.charge[:, None], system.cell[0], places, *none)
    energy = (system.charge[:, None] * potential).sum()
    return energy.detach(), -torch.autograd.grad(energy, places)[0]


@pytest.fixture
def charges(make_system):
    return make_system(n_atoms=30, order=0, response=None, size=9.0)


def test_energy_and_forces_agree_with_torchpme_ewald(charges, solve_with_forces):
    result, forces = solve_with_forces(charges, method="mesh", mesh_tolerance=1e-7, dl=1.0)
    potential = torchpme.CoulombPotential(smearing=1.0, prefactor=COULOMB_CONSTANT)
    energy, expected = torchpme_energy_and_forces(torchpme.EwaldCalculator(potential, lr_wavelength=0.5), charges)
    # the tolerance, and exp(−k²/2) = 3e-9 at the cutoff
    assert float(result.energy) == pytest.approx(float(energy), rel=1e-7)
    assert float((forces - expected).norm() / expected.norm()) < 1e-7


def test_energy_and_forces_agree_with_torchpme_p3m(charges, solve_with_forces):
    result, forces = solve_with_forces(charges, method="mesh")
    potential = torchpme.CoulombPotential(smearing=1.0, prefactor=COULOMB_CONSTANT)
    calculator = torchpme.P3MCalculator(potential, mesh_spacing=0.2, interpolation_nodes=5)
    energy, expected = torchpme_energy_and_forces(calculator, charges)
    # its error falls with the square of the spacing whatever the order: 1.2e-3 of the forces at 0.3 Å, 3e-4 at 0.15 Å
    assert float(result.energy) == pytest.approx(float(energy), rel=1e-4)
    assert float((forces - expected).norm() / expected.norm()) < 1e-3
