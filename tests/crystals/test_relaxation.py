"""`les-plugins relax`: rest is where the closed form puts it, symmetry and constraints hold, failures are said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from charged_toys import ChargedToy, ion, toy_energy
from command_line import Done
from rigid_ions import LATTICE, RigidIons, rock_salt
from toy_calculator import Toy, molecule

from les_plugins.crystals.relaxation import relax
from les_plugins.errors import ConfigError, GeometryError, HostError

STRAIN = np.eye(3) + np.array([[0.02, 0.03, 0.0], [0.0, -0.02, 0.01], [0.02, 0.0, 0.03]])


def strained(cubic: bool = False, strain: np.ndarray = STRAIN) -> Atoms:
    atoms = rock_salt(cubic)
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    return atoms


def test_a_triclinic_cell_comes_back_to_the_lattice_that_is_free_of_stress() -> None:
    """RigidIons' repulsion is such that NaCl has no stress at LATTICE; a primitive cell has angles of 60°."""
    found = relax(RigidIons(), strained(), largest_stress=1e-3, symmetry=False)
    assert found.converged
    assert found.space_group is None
    # 1e-3 GPa over a bulk modulus of some 20 GPa, a third of it in length
    np.testing.assert_allclose(found.atoms.cell.lengths(), LATTICE / np.sqrt(2), rtol=1e-4)
    np.testing.assert_allclose(found.atoms.cell.angles(), 60.0, atol=0.01)
    assert found.last.energy < found.first.energy


def test_under_pressure_the_stress_is_the_pressure() -> None:
    found = relax(RigidIons(), rock_salt(), pressure=2.0)
    assert found.converged
    assert found.last.stress is not None
    np.testing.assert_allclose(found.last.stress / 0.006241509074, -2.0 * np.eye(3), atol=0.01)  # eV/Å³ in a GPa
    assert found.atoms.cell.lengths()[0] < LATTICE / np.sqrt(2) - 0.05


class Tilted(RigidIons):
    """An energy that favours another symmetry: pulls the first atom along x, and shears the cell."""

    def calculate(self, *arguments: Any, **options: Any) -> None:
        super().calculate(*arguments, **options)
        self.results["forces"] = self.results["forces"].copy()
        self.results["forces"][0, 0] += 0.02
        self.results["stress"] = self.results["stress"] + np.array([0, 0, 0, 0.002, 0, 0])


def test_symmetry_is_kept_against_forces_that_break_it() -> None:
    pytest.importorskip("spglib")
    start = strained(strain=1.02 * np.eye(3))
    kept = relax(Tilted(), start)
    assert kept.converged
    assert kept.space_group == "Fm-3m (225)"
    np.testing.assert_allclose(kept.atoms.cell.angles(), 60.0, atol=1e-9)
    free = relax(Tilted(), start, symmetry=False, steps=30)
    assert np.abs(free.atoms.cell.angles() - 60.0).max() > 0.1


def test_a_structure_within_the_tolerance_is_brought_onto_its_group() -> None:
    pytest.importorskip("spglib")
    start = rock_salt()
    start.positions[0] += 1e-4
    found = relax(RigidIons(), start, fixed_cell=True)
    assert found.space_group == "Fm-3m (225)"
    apart = found.atoms.get_scaled_positions()[1] - found.atoms.get_scaled_positions()[0]
    np.testing.assert_allclose(apart - np.round(2 * apart) / 2, 0.0, atol=1e-12)


def test_constraints_hold_and_stay_with_the_result() -> None:
    start = rock_salt(cubic=True)
    start.rattle(0.1, seed=0)
    start.set_constraint(FixAtoms([0, 3]))
    found = relax(RigidIons(), start, fixed_cell=True)
    assert found.converged
    np.testing.assert_array_equal(found.atoms.positions[[0, 3]], start.positions[[0, 3]])
    np.testing.assert_array_equal(found.atoms.constraints[0].index, [0, 3])
    np.testing.assert_array_equal(found.atoms.cell.array, start.cell.array)
    assert any("constraints of its own" in note for note in found.notes)
    assert start.calc is None


def test_of_slabs_and_molecules_the_positions_move_and_a_note_says_so() -> None:
    for pbc in ((True, True, False), (False, False, False)):
        start = rock_salt(cubic=True)
        start.pbc = pbc
        start.rattle(0.02, seed=0)
        found = relax(RigidIons(), start, largest_force=0.01)
        assert found.converged
        assert not found.cell_relaxed
        np.testing.assert_array_equal(found.atoms.cell.array, start.cell.array)
        assert "positions only" in found.notes[0]
    with pytest.raises(ConfigError, match=r"pressure is 1\.0 GPa"):
        relax(RigidIons(), start, pressure=1.0)
    with pytest.raises(ConfigError, match="symmetry cannot be kept"):
        relax(RigidIons(), start, symmetry=True)


def test_an_atom_on_a_spring_goes_to_the_origin() -> None:
    found = relax(Toy(), molecule(0, formula="H"), largest_force=1e-6)
    np.testing.assert_allclose(found.atoms.positions, 0.0, atol=1e-5)


class NoStress(RigidIons):
    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (as ASE has it)


class Broken(RigidIons):
    def calculate(self, *arguments: Any, **options: Any) -> None:
        super().calculate(*arguments, **options)
        self.results["forces"] = self.results["forces"] * np.nan


def test_what_cannot_be_relaxed_is_an_error() -> None:
    with pytest.raises(HostError, match="gives no stress"):
        relax(NoStress(), rock_salt())
    assert relax(NoStress(), rock_salt(), fixed_cell=True).converged
    with pytest.raises(GeometryError, match="step 0: energy, forces or stress are NaN"):
        relax(Broken(), rock_salt())
    with pytest.raises(ConfigError, match="largest force is 0"):
        relax(RigidIons(), rock_salt(), largest_force=0)


def test_what_belongs_to_the_old_positions_is_left_out() -> None:
    start = rock_salt()
    start.info.update(REF_energy=1.0, charge=0)
    start.arrays["REF_forces"] = np.zeros((2, 3))
    start.set_velocities(np.ones((2, 3)))
    found = relax(RigidIons(), start, steps=0, largest_force=1.0, largest_stress=10.0)
    assert found.left_out == ["REF_energy", "REF_forces", "momenta"]
    assert found.atoms.info == {"charge": 0}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    """Run `les-plugins relax ARGUMENTS` in this process with rigid ions in the place of a checkpoint."""
    monkeypatch.setattr(
        "les_plugins.cli.relax.open_model",
        lambda *given, **named: (RigidIons(), {"path": str(given[0]), "long_range": {}}),
    )
    return lambda *arguments: les_plugins_command("relax", *arguments)


@pytest.fixture
def crystal(tmp_path: Path) -> Path:
    file = tmp_path / "nacl.xyz"
    ase.io.write(file, strained(strain=1.02 * np.eye(3)))
    return file


@pytest.mark.parametrize("name", ["out.xyz", "POSCAR", "out.cif", "out.traj", "out.xsf"])
def test_the_file_holds_the_relaxed_structure(command: Any, crystal: Path, tmp_path: Path, name: str) -> None:
    code, printed, _ = command("m.les", crystal, "-o", tmp_path / name, "--json")
    report = json.loads(printed)
    assert code == 0
    assert report["converged"]
    assert report["pressure_GPa"] == 0.0
    atoms = ase.io.read(tmp_path / name)
    np.testing.assert_allclose(atoms.get_volume(), report["after"]["volume_A3"], rtol=1e-5)
    assert report["after"]["volume_A3"] < report["before"]["volume_A3"]
    if name == "out.xyz":
        assert atoms.get_potential_energy() == pytest.approx(report["after"]["energy_eV"])
        assert np.abs(atoms.get_stress()).max() < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["nacl.xyz", name])


def test_not_at_rest_is_exit_code_one_and_the_file_is_there(command: Any, crystal: Path, tmp_path: Path) -> None:
    code, _, errors = command("m.les", crystal, "-o", tmp_path / "out.xyz", "--steps", 1)
    assert code == 1
    assert "not at rest after 1 steps: largest force" in errors
    assert [line for line in errors.splitlines() if line.startswith("error")] == errors.strip().splitlines()[-1:]
    assert ase.io.read(tmp_path / "out.xyz").get_volume() < ase.io.read(crystal).get_volume()


def test_constraints_are_written(command: Any, tmp_path: Path) -> None:
    start = rock_salt(cubic=True)
    start.set_constraint(FixAtoms([1]))
    ase.io.write(tmp_path / "in.traj", start)
    code, printed, _ = command("m.les", tmp_path / "in.traj", "-o", tmp_path / "out.xyz")
    assert code == 0
    assert "fractional coordinates are kept" in printed
    np.testing.assert_array_equal(ase.io.read(tmp_path / "out.xyz").constraints[0].index, [1])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nacl.xyz", "is the input"),
        ("out.dat", r"allowed: a name that ends in \.xyz"),
        ("no/out.xyz", "there is no folder"),
        (".", "it is a folder"),
    ],
)
def test_outputs_that_cannot_be_are_errors(command: Any, crystal: Path, tmp_path: Path, name: str, said: str) -> None:
    code, _, errors = command("m.les", crystal, "-o", tmp_path / name)
    assert code == 1
    assert re.search(said, errors)
    assert len(errors.strip().splitlines()) == 1


def test_an_ion_is_relaxed_and_kept_with_the_charge_that_the_calculator_gives_it() -> None:
    calculator = ChargedToy()
    calculator.total_charge_key = "Q"
    cases: list[tuple[dict[str, Any], float | None]] = [({"charge": -1}, None), ({"Q": -1, "spin": 2}, None), ({}, -1)]
    for brought, own in cases:
        calculator.total_charge = own
        found = relax(calculator, ion(**brought), steps=2, symmetry=False)
        assert found.atoms.info == (brought or {"charge": -1})
        assert found.last.energy == pytest.approx(toy_energy(found.atoms, -1.0), rel=1e-12)
