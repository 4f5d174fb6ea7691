"""Phonons through phonopy: the closed form of the LO–TO splitting, phonopy's own files read back, what is refused."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from command_line import Done
from rigid_ions import BORN_CHARGE, EPSILON, LATTICE, RigidIons, rock_salt

from les_plugins.crystals import phonons
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError
from les_plugins.units import COULOMB_CONSTANT, VACUUM_PERMITTIVITY

phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed (extra phonons)")

SUPERCELL = (2, 2, 2)
#: Data that the authors keep beside the checkout; absent elsewhere.
SHARED = Path(os.environ.get("LES_PLUGINS_SHARED", Path(__file__).parents[3] / "shared")) / "data"
MAPBI3 = SHARED / "mapbi3" / "phonon_forces_pbesol.extxyz"


def computed(atoms: Atoms, supercell: tuple[int, int, int], calculator: Any, born: bool = True) -> phonons.Phonons:
    phonon, supercells = phonons.displaced_supercells(atoms, supercell)
    found = phonons.phonons(calculator, phonon, supercells)
    return phonons.with_born_charges(found, calculator) if born else found


@pytest.fixture(scope="module")
def salt() -> phonons.Phonons:
    """NaCl from a 64-atom supercell of the cubic cell."""
    return computed(rock_salt(cubic=True), SUPERCELL, RigidIons())


def squared(phonon: Any, frequencies: Any) -> Any:
    """ω² in eV/(Å² u), phonopy's unit before its factor to THz."""
    return np.sign(frequencies) * (frequencies / phonon.unit_conversion_factor) ** 2


def closed_form(phonon: Any) -> float:
    """Z*² e²/(ε0 ε_∞ V μ) in eV/(Å² u), V of the primitive cell."""
    sodium, chlorine = phonon.primitive.masses
    reduced = sodium * chlorine / (sodium + chlorine)
    return float(BORN_CHARGE**2 / (VACUUM_PERMITTIVITY * EPSILON * LATTICE**3 / 4 * reduced))


@pytest.mark.parametrize("direction", [*phonons.DIRECTIONS.values(), (0.3, -0.5, 0.8)])
def test_lo_to_splitting_of_rigid_ions_has_its_closed_form(salt: phonons.Phonons, direction: Any) -> None:
    transverse = squared(salt.phonopy, phonons.gamma_frequencies(salt.phonopy))[3:]
    near = squared(salt.phonopy, phonons.gamma_frequencies(salt.phonopy, direction))[3:]
    # rounding only: phonopy adds the term in closed form, and Z* of rigid ions is exact at every k
    assert near[2] - transverse[2] == pytest.approx(closed_form(salt.phonopy), rel=1e-9)
    np.testing.assert_allclose(near[:2], transverse[:2], rtol=1e-9)
    assert np.ptp(transverse) < 1e-9 * transverse.mean()


# a cube's supercell that is long in one direction has fewer symmetries than the cube, which phonopy warns of
@pytest.mark.filterwarnings("ignore:Warning. Point group symmetries of supercell and primitivecell:UserWarning")
def test_the_models_own_forces_have_the_longitudinal_branch_that_born_charges_give(salt: phonons.Phonons) -> None:
    """q = (0, 0, 1/4) is no wave vector of the short supercell, and one of the long: no Z* is used there."""
    q = [0.125, 0.125, 0.0]  # (0, 0, 1/4) 2π/a in the reciprocal basis of the primitive cell
    assert np.allclose(np.linalg.inv(salt.phonopy.primitive.cell) @ q, np.array([0.0, 0.0, 0.25]) / LATTICE)
    salt.phonopy.run_qpoints([q])
    long = computed(rock_salt(cubic=True), (1, 1, 4), RigidIons(), born=False)
    assert np.allclose(long.phonopy.primitive.cell, salt.phonopy.primitive.cell)
    long.phonopy.run_qpoints([q])
    expected, found = (one.phonopy.qpoints.frequencies[0] for one in (long, salt))
    parameters = salt.phonopy.nac_params
    salt.phonopy.nac_params = None
    salt.phonopy.run_qpoints([q])
    without = salt.phonopy.qpoints.frequencies[0]
    salt.phonopy.nac_params = parameters
    # the short-range part is interpolated between four planes of atoms; found: 3e-4 at most, 3e-6 longitudinal
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert abs(without[-1] / expected[-1] - 1.0) > 0.2  # so the test can tell


def test_the_splitting_does_not_depend_on_the_epsilon_that_latent_charges_are_scaled_with() -> None:
    lengths = []
    for epsilon in (1.0, 4.0):
        calculator = RigidIons(EPSILON)
        calculator.epsilon_infinity = epsilon
        found = computed(rock_salt(), SUPERCELL, calculator)
        assert found.phonopy.nac_params["born"][0, 0, 0] == pytest.approx(BORN_CHARGE * np.sqrt(epsilon / EPSILON))
        lengths.append(phonons.gamma_frequencies(found.phonopy, (0.0, 0.0, 1.0))[-1])
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-9)  # Z*²/ε_∞ is the square of the latent charge: rounding


def test_acoustic_modes_are_zero_and_translation_costs_nothing(salt: phonons.Phonons) -> None:
    assert salt.translation_violation < 1e-10  # eV/Å²: rounding of the forces over the displacement
    assert salt.largest_force < 1e-10
    assert salt.sum_rule_violation == pytest.approx(0.0, abs=1e-12)
    for direction in (None, (0.0, 0.0, 1.0)):
        frequencies = phonons.gamma_frequencies(salt.phonopy, direction)
        assert np.abs(frequencies[:3]).max() < 1e-4  # THz: the root of a rounded zero
        assert frequencies[3] > 1.0


def test_translation_and_sum_rule_are_enforced_where_a_model_breaks_them() -> None:
    class Broken(RigidIons):
        def calculate(self, *arguments: Any, **named: Any) -> None:
            super().calculate(*arguments, **named)
            self.results["forces"] -= 0.2 * (self.atoms.positions - np.round(self.atoms.positions / 2.82) * 2.82)
            if "born_effective_charges" in self.results:
                self.results["born_effective_charges"] = self.results["born_effective_charges"] + 0.05 * np.eye(3)

    found = computed(rock_salt(), SUPERCELL, Broken())
    assert found.translation_violation == pytest.approx(0.2, rel=1e-6)
    assert found.sum_rule_violation == pytest.approx(0.05, rel=1e-6)
    assert np.abs(found.phonopy.nac_params["born"].sum(0)).max() < 1e-12
    assert np.abs(phonons.gamma_frequencies(found.phonopy)[:3]).max() < 1e-4  # THz, as above


def test_the_unit_factor_is_phonopys_own_for_electronvolt_and_angstrom(salt: phonons.Phonons) -> None:
    from phonopy.physical_units import get_calculator_physical_units

    theirs = get_calculator_physical_units(interface_mode="vasp").nac_factor
    assert salt.phonopy.nac_params["factor"] == COULOMB_CONSTANT == pytest.approx(theirs, rel=2e-6)  # ours has 6 digits


def asymmetric() -> tuple[Any, Any]:
    """A crystal without symmetry, as phonopy has it, and Z* with no symmetry either, which keep the sum rule."""
    random = np.random.default_rng(3)
    atoms = Atoms("NaClNa", scaled_positions=random.uniform(size=(3, 3)), cell=np.diag([5.0, 6.0, 7.0]), pbc=True)
    atoms.cell[1, 0], atoms.cell[2, 1] = 0.4, 0.7
    phonon, _ = phonons.displaced_supercells(atoms, (1, 1, 1))
    born = random.normal(size=(3, 3, 3))
    return phonon, born - born.mean(0)


def test_phonopy_contracts_the_wave_vector_with_the_first_index_as_ours_is_the_polarization() -> None:
    phonon, born = asymmetric()
    dielectric, atoms = np.diag([2.0, 3.0, 4.0]), len(phonon.supercell)
    phonon.force_constants = np.zeros((atoms, atoms, 3, 3))
    phonons.set_born_charges(phonon, born, dielectric)
    direction = np.array([0.2, -0.6, 0.7])
    # D = 4π k_e (q·Z_i)_a (q·Z_j)_b / (V q·ε·q sqrt(m_i m_j)): one mode, of which the trace is the square
    force = np.einsum("a,iab->ib", direction, born)
    trace = (force**2 / phonon.primitive.masses[:, None]).sum()
    trace *= 4.0 * np.pi * COULOMB_CONSTANT / (phonon.primitive.volume * (direction @ dielectric @ direction))
    parameters = dict(phonon.nac_params, method="wang")  # without force constants, Gonze and Lee's would subtract
    phonon.nac_params = parameters
    found = phonons.gamma_frequencies(phonon, direction)
    assert squared(phonon, found).sum() == pytest.approx(trace, rel=1e-9)


@pytest.mark.parametrize("crystal", ["rock salt", "no symmetry"])
def test_a_born_file_is_read_back_by_phonopys_own_parser(crystal: str, salt: phonons.Phonons, tmp_path: Path) -> None:
    from phonopy.file_IO import parse_BORN

    phonon, born = asymmetric()
    if crystal == "rock salt":
        phonon, born = salt.phonopy, salt.phonopy.nac_params["born"]
    else:
        phonons.set_born_charges(phonon, born, np.diag([2.0, 3.0, 4.0]))
    phonons.write_born(phonon, tmp_path / "BORN")
    read = parse_BORN(phonon.primitive, filename=tmp_path / "BORN")
    np.testing.assert_allclose(read["born"], born, atol=1e-8)  # the file has eight decimals
    np.testing.assert_allclose(read["dielectric"], phonon.nac_params["dielectric"], atol=1e-8)
    assert read["factor"] == pytest.approx(COULOMB_CONSTANT, abs=1e-8)


def test_no_born_file_without_born_charges(tmp_path: Path) -> None:
    phonon, _ = phonons.displaced_supercells(rock_salt(), SUPERCELL)
    with pytest.raises(HostError, match="no Born charges to write"):
        phonons.write_born(phonon, tmp_path / "BORN")


def test_bands_with_and_without_born_charges_differ_in_the_longitudinal_branch_alone(salt: phonons.Phonons) -> None:
    found = phonons.bands(salt.phonopy, "XGL", points=5)
    assert found.labels == ["X", "Γ", "L"]
    assert found.connected == [True, False]
    assert found.corrected is not None
    at_gamma = [values[0][-1] for values in (found.bare, found.corrected)]
    np.testing.assert_allclose(at_gamma[0][:5], at_gamma[1][:5], atol=1e-4)
    assert at_gamma[1][5] > at_gamma[0][5] + 1.0
    at_edge = [values[0][0] for values in (found.bare, found.corrected)]
    np.testing.assert_allclose(*at_edge, rtol=1e-4)  # X is a wave vector of the supercell: nothing to interpolate


def test_density_of_states_counts_the_branches(salt: phonons.Phonons) -> None:
    frequencies, density = phonons.density_of_states(salt.phonopy, mesh=30.0)
    assert np.trapezoid(density, frequencies) == pytest.approx(6.0, rel=0.02)  # trapezia over 201 points


@pytest.mark.parametrize("heavy", [1, 3, 5, 7])
def test_isotopes_are_told_apart_in_every_order_of_the_atoms(heavy: int) -> None:
    atoms = rock_salt(cubic=True)
    chlorine = [number for number in range(8) if atoms.symbols[number] == "Cl"]
    masses = atoms.get_masses()
    masses[chlorine[(heavy - 1) // 2]] = 60.0
    atoms.set_masses(masses)
    found = computed(atoms, (1, 1, 1), RigidIons(), born=False).phonopy
    assert sorted(found.primitive.masses) == pytest.approx(sorted(masses))
    # the zone centre of the eight atoms from the force constants of the cell itself, with these masses
    constants = found.force_constants
    root = np.repeat(np.sqrt(found.supercell.masses), 3)
    dynamical = constants.transpose(0, 2, 1, 3).reshape(24, 24) / np.outer(root, root)
    expected = np.linalg.eigvalsh(dynamical)
    np.testing.assert_allclose(squared(found, phonons.gamma_frequencies(found)), expected, atol=1e-8)


def test_a_heavy_isotope_everywhere_keeps_the_primitive_cell_and_masses_above_zero_are_asked_for() -> None:
    atoms = rock_salt(cubic=True)
    masses = np.where(atoms.numbers == 17, 37.0, atoms.get_masses())
    atoms.set_masses(masses)
    phonon, _ = phonons.displaced_supercells(atoms, (1, 1, 1))
    assert sorted(phonon.primitive.masses) == pytest.approx([masses.min(), 37.0])
    # layers of two isotopes along z: the primitive cell of the masses, two atoms of each element
    masses[(atoms.numbers == 17) & (atoms.positions[:, 2] > 1.0)] = 35.0
    atoms.set_masses(masses)
    phonon, _ = phonons.displaced_supercells(atoms, (1, 1, 1))
    assert sorted(phonon.primitive.masses) == pytest.approx([masses.min()] * 2 + [35.0, 37.0])
    masses[3] = 0.0
    atoms.set_masses(masses)
    with pytest.raises(DataError, match="mass of atom 3 is 0 u; allowed: above 0"):
        phonons.displaced_supercells(atoms, (1, 1, 1))


class TestRefused:
    @pytest.mark.parametrize("mesh", [0.0, -1.0, float("nan"), 1e6])
    def test_a_mesh_that_is_none(self, mesh: float) -> None:
        with pytest.raises(ConfigError, match="--mesh is"):
            phonons.check_mesh(mesh)

    def test_what_is_no_crystal(self) -> None:
        slab, molecule = rock_salt(), Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]])
        slab.pbc = (True, True, False)
        for atoms, flags in ((slab, "T T F"), (molecule, "F F F")):
            with pytest.raises(GeometryError, match=f"pbc is {flags}; phonons are built for crystals"):
                phonons.displaced_supercells(atoms, SUPERCELL)

    def test_a_left_handed_cell(self) -> None:
        atoms = rock_salt()
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
        with pytest.raises(GeometryError, match="left-handed"):
            phonons.displaced_supercells(atoms, SUPERCELL)

    @pytest.mark.parametrize(
        "supercell", [(2, 0, 2), (-2, -2, 1), (1, 2), (1.5, 1.0, 1.0), [[1, 1, 0], [1, 1, 0], [0, 0, 1]]]
    )
    def test_a_singular_supercell(self, supercell: Any) -> None:
        with pytest.raises(ConfigError, match="--supercell"):
            phonons.displaced_supercells(rock_salt(), supercell)

    @pytest.mark.parametrize("distance", [0.0, -0.01, float("nan")])
    def test_a_displacement_that_is_none(self, distance: float) -> None:
        with pytest.raises(ConfigError, match="--distance"):
            phonons.displaced_supercells(rock_salt(), SUPERCELL, distance)

    def test_born_charges_of_a_model_without_long_range_part(self) -> None:
        with pytest.raises(HostError, match="no long-range part"):
            computed(rock_salt(), (1, 1, 1), RigidIons(has_long_range=False))

    @pytest.mark.parametrize("path", ["GQ", "G", "", "G,X"])
    def test_a_path_that_the_lattice_does_not_have(self, salt: phonons.Phonons, path: str) -> None:
        with pytest.raises(ConfigError, match="allowed: pieces of two or more of G, K, L, U, W, X"):
            phonons.check_path(salt.phonopy, path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    """Run `les-plugins phonons ARGUMENTS` in this process with rigid ions in the place of a checkpoint."""

    def run(*arguments: object, calculator: Any = None) -> Done:
        model = calculator or RigidIons()
        monkeypatch.setattr("les_plugins.cli.phonons.open_model", lambda *path, **_: (model, {"path": str(path[0])}))
        return les_plugins_command("phonons", *arguments)

    return run


@pytest.fixture
def crystal(tmp_path: Path) -> Path:
    file = tmp_path / "nacl.xyz"
    ase.io.write(file, rock_salt())
    return file


def test_the_command_writes_files_that_phonopy_loads(
    command: Callable[..., Any], crystal: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, _ = command("model.les", crystal, "--born", "--mesh", 20, "--path", "GX", "-o", out, "--json")
    assert code == 0
    report = json.loads(printed)
    assert report == json.loads((out / "phonons.json").read_text())
    assert {path.name for path in out.iterdir()} == {*report["files"], "phonons.json"}
    assert {"BORN", "phonopy_params.yaml", "band.yaml", "bands.csv", "total_dos.dat"} <= set(report["files"])
    along = report["gamma_THz"]["with_born_z"]
    np.testing.assert_allclose(np.array(report["gamma_cm-1"]["with_born_z"]), 33.35640952 * np.array(along))

    loaded = phonopy.load(out / "phonopy_params.yaml", log_level=0)
    np.testing.assert_allclose(loaded.nac_params["born"], report["born_effective_charges"], atol=1e-12)
    # 1e-6: the forces are written with ten decimals, a displacement is 0.01 Å
    np.testing.assert_allclose(phonons.gamma_frequencies(loaded, (0, 0, 1))[3:], along[3:], rtol=1e-6)
    with_file = phonopy.load(out / "phonopy_params.yaml", born_filename=out / "BORN", log_level=0)
    np.testing.assert_allclose(phonons.gamma_frequencies(with_file, (0, 0, 1))[3:], along[3:], rtol=1e-6)
    with (out / "bands.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[5]["with_born_THz"]) == pytest.approx(along[5], abs=1e-5)
    assert float(rows[5]["bare_cm-1"]) == pytest.approx(report["gamma_cm-1"]["bare"][5], abs=1e-3)


def test_without_born_there_is_no_born_file_and_a_short_range_model_will_do(
    command: Callable[..., Any], crystal: Path, tmp_path: Path
) -> None:
    code, printed, _ = command("m.les", crystal, "-o", tmp_path / "o", calculator=RigidIons(has_long_range=False))
    assert code == 0
    assert "Z*" not in printed.replace("no Z*", "")
    assert not (tmp_path / "o" / "BORN").exists()


def test_bands_are_drawn_where_matplotlib_is_installed(
    command: Callable[..., Any], crystal: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    command("m.les", crystal, "--born", "--mesh", 20, "-o", tmp_path / "o", "--path", "GX,LG")
    assert (tmp_path / "o" / "bands.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_in_one_line(
    command: Callable[..., Any], crystal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def refused(*arguments: object, **named: Any) -> str:
        code, printed, errors = command(*arguments, **named)
        assert (code, printed) == (1, "")
        assert not out.exists()
        line: str = errors
        return line

    short = RigidIons(has_long_range=False)
    assert "has no long-range part" in refused("m.les", crystal, "--born", "-o", out, calculator=short)
    assert "--supercell [2, 0, 2]" in refused("m.les", crystal, "--supercell", 2, 0, 2, "-o", out)
    assert "exists and is not an empty folder" in command("m.les", crystal, "-o", tmp_path)[2]
    two, strange = tmp_path / "two.xyz", tmp_path / "strange.xyz"
    ase.io.write(two, [rock_salt(), rock_salt()])
    assert "holds 2 frames; allowed: one" in refused("m.les", two, "-o", out)
    ase.io.write(strange, Atoms("KCl", [[0, 0, 0], [0, 0, 3]], cell=[6, 6, 6], pbc=True))
    assert "does not know K" in refused("m.les", strange, "-o", out)
    monkeypatch.setattr(phonons, "find_spec", lambda name: None)
    assert refused("m.les", crystal, "-o", out) == (
        'error: phonons need phonopy, which is not installed: pip install ".[phonons]" from a clone of les-plugins\n'
    )


@pytest.fixture(scope="module")
def reference() -> tuple[Any, float]:
    """PBEsol forces of methylammonium lead iodide (Brivio et al., PRB 92, 144308), 2 × 2 × 2 of a 12-atom cell."""
    frames = [f for f in ase.io.read(MAPBI3, ":") if f.info["config_type"] == "mapbi3_cubic_1.00"]
    moved = [(int(f.info["displaced_atom"]), np.asarray(f.info["displacement"], dtype=float)) for f in frames]
    assert len(frames) == 6 * 12
    perfect = frames[0].copy()
    perfect.positions[moved[0][0]] -= moved[0][1]
    cell = perfect[::8]  # eight images follow each other
    cell.set_cell(perfect.cell.array / 2)
    phonon = phonons._new_phonopy(cell, np.diag([2, 2, 2]), "P", 1e-5)
    ours = np.linalg.solve(perfect.cell.T, (phonon.supercell.positions - perfect.positions).T).T
    assert np.abs((ours - np.round(ours)) @ perfect.cell.array).max() < 1e-5  # the file's atoms in phonopy's order
    phonon.dataset = {
        "natom": len(perfect),
        "first_atoms": [{"number": number, "displacement": shift} for number, shift in moved],
    }
    return phonon, phonons.set_forces(phonon, [frame.get_forces() for frame in frames])


@pytest.mark.skipif(not MAPBI3.is_file(), reason="shared/data/mapbi3/phonon_forces_pbesol.extxyz is not there")
class TestPerovskite:
    def test_every_atom_of_the_cell_was_moved_and_translation_is_nearly_kept(self, reference: Any) -> None:
        phonon, violation = reference
        assert phonon.force_constants.shape == (96, 96, 3, 3)
        assert violation < 0.1  # eV/Å²; the largest force constant is 60: noise of DFT forces over 0.01 Å, 0.02 found
        assert np.abs(phonon.force_constants.sum(1)).max() < 1e-9  # rounding: enforced

    def test_highest_modes_are_the_stretches_of_ammonium_and_methyl(self, reference: Any) -> None:
        wavenumbers = phonons.WAVENUMBER * phonons.gamma_frequencies(reference[0])
        assert np.abs(wavenumbers[np.argsort(np.abs(wavenumbers))[:3]]).max() < 1.0
        assert np.count_nonzero((wavenumbers > 2800) & (wavenumbers < 3400)) == 6
        assert np.count_nonzero((wavenumbers > 1700) & (wavenumbers <= 2800)) == 0


def test_phonons_of_a_charged_crystal_are_refused() -> None:
    atoms = rock_salt()
    atoms.info["charge"] = -1
    with pytest.raises(DataError, match="total charge of -1 e; phonons are of neutral crystals"):
        phonons.displaced_supercells(atoms, SUPERCELL)
