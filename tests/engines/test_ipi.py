"""The driver of i-PI: units and orders of what it sends, and i-PI itself run with it in process and over a socket."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import time
import uuid
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from rigid_ions import RigidIons
from skew_ions import BORN, EXCESS, POLARIZABILITY, SkewIons, crystal, signs
from toy_calculator import Toy, molecule

import les_plugins
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError, LesPluginsWarning

pytest.importorskip("ipi", reason="i-PI is not installed (extra ipi)")

from ipi.pes import load_pes

from les_plugins.engines import ipi_pes
from les_plugins.engines.ipi_pes import LesDriver

SCRIPTS = Path(sysconfig.get_path("scripts"))
#: Relative: i-PI has eight digits of an eV in hartree (1e-7) and of an Å in bohr (1e-8); ASE has all.
I_PI_UNITS = 3e-7
#: i-PI prints positions in Å and forces in eV/Å with eight decimals.
PRINTED = 1e-8
FIELD = (0.1, -0.2, 0.3)
#: What a run may take here, s; alone it takes three.
PATIENCE = 120
PES = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from skew_ions import SkewIons
from les_plugins.engines.ipi_pes import LesDriver
class Driver(LesDriver):
    def make_calculator(self):
        return SkewIons()
__DRIVER_NAME__, __DRIVER_CLASS__ = "skew", "Driver"
"""
INPUT = """
<simulation verbosity='low'>
  <output prefix='sim'>
    <properties stride='1' filename='out'>
      [ conserved{electronvolt}, potential{electronvolt}, temperature{kelvin}, pressure_md ]
    </properties>
    <trajectory filename='pos' stride='1' format='ase'> positions </trajectory>
    <trajectory filename='field' stride='1' format='ase'> Eforces </trajectory>
  </output>
  <total_steps> STEPS </total_steps>
  <prng> <seed> 1 </seed> </prng>
  FORCEFIELD
  <system>
    <initialize nbeads='1'> <file mode='ase'> start.xyz </file> </initialize>
    <forces> <force forcefield='les'/> </forces>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
    MOTION
  </system>
</simulation>
"""
DIRECT = """
  <ffdirect name='les'>
    <pes> custom </pes> <pes_path> pes.py </pes_path> <parameters> { OPTIONS } </parameters>
  </ffdirect>
"""
NVE = """
  <motion mode='dynamics'>
    <dynamics mode='nve'> <timestep units='femtosecond'> 4 </timestep> </dynamics>
  </motion>
"""
DRIVEN = f"""
  <motion mode='driven_dynamics'>
    <driven_dynamics mode='MODE'>
      <timestep units='femtosecond'> 4 </timestep>
      <thermostat mode='langevin'> <tau units='femtosecond'> 20 </tau> </thermostat>
      <efield> <amp units='v/ang'> {list(FIELD)} </amp> </efield>
      <bec mode='driver'/>
    </driven_dynamics>
  </motion>
"""


class Skew(LesDriver):
    """The driver of a calculator without a checkpoint."""

    def make_calculator(self) -> Any:
        return SkewIons()


def upright() -> Atoms:
    """The crystal in i-PI's orientation, first lattice vector along x, second in the xy plane."""
    atoms = crystal()
    atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return atoms


def sent(driver: LesDriver, atoms: Atoms) -> tuple[float, Any, Any, dict[str, Any]]:
    """What the driver answers, back in eV and Å but for the extras."""
    cell, positions = atoms.cell.array.T / units.Bohr, atoms.positions / units.Bohr
    energy, forces, virial, extras = driver(cell, positions)
    return energy * units.Ha, forces * (units.Ha / units.Bohr), virial * units.Ha, json.loads(extras)


def run_ipi(folder: Path, motion: str, forcefield: str, steps: int = 5) -> Any:
    """Start i-PI on the crystal; the process, its output going to the file log."""
    (folder / "pes.py").write_text(PES, encoding="utf-8")
    upright().write(folder / "start.xyz")
    text = INPUT.replace("FORCEFIELD", forcefield).replace("MOTION", motion).replace("STEPS", str(steps))
    (folder / "input.xml").write_text(text, encoding="utf-8")
    return started(folder, "i-pi", "input.xml")


def started(folder: Path, script: str, *arguments: str) -> Any:
    with (folder / f"{script}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, str(SCRIPTS / script), *arguments]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def finished(process: Any, folder: Path) -> tuple[Any, list[Atoms]]:
    """Rows of properties, and frames, of a run that ended well."""
    try:
        code = process.wait(timeout=PATIENCE)
    finally:
        process.kill()
    assert code == 0, (folder / "i-pi.log").read_text(encoding="utf-8")
    return np.loadtxt(folder / "sim.out"), ase.io.read(folder / "sim.pos_0.extxyz", ":")


def assert_is_an_nve_of_the_calculator(rows: Any, frames: list[Atoms], steps: int) -> None:
    calculator, start = SkewIons(), upright()
    assert len(rows) == len(frames) == steps + 1
    np.testing.assert_allclose(frames[0].positions, start.positions, atol=2 * PRINTED)
    for row, frame in zip(rows, frames, strict=True):
        frame.cell = start.cell  # printed with fewer digits
        # positions of eight decimals at forces below 1 eV/Å: 1e-7 eV
        assert row[1] == pytest.approx(calculator.get_potential_energy(frame), rel=I_PI_UNITS, abs=1e-7)
    assert np.abs(frames[-1].positions - start.positions).max() > 1e-3  # it moves
    # the error of the Verlet integrator, a hundredth of what potential and kinetic energy exchange
    assert np.ptp(rows[:, 0]) < 0.01 * np.ptp(rows[:, 1])


def test_energy_forces_and_virial_are_the_calculators() -> None:
    atoms, calculator = upright(), SkewIons()
    energy, forces, virial, _ = sent(Skew(template=atoms), atoms)
    assert energy == pytest.approx(calculator.get_potential_energy(atoms), rel=I_PI_UNITS)
    # Å in bohr, 1.3e-8 off, is a strain: 1e-7 Å in this cell, at force constants of some eV/Å²
    np.testing.assert_allclose(forces, calculator.get_forces(atoms), rtol=I_PI_UNITS, atol=3e-7)
    stress = calculator.get_property("stress", atoms)[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    np.testing.assert_allclose(virial, -stress * atoms.get_volume(), rtol=I_PI_UNITS, atol=3e-6)
    assert np.abs(virial).max() > 0.1


def test_the_extras_times_a_field_are_the_derivative_of_dipole_times_field() -> None:
    atoms = upright()
    extras = sent(Skew(template=atoms, born=True, sum_rule=False), atoms)[3]
    forces = (np.array(extras["BEC"]) @ FIELD).reshape(-1, 3)
    numerical = np.zeros_like(forces)
    for atom, axis in np.ndindex(*forces.shape):
        ends = []
        for step in (1e-3, -1e-3):
            moved = atoms.copy()
            moved.positions[atom, axis] += step
            ends.append(SkewIons().get_property("dipole", moved) @ FIELD)
        numerical[atom, axis] = (ends[0] - ends[1]) / 2e-3
    np.testing.assert_allclose(forces, numerical, atol=1e-9)  # the dipole is linear: rounding alone


def test_born_charges_obey_the_sum_rule_unless_it_is_turned_off() -> None:
    atoms = upright()
    enforced = np.array(sent(Skew(template=atoms, born=True), atoms)[3]["BEC"]).reshape(-1, 3, 3)
    assert np.abs(enforced.sum(0)).max() < 1e-8  # i-PI's own threshold
    np.testing.assert_allclose(enforced, signs(atoms)[:, None, None] * BORN.T, atol=1e-12)
    raw = np.array(sent(Skew(template=atoms, born=True, sum_rule=False), atoms)[3]["BEC"]).reshape(-1, 3, 3)
    np.testing.assert_allclose(raw.mean(0), EXCESS.T, atol=1e-12)


def test_dipole_and_polarizability_are_sent_in_atomic_units() -> None:
    atoms = upright()
    extras = sent(Skew(template=atoms), atoms)[3]
    assert set(extras) == {"dipole", "polarizability"}
    dipole = SkewIons().get_property("dipole", atoms)
    np.testing.assert_allclose(np.array(extras["dipole"]) * units.Bohr, dipole, rtol=I_PI_UNITS)
    polarizability = np.array(extras["polarizability"]) * units.Bohr**2 / units.Ha
    np.testing.assert_allclose(polarizability, POLARIZABILITY, rtol=I_PI_UNITS)


def test_an_open_structure_has_no_cell_and_no_virial(monkeypatch: pytest.MonkeyPatch) -> None:
    water, toy = molecule(0), Toy()
    monkeypatch.setattr(LesDriver, "make_calculator", lambda self: toy)
    boxed = molecule(0, periodic=True)  # i-PI has a cell whatever the template says
    for driver in (
        LesDriver(template=water, pbc=False),
        LesDriver(template=boxed, pbc=False),
        LesDriver(template=boxed, pbc="FFF"),
    ):
        energy, _, virial, _ = sent(driver, boxed)
        assert energy == pytest.approx(Toy().get_potential_energy(water), rel=I_PI_UNITS)
        assert "stress" not in toy.asked[-1]
        assert np.isnan(virial).all()
    np.testing.assert_allclose(sent(LesDriver(template=water, pbc="ttt"), boxed)[2][0, 1], -0.05 * 336, rtol=I_PI_UNITS)


def test_options_reach_the_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked, ions = [], RigidIons()

    def load(path: str, device: str) -> RigidIons:
        asked.append((path, device))
        return ions

    monkeypatch.setattr(les_plugins.api, "load", load)
    upright().write(tmp_path / "start.xyz")
    # as i-pi-py_driver -o hands them over: numbers are read, and a positional one is possible
    driver = LesDriver("salt.les", template=str(tmp_path / "start.xyz"), device="cuda", epsilon_infinity=4)
    assert asked == [("salt.les", "cuda")]
    assert driver.calculator.epsilon_infinity == 4.0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"template": None}, ConfigError, "template is missing"),
        ({"template": "nowhere.xyz"}, DataError, "nowhere.xyz"),
        ({"temperature": 300}, ConfigError, "unknown option temperature; allowed: model, template"),
        ({"born": "yes"}, ConfigError, "born is 'yes'; allowed: true, false"),
        ({"sum_rule": 0}, ConfigError, "sum_rule is 0; allowed: true, false"),
        ({"pbc": "TT"}, ConfigError, "pbc is 'TT'; allowed: true, false, or three letters"),
        ({"template": molecule(0), "pbc": False}, DataError, "the model does not know H, O"),
        ({"template": molecule(0)}, ConfigError, r"has no lattice and does not say .*: give pbc=true"),
    ],
)
def test_wrong_options_raise_an_error(options: dict[str, Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        Skew(**({"template": upright()} | options))


@pytest.mark.parametrize(
    ("options", "calculator", "error", "words"),
    [
        ({}, None, ConfigError, "model is missing"),
        ({"model": "x.les", "epsilon_infinity": 0.5}, RigidIons(), ConfigError, "epsilon_infinity is 0.5"),
        ({"model": "x.les", "epsilon_infinity": 2}, RigidIons(has_long_range=False), HostError, "no long-range part"),
        ({"model": "x.les", "born": True}, RigidIons(has_long_range=False), HostError, "predicts no Born charges"),
    ],
)
def test_wrong_models_raise_an_error(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], calculator: Any, error: Any, words: str
) -> None:
    monkeypatch.setattr(les_plugins.api, "load", lambda path, device: calculator)
    with pytest.raises(error, match=words):
        LesDriver(template=upright(), **options)


def test_another_number_of_atoms_than_the_templates_raises_an_error() -> None:
    atoms = upright()
    with pytest.raises(GeometryError, match="i-PI has 7 atoms, the template 8"):
        sent(Skew(template=atoms), atoms[:7])


def test_the_path_that_is_printed_loads_as_a_custom_pes_and_shadows_no_module_of_i_pi() -> None:
    command = [sys.executable, "-m", "les_plugins.engines.ipi_pes"]
    path = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.strip()
    assert Path(path) == Path(ipi_pes.__file__).resolve()
    before = sys.modules["ipi"]
    try:
        assert load_pes("custom", path).__name__ == "LesDriver"
        assert sys.modules["ipi"] is before
    finally:
        sys.modules.pop(Path(path).stem)


def test_i_pi_runs_nve_in_process(tmp_path: Path) -> None:
    rows, frames = finished(run_ipi(tmp_path, NVE, DIRECT.replace("OPTIONS", "template: start.xyz"), 20), tmp_path)
    assert_is_an_nve_of_the_calculator(rows, frames, 20)
    pressure = -SkewIons().get_property("stress", upright())[:3].mean() / (units.Ha / units.Bohr**3)
    # at rest: of the virial alone; the strain of 1.3e-8 that i-PI's Å is (see above) times 25 GPa, of 0.18 GPa
    assert rows[0, 3] == pytest.approx(pressure, rel=1e-5)


def test_i_pi_runs_nve_over_a_unix_socket(tmp_path: Path) -> None:
    address = f"les-{uuid.uuid4().hex}"  # of this run alone: no socket that another one left behind
    socket = Path(f"/tmp/ipi_{address}")
    forcefield = f"<ffsocket name='les' mode='unix'> <address> {address} </address> </ffsocket>"
    server = run_ipi(tmp_path, NVE, forcefield)
    client = None
    try:
        end = time.monotonic() + PATIENCE
        while not socket.exists() and server.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        options = ["-u", "-a", address, "-m", "custom", "-P", "pes.py", "-o", "template=start.xyz,pbc=TTT"]
        client = started(tmp_path, "i-pi-py_driver", *options)
        rows, frames = finished(server, tmp_path)
        assert client.wait(timeout=PATIENCE) == 0
    finally:
        server.kill()
        if client is not None:
            client.kill()
        socket.unlink(missing_ok=True)
    # five steps only: what is exchanged is small, and so is the error of Verlet
    assert_is_an_nve_of_the_calculator(rows, frames, 5)


def test_a_static_field_moves_the_ions_as_forces_plus_field_times_born_charges_do(tmp_path: Path) -> None:
    options = "template: start.xyz, born: true"
    motion = DRIVEN.replace("MODE", "eda-nve")
    rows, frames = finished(run_ipi(tmp_path, motion, DIRECT.replace("OPTIONS", options), 20), tmp_path)
    atoms = upright()
    pushed = signs(atoms)[:, None] * (np.array(FIELD) @ BORN)
    # the file's reader takes the column of forces for that of the frame
    printed = ase.io.read(tmp_path / "sim.field_0.extxyz", 3).arrays["Eforces"]
    np.testing.assert_allclose(printed, pushed, rtol=I_PI_UNITS, atol=PRINTED)

    class Pushed(SkewIons):
        def calculate(self, *arguments: Any, **named: Any) -> None:
            super().calculate(*arguments, **named)
            self.results["forces"] = self.results["forces"] + pushed

    atoms.calc = Pushed()
    verlet = VelocityVerlet(atoms, 4.0 * units.fs)
    for number, frame in enumerate(frames):
        verlet.run(1 if number else 0)
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=3 * PRINTED)
    work = [(pushed * (frame.positions - frames[0].positions)).sum() for frame in frames]
    gained = rows[:, 0] - rows[0, 0]  # i-PI's conserved energy leaves the field out
    assert gained[-1] > 0.05
    np.testing.assert_allclose(gained, work, atol=0.01 * gained[-1])  # the error of Verlet, as without a field


def test_i_pi_runs_a_thermostat_in_a_field(tmp_path: Path) -> None:
    options = "template: start.xyz, born: true"
    motion = DRIVEN.replace("MODE", "eda-nvt")
    rows, frames = finished(run_ipi(tmp_path, motion, DIRECT.replace("OPTIONS", options)), tmp_path)
    assert len(frames) == 6
    assert np.isfinite(rows).all()
    # K, one relaxation time after a start at rest, towards 300; i-PI counts 37.5 K for the centre of mass that it holds
    assert 60 < rows[-1, 2] < 900


def test_i_pi_says_why_it_stops_when_the_model_refuses(tmp_path: Path) -> None:
    process = run_ipi(tmp_path, NVE, DIRECT.replace("OPTIONS", "born: true"))
    try:
        assert process.wait(timeout=PATIENCE) != 0
    finally:
        process.kill()
    assert "template is missing: i-PI sends no elements" in (tmp_path / "i-pi.log").read_text(encoding="utf-8")


def test_a_template_of_i_pis_own_format_needs_pbc_and_then_takes_i_pis_cell(tmp_path: Path) -> None:
    atoms, own, plain = upright(), tmp_path / "init.xyz", tmp_path / "plain.xyz"
    rows = [f"{symbol} {x} {y} {z}" for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)]
    own.write_text("\n".join([str(len(atoms)), "# CELL(abcABC): 11 11 11 90 90 90 positions{angstrom}", *rows, ""]))
    ase.io.write(plain, atoms, format="xyz")
    for path in (own, plain):
        with pytest.raises(ConfigError, match=rf"template .*{path.name} has no lattice .* give pbc=true"):
            Skew(template=str(path))
        energy = sent(Skew(template=str(path), pbc=True), atoms)[0]
        assert energy == pytest.approx(SkewIons().get_potential_energy(atoms), rel=I_PI_UNITS)
    ase.io.write(tmp_path / "open.xyz", Atoms(atoms.symbols, atoms.positions))  # says pbc="F F F"
    assert not Skew(template=str(tmp_path / "open.xyz")).template.pbc.any()


def test_constraints_of_a_template_are_not_used_and_that_is_said() -> None:
    atoms = upright()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.warns(LesPluginsWarning, match="constraints of the template are not used"):
        driver = Skew(template=atoms)
    forces = sent(driver, atoms)[1]
    np.testing.assert_allclose(forces, SkewIons().get_forces(upright()), rtol=I_PI_UNITS, atol=3e-7)
    assert np.abs(forces[0]).max() > 1e-3
