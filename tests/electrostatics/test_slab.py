"""Slabs, periodic along two axes, against closed forms, brute force, clusters of charges and charged plates."""

import math

import numpy as np
import pytest
import torch
from scipy.special import erf, erfc

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.electrostatics import slab
from les_plugins.errors import GeometryError
from les_plugins.units import COULOMB_CONSTANT

CONVERGED = {"dl": 0.8}  # what the cutoff leaves out is then below 1e-10 of the energy
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}
OPEN_AXIS = pytest.mark.parametrize("axis", [0, 1, 2])


def one_slab(make_system, **settings):
    """Open along the second axis; its third vector is triclinic and means nothing."""
    return make_system(periodic="slab", **settings)


def layer(system, charge, positions, external_field=None, **settings):
    return LatentElectrostatics(**settings)(
        positions,
        system.cell,
        system.pbc,
        torch.zeros(len(positions), dtype=torch.long),
        Multipoles(charge),
        external_field=external_field,
    )


def in_plane_sum(positions, plane, charge, sigma, reach=14):
    """Potential at every atom of smeared charges in two periodic directions, all images, its own included (numpy).

    In-plane wave h: (π k_e/(A h)) Σ± exp(±h z) erfc((h σ ± z/σ)/√2); h = 0: −(2π k_e/A) of the smeared |z|.
    """
    normal = np.cross(*plane)
    area = np.linalg.norm(normal)
    normal /= area
    dual = 2.0 * np.pi * np.linalg.pinv(plane).T
    separation = positions[:, None] - positions[None]
    z = separation @ normal
    width = math.sqrt(2.0) * sigma
    total = -2.0 * (z * erf(z / width) + sigma * math.sqrt(2.0 / np.pi) * np.exp(-((z / width) ** 2)))
    for first in range(-reach, reach + 1):
        for second in range(-reach, reach + 1):
            if first or second:
                wave = first * dual[0] + second * dual[1]
                h = np.linalg.norm(wave)
                both = sum(np.exp(s * h * z) * erfc(h * sigma / math.sqrt(2.0) + s * z / width) for s in (1, -1))
                total += np.cos(separation @ wave) * both / h
    return COULOMB_CONSTANT * np.pi / area * (total @ charge)


@pytest.mark.parametrize("net", [0.0, 0.7], ids=["neutral", "charged"])
def test_charges_have_the_potential_of_the_closed_form_in_two_dimensions(net, make_system, solve):
    system = one_slab(make_system, order=0, response=None)
    system = system._replace(charge=system.charge + net / 5)
    result = solve(system, remove_self_interaction=False, **CONVERGED)
    plane = system.cell[0, [2, 0]].numpy()
    expected = in_plane_sum(system.positions.numpy(), plane, system.charge.numpy(), sigma=1.0)
    # 4e-12 is what dl leaves out; the reference is exact to rounding
    np.testing.assert_allclose(result.potential, expected, rtol=0, atol=1e-9)
    assert float(result.energy[0]) == pytest.approx(0.5 * float(system.charge.numpy() @ expected), abs=1e-9)


def test_multipoles_are_limits_of_clusters_of_charges(make_system, solve):
    system = one_slab(make_system, response=None)
    system = system._replace(charge=system.charge + 0.1)  # net charge and all moments see each other
    whole = solve(system, remove_self_interaction=False, **CONVERGED).energy[0]

    def of_clusters(d):
        """(q + u·∇ + ½ Q:∇∇) by central differences of step d."""
        unit = torch.eye(3, dtype=torch.float64)
        corners = [s * (unit[a] + t * unit[b]) for a, b in ((0, 1), (0, 2), (1, 2)) for s in (1, -1) for t in (1, -1)]
        steps = d * torch.cat([torch.zeros(1, 3), unit, -unit, torch.stack(corners)])
        charge = torch.zeros(5, len(steps), dtype=torch.float64)
        diagonal = system.quadrupole.diagonal(dim1=1, dim2=2)
        charge[:, 0] = system.charge - diagonal.sum(1) / d**2
        charge[:, 1:4] = 0.5 * diagonal / d**2 + 0.5 * system.dipole / d
        charge[:, 4:7] = 0.5 * diagonal / d**2 - 0.5 * system.dipole / d
        for pair, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
            cross = system.quadrupole[:, a, b] / (4.0 * d**2)
            charge[:, 7 + 4 * pair : 11 + 4 * pair] = cross[:, None] * torch.tensor([1.0, -1.0, 1.0, -1.0])
        places = (system.positions[:, None] + steps).flatten(0, 1)
        return layer(system, charge.flatten(), places, remove_self_interaction=False, **CONVERGED).energy[0]

    d = 0.04
    extrapolated = (4.0 * of_clusters(0.5 * d) - of_clusters(d)) / 3.0
    # the differences' error of order d² is extrapolated away, that of order d⁴ = 3e-6 is left
    assert float(extrapolated) == pytest.approx(float(whole), rel=1e-5)
    assert float(of_clusters(d)) != pytest.approx(float(whole), rel=1e-5)


def test_large_vacuum_with_the_dipole_correction_converges_to_the_slab(make_system, solve):
    system = one_slab(make_system)
    normal = torch.linalg.cross(system.cell[0, 2], system.cell[0, 0])
    normal = normal / normal.norm()
    errors = []
    for length in (12.0, 20.0):
        cell = system.cell.clone()
        cell[0, 1] = length * normal
        periodic = solve(system._replace(cell=cell, pbc=torch.ones(1, 3, dtype=torch.bool)), response=None, **CONVERGED)
        moment = (system.charge[:, None] * system.positions + system.dipole).sum(0) @ normal  # neutral
        correction = 2.0 * math.pi * COULOMB_CONSTANT * moment**2 / torch.linalg.det(cell[0]).abs()
        errors.append(abs(float(periodic.energy[0] + correction - solve(system, response=None, **CONVERGED).energy[0])))
    # copies fade as exp(−2π gap/period): period 6 Å, gaps of 6 and 14 Å
    assert errors[0] > 1e-5
    assert errors[1] < 1e-6


def test_potential_of_a_patch_of_an_open_layer_converges_to_the_slab(solve, make_system):
    # a flat checkerboard of quadrupoles: neutral, no dipole, what is beyond R adds 1/R
    cell = torch.diag(torch.tensor([4.0, 4.0, 1.0], dtype=torch.float64))
    basis = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.1], [0.0, 0.0, -1.1]], dtype=torch.float64)
    charge = torch.tensor([1.0, -0.5, -0.5], dtype=torch.float64)
    batch = torch.zeros(3, dtype=torch.long)
    flags = torch.tensor([[True, True, False]])
    whole = LatentElectrostatics(**CONVERGED)(basis, cell[None], flags, batch, Multipoles(charge)).potential
    errors = []
    for reach in (4, 8):
        index = torch.cartesian_prod(torch.arange(-reach, reach + 1), torch.arange(-reach, reach + 1)).double()
        index = index[torch.argsort(index.square().sum(1))]
        index = index[index.square().sum(1) <= reach**2]
        places = (index @ cell[:2])[:, None] + basis
        patch = LatentElectrostatics()(
            places.flatten(0, 1),
            torch.zeros(1, 3, 3, dtype=torch.float64),
            torch.zeros(1, 3, dtype=torch.bool),
            torch.zeros(3 * len(index), dtype=torch.long),
            Multipoles(charge.repeat(len(index))),
        ).potential[:3]
        difference = patch - whole
        errors.append(float((difference - difference.mean()).abs().max()))
    assert errors[1] < 2e-3
    assert errors[1] < 0.3 * errors[0]  # differences of the potential inside fall as 1/R³ and are 1/8 but for the edge


@OPEN_AXIS
def test_every_axis_can_be_the_open_one(axis, make_system, solve_with_forces):
    system = one_slab(make_system)
    reference, forces = solve_with_forces(system)
    order = [(axis + 2) % 3, axis, (axis + 1) % 3]  # the second row goes to `axis`
    cell = torch.empty_like(system.cell)
    cell[:, order] = system.cell
    pbc = torch.tensor([[row != axis for row in range(3)]])
    other, same = solve_with_forces(system._replace(cell=cell, pbc=pbc))
    torch.testing.assert_close(other.atomic_energy, reference.atomic_energy, **ROUNDING)
    torch.testing.assert_close(same, forces, **ROUNDING)


@pytest.mark.parametrize("third", [0.0, math.nan, 1e3])
def test_the_vector_of_the_open_axis_is_not_read_and_has_no_gradient(third, make_system, solve):
    system = one_slab(make_system)
    cell = system.cell.clone()
    cell[0, 1] = third
    cell.requires_grad_()
    result = solve(system._replace(cell=cell))
    torch.testing.assert_close(result.atomic_energy, solve(system).atomic_energy, **ROUNDING)
    (gradient,) = torch.autograd.grad(result.energy.sum(), cell)
    assert gradient[0, 1].tolist() == [0.0, 0.0, 0.0]
    assert gradient[0, [0, 2]].abs().min() > 1e-6


def test_energy_does_not_depend_on_the_length_of_the_cell_that_it_is_summed_in(make_system, solve, monkeypatch):
    system = one_slab(make_system)
    system = system._replace(charge=system.charge + 0.1)
    energies, coarse = [], []
    for gap in (9.0, 13.0, 21.0):
        monkeypatch.setattr(slab, "GAP_IN_SIGMA", gap)
        energies.append(float(solve(system, **CONVERGED).energy[0]))
        coarse.append(float(solve(system).energy[0]))
    assert np.ptp(energies) < 1e-9 * abs(energies[0])  # exact but for waves of the copies of 1e-11
    assert np.ptp(coarse) < 2e-5  # the default dl leaves out some µeV an atom, in crystals too (theory, section 2.3)


def test_atoms_far_apart_along_the_normal_are_not_wrapped(make_system, solve):
    system = one_slab(make_system, response=None)
    normal = torch.linalg.cross(system.cell[0, 2], system.cell[0, 0])
    normal = normal / normal.norm()
    far = system.positions.clone()
    far[0] += 40.0 * normal
    result = solve(system._replace(positions=far), **CONVERGED)
    further = far.clone()
    further[0] += 7.0 * normal
    # a charge q above a layer of charge −q: the constant force 2π k_e q²/A between them
    expected = 2.0 * math.pi * COULOMB_CONSTANT * float(system.charge[0]) ** 2 * 7.0
    expected /= float(torch.linalg.cross(system.cell[0, 2], system.cell[0, 0]).norm())
    rise = solve(system._replace(positions=further), **CONVERGED).energy - result.energy
    assert float(rise[0]) == pytest.approx(expected, rel=1e-8)


def test_images_along_the_periodic_vectors_and_supercells_change_nothing(make_system, solve):
    system = one_slab(make_system)
    one = solve(system, **CONVERGED)
    moved = system.positions + torch.tensor([[2.0], [-1.0], [0.0], [5.0], [1.0]]).double() * system.cell[0, 0]
    torch.testing.assert_close(
        solve(system._replace(positions=moved), **CONVERGED).potential, one.potential, **ROUNDING
    )
    double = system.select(torch.arange(5).repeat(2))
    cell = system.cell.clone()
    cell[0, 2] *= 2.0
    places = torch.cat([system.positions, system.positions + system.cell[0, 2]])
    twice = solve(double._replace(positions=places, cell=cell), **CONVERGED)
    torch.testing.assert_close(twice.energy, 2.0 * one.energy, rtol=1e-9, atol=0.0)  # copies: waves left out differ


def test_two_charged_plates_make_a_field_between_them_and_none_outside():
    spacing, distance, charge = 1.5, 6.0, 0.04
    places = torch.tensor(
        [[0.0, 0.0, 0.0], [0.0, 0.0, distance], [0.3, 0.7, -9.0], [0.3, 0.7, -5.0], [0.3, 0.7, 2.5], [0.3, 0.7, 3.5],
         [0.3, 0.7, 15.0]], dtype=torch.float64,
    )  # fmt: skip
    charges = torch.tensor([charge, -charge, 0, 0, 0, 0, 0], dtype=torch.float64)
    cell = torch.diag(torch.tensor([spacing, spacing, 0.0], dtype=torch.float64))[None]
    result = LatentElectrostatics(**CONVERGED)(
        places, cell, torch.tensor([[True, True, False]]), torch.zeros(7, dtype=torch.long), Multipoles(charges)
    )
    density = charge / spacing**2
    # probes 9 Å from the plates, which are smeared by 1 Å
    between = 4.0 * math.pi * COULOMB_CONSTANT * density
    below, above = result.potential[2], result.potential[6]
    assert float(below - above) == pytest.approx(between * distance, rel=1e-9)
    # 2.5 Å from the smeared plates: 2.5 standard deviations of the Gaussian
    assert float(result.field[4, 2]) == pytest.approx(between, rel=0.02)
    assert float(result.potential[4] - result.potential[5]) == pytest.approx(between, rel=0.01)
    assert result.field[[2, 6]].abs().max() < 1e-9 * between


def test_stress_is_the_central_difference_of_the_energy_of_a_strained_plane(make_system, solve):
    system = one_slab(make_system)

    def energy(strain):
        deform = torch.eye(3, dtype=torch.float64) + strain
        strained = system._replace(positions=system.positions @ deform, cell=system.cell @ deform)
        return solve(strained, **CONVERGED).energy.sum()

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (virial,) = torch.autograd.grad(energy(strain), strain)
    step, numeric = 1e-4, torch.zeros(3, 3, dtype=torch.float64)
    for a in range(3):
        for b in range(3):
            shift = torch.zeros(3, 3, dtype=torch.float64)
            shift[a, b] = step
            numeric[a, b] = (energy(shift) - energy(-shift)) / (2.0 * step)
    assert (virial - numeric).abs().max() < 1e-6 * virial.abs().max()  # theory, section 12


@pytest.mark.parametrize("bad", ["parallel", "zero", "nan"])
def test_periodic_vectors_that_span_no_plane_are_refused(bad, make_system, solve):
    system = one_slab(make_system)
    cell = system.cell.clone()
    cell[0, 2] = {"parallel": -2.0 * cell[0, 0], "zero": 0.0 * cell[0, 0], "nan": math.nan * cell[0, 0]}[bad]
    with pytest.raises(GeometryError, match=r"periodic vectors .* of a slab, pbc \[True, False, True\], span an area"):
        solve(system._replace(cell=cell))


def test_a_slab_on_the_mesh_has_the_forces_of_the_direct_sum_to_the_tolerance(make_system, solve_with_forces):
    system = one_slab(make_system, n_atoms=20, size=9.0)
    direct, forces = solve_with_forces(system, method="direct")
    mesh, same = solve_with_forces(system, method="mesh")
    assert (same - forces).norm() < 1e-5 * forces.norm()  # the mesh's own, relative to the root mean square force
    torch.testing.assert_close(mesh.energy, direct.energy, rtol=1e-5, atol=0.0)  # likewise
