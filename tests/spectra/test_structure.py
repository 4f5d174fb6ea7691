"""Radial distribution, diffusion and drift against what is known."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from les_plugins.errors import ConfigError, DataError
from les_plugins.spectra import diffusion, energy_drift, radial_distribution
from les_plugins.spectra.finite_size import diffusion_correction, image_potential
from les_plugins.spectra.peaks import first_peak
from les_plugins.spectra.structure import squared_displacement

ARGON = (18, 18)


def walk(length: int, atoms: int, step: float, seed: int = 0) -> np.ndarray:
    return np.cumsum(step * np.random.default_rng(seed).standard_normal((length, atoms, 3)), axis=0)


def test_an_ideal_gas_has_no_structure() -> None:
    random = np.random.default_rng(0)
    frames = [Atoms("Ar60", random.uniform(0, 10, (60, 3)), cell=[10.0] * 3, pbc=True) for _ in range(60)]
    found = radial_distribution(frames, ARGON, 4.5, 0.25)
    far = found.distance > 1.5
    assert found.value[far].mean() == pytest.approx(1.0, abs=0.02)
    assert np.mean(np.abs(found.value[far] - 1.0) < 3.0 * found.error[far]) > 0.8


def test_a_lattice_has_its_neighbors_at_their_distance_also_beyond_half_the_cell() -> None:
    cell = bulk("Ar", "fcc", a=5.3, cubic=True)
    found = radial_distribution([cell] * 4, ARGON, 6.0, 0.1, blocks=2)
    assert found.peak == pytest.approx(5.3 / np.sqrt(2.0), abs=0.05)
    shell = (found.distance > 3.5) & (found.distance < 4.0)
    # g is per other atom of the cell, 3 of 4: density 3/V
    counts = (
        found.value[shell]
        * 4.0
        / 3.0
        * np.pi
        * ((found.distance[shell] + 0.05) ** 3 - (found.distance[shell] - 0.05) ** 3)
    )
    assert counts.sum() * 3 / cell.get_volume() == pytest.approx(12.0)
    assert found.error.max() == 0.0


def test_the_first_peak_is_not_the_highest_one_of_diamond() -> None:
    """4 neighbours at 0.433 a and 12 at 0.707 a: g ∝ n/r² is 21.3 and 24."""
    random, cell = np.random.default_rng(0), bulk("C", "diamond", a=3.567, cubic=True) * (2, 2, 2)
    frames = []
    for _ in range(20):
        frames.append(cell.copy())
        frames[-1].positions += 0.03 * random.standard_normal(cell.positions.shape)
    found = radial_distribution(frames, (6, 6), 3.2, 0.05, blocks=5)
    assert found.distance[found.value.argmax()] == pytest.approx(2.52, abs=0.05)
    assert found.peak == pytest.approx(3.567 * np.sqrt(3.0) / 4.0, abs=0.01)
    assert found.peak_error < 0.01
    assert found.height < found.value.max()


def test_noise_on_the_way_to_a_peak_is_no_peak() -> None:
    r = np.arange(0.0, 8.0, 0.05)
    rise = 1.0 / (1.0 + np.exp((2.4 - r) / 0.1))
    curve = rise * (1.0 + 0.8 * np.exp(-(((r - 2.8) / 0.2) ** 2)) + 1.4 * np.exp(-(((r - 4.5) / 0.3) ** 2)))
    for seed in range(50):
        noise = 0.03 * np.sqrt(curve)
        noisy = curve + noise * np.random.default_rng(seed).standard_normal(len(r))
        first = first_peak(noisy, noise)
        assert r[first][noisy[first].argmax()] == pytest.approx(2.8, abs=0.16)
        assert r[first][0] > 2.3
        assert r[first][-1] < 3.4
    assert first_peak(r, np.zeros(len(r))) == slice(0, len(r))  # rises to its end
    assert first_peak(np.eye(9)[4], np.zeros(9)) == slice(3, 6)


def test_pairs_of_two_elements_are_counted_from_the_first_to_the_second() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    unlike = radial_distribution([salt] * 2, (11, 17), 3.5, 0.1, blocks=2)
    assert unlike.peak == pytest.approx(2.8, abs=0.05)
    like = radial_distribution([salt] * 2, (11, 11), 5.0, 0.1, blocks=2)
    assert like.peak == pytest.approx(5.6 / np.sqrt(2.0), abs=0.05)


def test_random_walks_diffuse_with_half_the_squared_step() -> None:
    positions = walk(6000, 20, 0.1)
    found = diffusion([positions], np.ones(20), np.ones(20, dtype=bool), 10.0, longest=2.0, shortest=0.2, blocks=5)
    expected = 0.5 * 0.1**2 / 0.01 * (1.0 - 1.0 / 20)  # the centre of mass is taken off
    assert found.error < 0.1 * expected
    assert abs(found.coefficient - expected) < 4.0 * found.error
    assert found.correction is None


def test_a_drift_of_the_whole_does_not_diffuse() -> None:
    drifting = np.arange(400.0)[:, None, None] * np.ones((1, 5, 3))
    found = diffusion([drifting], np.arange(1.0, 6.0), np.ones(5, dtype=bool), 10.0, 0.5, 0.1, blocks=2)
    assert found.coefficient == pytest.approx(0.0, abs=1e-9)


def test_the_finite_size_correction_is_that_of_yeh_and_hummer() -> None:
    found = diffusion(
        [walk(400, 5, 0.1)],
        np.ones(5),
        np.ones(5, dtype=bool),
        10.0,
        0.5,
        0.1,
        blocks=2,
        box=12.42,
        temperature=298.15,
        viscosity=0.89,
    )
    # 2.837297 × 1.380649e-23 × 298.15 / (6 π × 0.89e-3 × 12.42e-10) m²/s, in 1e-8 m²/s
    assert found.correction == pytest.approx(0.05606, rel=1e-3)


def test_the_correction_of_a_long_cell_is_that_of_its_own_lattice_sum() -> None:
    assert image_potential(8.0 * np.eye(3)) == pytest.approx(-2.837297 / 8.0, rel=1e-6)
    # one lattice in two cells: doubling adds the image half way, whose potential a direct sum over cubes gives
    skewed = 8.0 * np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 2.0, 1.0]])
    assert image_potential(skewed) == pytest.approx(-2.837297 / 8.0, rel=1e-6)
    # bcc and fcc lattice sums of a point charge in a background, per Wigner–Seitz radius: 0.895929, 0.895874 (× 2)
    bcc = 0.5 * np.array([[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    assert image_potential(bcc) * np.cbrt(3.0 / (8.0 * np.pi)) == pytest.approx(-2.0 * 0.895929, abs=2e-6)
    # a line of charges every 8 Å between far walls of nothing: positive and growing as the cell gets longer
    short, long = (image_potential(np.diag([8.0, 8.0, length])) for length in (40.0, 80.0))
    assert 0.0 < short < long
    cube = diffusion_correction(np.cbrt(8.0 * 8.0 * 80.0) * np.eye(3), 300.0, 0.89)
    assert diffusion_correction(np.diag([8.0, 8.0, 80.0]), 300.0, 0.89) < 0.0 < cube


def test_an_ion_among_held_atoms_moves_against_them_and_not_against_the_centre() -> None:
    positions = np.zeros((20_000, 6, 3))
    positions[:, 1:] = np.arange(5.0)[:, None]
    positions[:, :1] = walk(20_000, 1, 0.1)
    masses, ion = np.array([7.0, *[16.0] * 5]), np.arange(6) == 0
    free = diffusion([positions[:, :1]], masses[:1] * 1e-9, ion[:1], 1.0, 0.02, 0.002)
    found = diffusion([positions], masses, ion, 1.0, 0.02, 0.002)
    assert free.coefficient == pytest.approx(0.0, abs=1e-12)  # one atom is its own centre
    assert found.coefficient == pytest.approx(0.5 * 0.1**2 / 1e-3, rel=0.05)
    # held along z only: the centre is taken off along x and y
    positions[:, 1:, :2] += 1e-9 * np.arange(20_000)[:, None, None]
    kept = 1.0 - 7.0 / 87.0
    along = diffusion([positions], masses, ion, 1.0, 0.02, 0.002)
    assert along.coefficient == pytest.approx(found.coefficient * (2.0 * kept**2 + 1.0) / 3.0, rel=0.05)


def test_one_atom_has_no_pair_and_its_own_images_are_none() -> None:
    single = Atoms("ArO", [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], cell=[5.0] * 3, pbc=True)
    with pytest.raises(DataError, match="the structures have one Ar: it has no pair"):
        radial_distribution([single] * 4, ARGON, 8.0)
    # an ideal gas of three atoms in a small cell: 1 also where only images are
    random = np.random.default_rng(1)
    frames = [Atoms("Ar3", random.uniform(0, 4, (3, 3)), cell=[4.0] * 3, pbc=True) for _ in range(120)]
    found = radial_distribution(frames, ARGON, 6.0, 0.5)
    far = found.distance > 3.5
    assert found.value[far].mean() == pytest.approx(1.0, abs=0.04)
    # without the peaks of an atom's own images, at 4 and 5.7 Å
    assert found.value[far].max() < 1.2


def test_the_squared_displacement_is_the_mean_over_pairs_of_frames() -> None:
    positions = walk(50, 4, 0.3) + 100.0
    direct = [((positions[lag:] - positions[: 50 - lag]) ** 2).sum(2).mean() for lag in range(11)]
    np.testing.assert_allclose(squared_displacement(positions, 10), direct, atol=1e-10)


def test_a_drift_is_found_with_its_error() -> None:
    time = 2.0 * np.arange(5000) / 1000.0
    noise = 1e-3 * np.random.default_rng(0).standard_normal(5000)
    found = energy_drift([0.004 * time + noise], 2.0, n_atoms=10)
    assert found["drift"] == pytest.approx(0.4, abs=4.0 * found["error"])
    assert 0.0 < found["error"] < 0.02
    assert found["fluctuation"] == pytest.approx(0.1, rel=0.05)
    several = energy_drift([0.004 * time + noise, 0.002 * time + noise], 2.0, n_atoms=10)
    assert several["drift"] == pytest.approx(0.3, abs=0.01)
    # two values: the tangent of 68.27 % of a right angle, 1.837 standard errors
    assert several["error"] == pytest.approx(0.1837, rel=0.05)


def test_what_cannot_be_analysed_raises_an_error() -> None:
    molecule = Atoms("OHH", np.eye(3))
    with pytest.raises(DataError, match="needs three periodic directions"):
        radial_distribution([molecule], (8, 8), 3.0)
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    with pytest.raises(DataError, match="the structures have no O"):
        radial_distribution([crystal], (8, 8), 3.0)
    with pytest.raises(DataError, match="no pair lies within the cutoff of 3 Å"):
        radial_distribution([crystal], ARGON, 3.0)
    with pytest.raises(DataError, match="there are no frames"):
        radial_distribution([], ARGON, 3.0)
    for width, cutoff in ((0.0, 3.0), (0.1, float("inf")), (float("nan"), 3.0), (1e-6, 3.0)):
        with pytest.raises(ConfigError, match="allowed: 0 < width < cutoff"):
            radial_distribution([crystal], ARGON, cutoff, width)
    with pytest.raises(DataError, match="shorter than twice the longest time"):
        diffusion([walk(100, 5, 0.1)], np.ones(5), np.ones(5, dtype=bool), 10.0, 0.5, 0.1, blocks=2)
    with pytest.raises(ConfigError, match=r"times from 0\.5 to 0\.1 ps"):
        diffusion([walk(100, 5, 0.1)], np.ones(5), np.ones(5, dtype=bool), 10.0, 0.1, 0.5)
    for longest, blocks, message in ((float("inf"), 2, "times from"), (0.2, 0, "blocks is 0; allowed: at least 1")):
        with pytest.raises(ConfigError, match=message):
            diffusion([walk(100, 5, 0.1)], np.ones(5), np.ones(5, dtype=bool), 10.0, longest, 0.05, blocks)
    with pytest.raises(ConfigError, match="viscosity is 0 mPa·s; allowed: above 0"):
        diffusion_correction(10.0 * np.eye(3), 300.0, 0.0)
    with pytest.raises(DataError, match="no conserved energy"):
        energy_drift([np.full(100, np.nan)], 1.0, 3)
