"""Profiles of slabs whose density, orientation and potential are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.spectra import Moments, interface, moments_of, potential_of_layers
from les_plugins.units import VACUUM_PERMITTIVITY

AREA = 144.0
SLAB = {"cell": [12.0, 12.0, 30.0], "pbc": [True, True, False]}


def water_layers(heights: list[float], up: list[bool], shift: float = 0.0) -> Atoms:
    """Molecules far apart, oxygens at these heights, their dipoles along +z or −z."""
    symbols, positions = "", []
    for number, (z, upward) in enumerate(zip(heights, up, strict=True)):
        place = np.array([4.0 * (number % 3), 4.0 * (number // 3 % 3), z + shift])
        bond = np.array([0.76, 0.0, 0.59 if upward else -0.59])
        symbols += "OHH"
        positions += [place, place + bond, place + bond * np.array([-1.0, 1.0, 1.0])]
    return Atoms(symbols, positions, **SLAB)


def charges(atoms: Atoms) -> Moments:
    charge = np.where(atoms.numbers == 8, -0.8, 0.4)
    return Moments(charge, np.zeros((len(atoms), 3)))


def test_two_charged_sheets_make_the_step_of_a_capacitor() -> None:
    height = np.array([-5.0, 5.0])
    at = np.array([-9.0, -5.0, 0.0, 2.5, 9.0])
    found = potential_of_layers(at, height, np.array([-0.5, 0.5]), np.zeros(2), AREA)
    step = 0.5 * 10.0 / (VACUUM_PERMITTIVITY * AREA)  # σ d / ε0
    np.testing.assert_allclose(found, [0.0, 0.0, 0.5 * step, 0.75 * step, step], atol=1e-12)


def test_a_dipole_layer_makes_a_step_and_counts_by_half_in_it() -> None:
    found = potential_of_layers(np.array([-1.0, 0.0, 1.0]), np.zeros(3), np.zeros(3), np.full(3, 0.2), AREA)
    step = 0.6 / (VACUUM_PERMITTIVITY * AREA)
    np.testing.assert_allclose(found, [0.0, 0.5 * step, step], atol=1e-12)


def test_the_potential_solves_poissons_equation_for_a_smooth_density() -> None:
    """ρ = sin(2πz/L) over one period: V'' = −ρ/ε0 gives (L/2π)² ρ/ε0 and a line from the double layer it is."""
    length, count = 20.0, 40000
    z = (np.arange(count) + 0.5) * length / count
    rho = 0.01 * np.sin(2.0 * np.pi * z / length)
    at = np.linspace(0.5, 19.5, 39)
    found = potential_of_layers(at, z, rho * length / count * AREA, np.zeros(count), AREA)
    wave = 2.0 * np.pi / length
    exact = 0.01 / VACUUM_PERMITTIVITY * (np.sin(wave * at) / wave**2 - at / wave)
    np.testing.assert_allclose(found, exact, atol=1e-6 * np.abs(exact).max())


def test_a_net_charge_is_refused() -> None:
    with pytest.raises(DataError, match="has no zero"):
        potential_of_layers(np.zeros(1), np.zeros(1), np.ones(1), np.zeros(1), AREA)
    with pytest.raises(DataError, match=r"frame 0: the slab carries 3 e"):
        interface([water_layers([0.0], [True])], lambda atoms: Moments(np.ones(3), np.zeros((3, 3))))


def test_a_polar_layer_has_its_cosine_step_and_dipole_density() -> None:
    frames = [water_layers([-4.0, 0.0, 4.0], [True] * 3, shift) for shift in (0.0, 0.3, -0.3, 0.6)]
    found = interface(frames, charges, width=0.5, blocks=2)
    cosine = found.profiles["cosine"].value
    there = np.isfinite(cosine)
    assert there.sum() == 3  # the centre of mass is taken off each frame
    np.testing.assert_allclose(cosine[there], 1.0)
    np.testing.assert_allclose(found.profiles["second Legendre polynomial"].value[there], 1.0)
    moment = 2 * 0.4 * 0.59
    assert found.profiles["dipole density"].value.sum() * 0.5 * AREA == pytest.approx(3 * moment)
    step, error = found.values["potential_step"]
    assert step == pytest.approx(3 * moment / (VACUUM_PERMITTIVITY * AREA))
    assert error == pytest.approx(0.0, abs=1e-12)
    assert found.molecules == 3
    assert (found.frames, found.blocks) == (4, 2)


def test_a_symmetric_slab_has_no_step_and_the_surface_potential_of_its_layers() -> None:
    """Dipoles point outward on both sides: the inside lies below the vacuum by σ_dipole/ε0."""
    frames = [water_layers([-6.0, -1.0, 1.0, 6.0], [False, False, True, True])] * 2
    found = interface(frames, charges, width=0.2, blocks=2)
    assert found.values["potential_step"][0] == pytest.approx(0.0, abs=1e-12)
    moment = 2 * 0.4 * 0.59 / (VACUUM_PERMITTIVITY * AREA)
    of_molecules = found.profiles["potential of molecules"].value
    assert of_molecules[np.abs(found.height) < 0.5] == pytest.approx(-2 * moment)
    cosine = found.profiles["cosine"].value
    np.testing.assert_allclose(cosine, -cosine[::-1], atol=1e-12)


def test_density_adds_up_and_the_thickness_is_that_of_the_middle() -> None:
    random = np.random.default_rng(0)
    positions = random.uniform([0, 0, -10], [120, 120, 10], (20000, 3))
    positions[:, 2] -= positions[:, 2].mean()
    slab = {"cell": [120.0, 120.0, 30.0], "pbc": [True, True, False]}  # as wide as gases are: few pairs are bonds
    area = 100.0 * AREA
    one = Atoms("Ar4000", positions[:4000], **slab)
    frames = [Atoms("Ar4000", part, **slab) for part in positions.reshape(5, 4000, 3)]
    found = interface(frames, width=0.5)
    exact = one.get_masses().sum() / (area * 20.0) * 1.66053907
    assert found.density == pytest.approx(exact, rel=0.02)
    assert found.thickness == pytest.approx(20.0, rel=0.02)
    number = found.profiles["density of Ar"]
    assert number.value.sum() * 0.5 * area == pytest.approx(4000)
    inside = np.abs(found.height) < 8.0
    assert number.error is not None
    off = (number.value - 4000 / (area * 20.0))[inside] / number.error[inside]
    assert 0.4 < np.sqrt((off**2).mean()) < 2.5
    assert not found.values


def test_errors_of_the_cosine_hold_the_truth() -> None:
    """Dipoles of random direction in two layers: cos is zero, and its error that of so many independent ones."""
    random = np.random.default_rng(3)
    places = np.array([[4.0 * (n % 3), 4.0 * (n // 3 % 3), 4.0 if n < 9 else -4.0] for n in range(18)])
    frames = []
    for _ in range(40):
        towards = random.normal(size=(18, 3))
        towards /= np.linalg.norm(towards, axis=1)[:, None]
        frames.append(Atoms("OH" * 18, np.stack([places, places + towards], 1).reshape(-1, 3), **SLAB))
    found = interface(frames, lambda a: Moments(np.where(a.numbers == 8, -0.4, 0.4), np.zeros((36, 3))), width=3.0)
    profile = found.profiles["cosine"]
    there = np.isfinite(profile.value)
    assert there.sum() == 2
    assert profile.error is not None
    expected = 1.0 / np.sqrt(3 * 40 * 9)
    assert (profile.error[there] > 0.3 * expected).all()
    assert (profile.error[there] < 3.0 * expected).all()
    assert (np.abs(profile.value[there]) < 4.0 * expected).all()


def test_quadrupoles_of_a_layer_move_the_inside_and_not_the_vacuum() -> None:
    """A layer of quadrupoles is two opposite double layers: −½ Q/(ε0 A) as a δ function."""
    atoms = water_layers([0.0], [True])
    tensor = np.zeros((3, 3, 3))
    tensor[:] = np.diag([-0.1, -0.1, 0.2])
    quadrupolar = interface([atoms], lambda a: Moments(np.zeros(3), np.zeros((3, 3)), tensor), width=0.5, blocks=1)
    integral = quadrupolar.profiles["potential"].value.sum() * 0.5
    assert integral == pytest.approx(-0.5 * 0.6 / (VACUUM_PERMITTIVITY * AREA))
    assert quadrupolar.values["potential_step"] == (pytest.approx(0.0), None)


def test_the_normal_of_any_axis_and_a_molecule_cut_by_the_boundary() -> None:
    """The same slab along x, its molecules wrapped in the plane."""
    atoms = water_layers([-4.0, 0.0, 4.0], [True] * 3)
    turned = Atoms(atoms.symbols, atoms.positions[:, [2, 0, 1]], cell=[30.0, 12.0, 12.0], pbc=[False, True, True])
    turned.positions[:, 1:] %= 12.0
    one, other = (interface([a], charges, width=0.5, blocks=1) for a in (atoms, turned))
    for name, profile in one.profiles.items():
        np.testing.assert_allclose(other.profiles[name].value, profile.value, atol=1e-10, err_msg=name)


def test_what_is_no_slab_is_named() -> None:
    with pytest.raises(DataError, match=r"frame 0: pbc is \[True, True, True\]; a slab has two periodic"):
        interface([Atoms("Ar", cell=[5, 5, 5], pbc=True)])
    with pytest.raises(DataError, match="there are no frames"):
        interface([])
    with pytest.raises(DataError, match="frame 1: has other atoms"):
        interface([water_layers([0.0], [True]), Atoms("Ar", **SLAB)])
    with pytest.raises(ConfigError, match="width is 0 Å"):
        interface([], width=0.0)
    with pytest.raises(HostError, match="has no latent charges"):
        moments_of(object())
