"""Permittivity of harmonic ions against closed forms: Lyddane, Sachs and Teller; a field that moves the ions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rigid_ions import BORN_CHARGE, EPSILON, LATTICE, RigidIons, rock_salt
from transfers import crystal

from les_plugins.crystals import phonons
from les_plugins.crystals.permittivity import DAMPING, Permittivity, permittivity, write_permittivity
from les_plugins.errors import ConfigError, HostError
from les_plugins.units import VACUUM_PERMITTIVITY

pytest.importorskip("phonopy", reason="phonopy is not installed (extra phonons)")


@pytest.fixture(scope="module")
def salt() -> Any:
    phonon, supercells = phonons.displaced_supercells(rock_salt(cubic=True), (1, 1, 1))
    return phonons.with_born_charges(phonons.phonons(RigidIons(), phonon, supercells), RigidIons()).phonopy


def test_the_static_permittivity_obeys_lyddane_sachs_and_teller(salt: Any) -> None:
    found = permittivity(salt)
    near = phonons.gamma_frequencies(salt, (0.0, 0.0, 1.0))
    ratio = (phonons.WAVENUMBER * near[-1] / found.wavenumbers[0]) ** 2
    assert found.static is not None
    assert found.wavenumbers.shape == (3,)
    # rounding only: both are closed forms of the same force constants
    np.testing.assert_allclose(found.static, EPSILON * ratio * np.eye(3), rtol=1e-9, atol=1e-9)


def test_ions_that_a_field_moves_make_the_same_permittivity(salt: Any) -> None:
    """Zero field inside the crystal but for E: Φ u = Z* E, P = Z* u / V."""
    found = permittivity(salt)
    constants = np.asarray(salt.force_constants)
    sublattice = np.asarray(salt.supercell.numbers) == 11
    spring = constants[np.ix_(sublattice, sublattice)].sum(axis=(0, 1)) / sublattice.sum()
    moved = np.linalg.solve(spring, BORN_CHARGE * np.eye(3))
    ionic = BORN_CHARGE * moved / (LATTICE**3 / 4 * VACUUM_PERMITTIVITY)
    np.testing.assert_allclose(found.static, EPSILON * np.eye(3) + ionic, rtol=1e-9, atol=1e-9)


def test_at_zero_frequency_the_spectrum_is_the_static_value_and_far_above_that_of_the_electrons(salt: Any) -> None:
    found = permittivity(salt)
    low, high = found.at([0.0, 1e6])
    np.testing.assert_allclose(low, found.static, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(high, found.electronic, rtol=1e-6, atol=1e-6)  # (ω_m/ω)² is 1e-7


def test_absorption_obeys_the_sum_rule(salt: Any) -> None:
    found = permittivity(salt)
    grid = np.arange(0.0, 40000.0, 0.5)
    integral = np.trapezoid(grid * found.at(grid)[:, 0, 0].imag, grid)
    # ∫ ω Im ε dω = π/2 Σ S; what lies above the end of the grid is 2γ/(π ω) = 8e-5 of it, of the step less
    assert integral == pytest.approx(0.5 * np.pi * found.strengths[:, 0, 0].sum(), rel=3e-4)


def test_bonds_along_one_axis_give_an_anisotropic_tensor() -> None:
    found = Permittivity(np.array([100.0, 200.0]), np.stack([1e4 * np.diag([1.0, 0, 0]), 4e4 * np.eye(3)]), np.eye(3))
    np.testing.assert_allclose(found.static, np.diag([3.0, 2.0, 2.0]), rtol=1e-12)


def test_an_unstable_mode_has_no_static_permittivity_and_is_left_out_of_the_spectrum() -> None:
    strengths = np.stack([1e4 * np.eye(3), 4e4 * np.eye(3)])
    found = Permittivity(np.array([-50.0, 200.0]), strengths, 2.0 * np.eye(3))
    assert found.unstable == 1
    assert found.static is None
    np.testing.assert_allclose(found.at([0.0])[0], 3.0 * np.eye(3), rtol=1e-12)


def test_translations_are_left_out_wherever_they_lie_in_the_order(salt: Any) -> None:
    """With one imaginary mode the three translations are not the first three."""
    kept = salt.force_constants
    try:
        salt.force_constants = -np.asarray(kept)
        found = permittivity(salt)
    finally:
        salt.force_constants = kept
    assert found.unstable == 3
    # the modes are degenerate, so their sum is what is determined
    np.testing.assert_allclose(
        found.strengths.sum(axis=0), permittivity(salt).strengths.sum(axis=0), rtol=1e-9, atol=1e-6
    )


def test_the_file_has_the_spectrum(salt: Any, tmp_path: Path) -> None:
    found = permittivity(salt)
    write_permittivity(found, tmp_path / "permittivity.csv")
    with (tmp_path / "permittivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    grid = [float(row["wavenumber_cm-1"]) for row in rows]
    written = np.array([[float(row["real_zz"]), float(row["imaginary_zz"])] for row in rows])
    expected = found.at(grid, DAMPING)[:, 2, 2]
    np.testing.assert_allclose(
        written, np.stack([expected.real, expected.imag], axis=1), rtol=5e-6, atol=0
    )  # six digits


def test_no_permittivity_without_born_charges_or_with_no_damping(salt: Any) -> None:
    with pytest.raises(ConfigError, match="damping"):
        permittivity(salt).at([1.0], 0.0)
    bare, _ = phonons.displaced_supercells(crystal(), (1, 1, 1))
    with pytest.raises(HostError, match="Born"):
        permittivity(bare)
