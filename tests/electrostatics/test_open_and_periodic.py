"""The two boundaries check each other: a neutral cluster in a growing periodic box becomes the open cluster.

With tinfoil boundaries a neutral cluster of total dipole M in a cubic box of volume V differs from the open one by
−C |M|²/(3 V) in the energy (Makov and Payne, Phys. Rev. B 51, 4014 (1995)) and by a constant of order 1/V in the
potential; everything else falls as 1/L⁵ or faster. So M = 0 converges at once, and M ≠ 0 after that term is added; with
charge response, which sees the constant, after extrapolating 1/V from two boxes.
"""

import pytest
import torch

from les_plugins.units import RECIPROCAL_PREFACTOR

EDGE = 36.0  # Å: the 1/L⁵ terms are below 5e-5 eV
RESOLUTION = 1.0  # Å: truncation below 1e-6 eV


def cluster(make_system, response, seed=0):
    """Five neutral atoms within 2 Å of the middle."""
    system = make_system(n_atoms=5, periodic=False, response=response, seed=seed)
    spread = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
    return system._replace(positions=0.8 * spread)


def in_box(system, edge):
    return system._replace(cell=edge * torch.eye(3, dtype=torch.float64)[None], pbc=torch.ones(1, 3, dtype=torch.bool))


def total_dipole(system):
    return system.charge @ system.positions + system.dipole.sum(0)


@pytest.mark.parametrize("seed", [0, 1])
def test_cluster_without_dipole_in_a_large_box_equals_the_open_one(seed, make_system, solve_with_forces):
    system = cluster(make_system, None, seed)
    system = system._replace(dipole=system.dipole - total_dipole(system) / 5.0)
    assert total_dipole(system).abs().max() < 1e-12
    result, forces = solve_with_forces(in_box(system, EDGE), dl=RESOLUTION)
    expected, expected_forces = solve_with_forces(system)
    # 1e-4: the tolerance of section 12 of the theory
    torch.testing.assert_close(result.energy, expected.energy, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(forces, expected_forces, rtol=1e-4, atol=1e-4 * float(expected_forces.abs().max()))
    torch.testing.assert_close(result.field, expected.field, rtol=1e-3, atol=1e-4 * float(expected.field.abs().max()))


@pytest.mark.parametrize("seed", [0, 1])
def test_dipole_of_the_cluster_costs_the_makov_payne_energy(seed, make_system, solve):
    system = cluster(make_system, None, seed)
    periodic = solve(in_box(system, EDGE), dl=RESOLUTION).energy[0]
    missing = RECIPROCAL_PREFACTOR * total_dipole(system).square().sum() / (3.0 * EDGE**3)
    expected = float(solve(system).energy[0])
    left = abs(float(periodic + missing) - expected)
    assert left < 1e-4 * abs(expected)  # theory, section 12
    assert left < 0.05 * float(missing)  # (2 Å / L)² relative to the term itself


def test_error_of_a_dipolar_cluster_falls_with_the_volume(make_system, solve):
    system = cluster(make_system, None)
    expected = solve(system).energy[0]
    errors = [solve(in_box(system, edge), dl=RESOLUTION).energy[0] - expected for edge in (14.0, 28.0)]
    assert float(errors[0] / errors[1]) == pytest.approx(8.0, rel=0.05)  # 1/V; 1/L⁵ terms are a percent at 14 Å


@pytest.mark.parametrize("response", ["isotropic", "anisotropic"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_response_extrapolated_in_the_volume_equals_the_open_one(order, response, make_system, solve):
    system = cluster(make_system, response)
    system = system._replace(
        dipole=system.dipole if order > 0 else None, quadrupole=system.quadrupole if order == 2 else None
    )
    expected = solve(system)
    volumes = [30.0**3, 45.0**3]
    small, large = (solve(in_box(system, volume ** (1.0 / 3.0)), dl=RESOLUTION) for volume in volumes)
    for name in ("atomic_energy", "potential", "field", "charge", "dipole"):
        one, two, open_value = (getattr(result, name) for result in (small, large, expected))
        extrapolated = (volumes[1] * two - volumes[0] * one) / (volumes[1] - volumes[0])
        # 1/V² and 1/L⁵ remain: a few 1e-5 of the largest entry; 1e-4 is the tolerance of section 12 of the theory
        torch.testing.assert_close(extrapolated, open_value, rtol=0.0, atol=1e-4 * float(open_value.abs().max()))
    left = volumes[1] * large.energy - volumes[0] * small.energy - (volumes[1] - volumes[0]) * expected.energy
    # relative to the parts that the energy is a difference of
    assert float(left.abs()) < 1e-4 * (volumes[1] - volumes[0]) * float(expected.atomic_energy.abs().sum())
