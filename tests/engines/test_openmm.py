"""OpenMM drives a calculator through OpenMM-ML: energies, forces and boxes are the calculator's, steps are OpenMM's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase import units as ase_units
from charged_toys import ChargedToy, ion, toy_energy
from rigid_ions import RigidIons, rock_salt
from toy_calculator import Toy, molecule

from les_plugins.committee import Committee
from les_plugins.engines import openmm as engine
from les_plugins.errors import DataError, GeometryError, HostError

WHY = "is not installed (extra openmm)"
openmm = pytest.importorskip("openmm", reason=f"openmm {WHY}")
openmmml = pytest.importorskip("openmmml", reason=f"openmmml {WHY}")
from openmm import app, unit  # noqa: E402 (skipped above where it is missing)

KJ_PER_MOL = ase_units.kJ / ase_units.mol  # eV
SKEW = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]])  # another basis of the same lattice


def disturbed(atoms: Atoms) -> Atoms:
    atoms.rattle(0.05, seed=1)
    return atoms


def turned(atoms: Atoms) -> Atoms:
    """The structure with its lattice described by other vectors, and turned at random."""
    atoms.set_cell(SKEW @ atoms.cell.array)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    atoms.set_cell(atoms.cell.array @ rotation, scale_atoms=True)
    return atoms


def left_handed(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def opened(atoms: Atoms) -> Atoms:
    atoms.set_cell(None)
    atoms.pbc = False
    return atoms


STRUCTURES = {
    "cubic": lambda: disturbed(rock_salt(cubic=True)),
    "primitive cells, no vector along x": lambda: disturbed(rock_salt().repeat(2)),
    "left-handed": lambda: left_handed(disturbed(rock_salt().repeat(2))),
    "turned, not reduced": lambda: turned(disturbed(rock_salt(cubic=True))),
    "open": lambda: opened(disturbed(rock_salt(cubic=True))),
}


def context(made: engine.OpenMMSystem, integrator: Any = None, platform: str = "Reference") -> Any:
    integrator = integrator or openmm.VerletIntegrator(0.001)
    made_context = openmm.Context(made.system, integrator, openmm.Platform.getPlatformByName(platform))
    made_context.setPositions(made.positions)
    return made_context


def energy_and_forces(at: Any) -> tuple[float, np.ndarray]:
    """eV, eV/Å."""
    state = at.getState(energy=True, forces=True)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoules_per_mole / unit.angstrom)
    return state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole) * KJ_PER_MOL, forces * KJ_PER_MOL


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_energy_and_forces_are_the_calculators(name: str, platform: str) -> None:
    atoms = STRUCTURES[name]()
    made = engine.system_from_atoms(atoms, RigidIons())
    energy, forces = energy_and_forces(context(made, platform=platform))
    expected = RigidIons()
    assert np.abs(expected.get_property("forces", atoms)).max() > 0.05
    # rounding: both platforms keep the positions and forces of a PythonForce in double precision
    assert energy == pytest.approx(expected.get_property("energy", atoms), abs=1e-10)
    np.testing.assert_allclose(forces @ made.rotation, expected.get_property("forces", atoms), atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_a_box_is_reduced_and_spans_the_turned_lattice(seed: int) -> None:
    cell = np.random.default_rng(seed).normal(size=(3, 3)) * 5.0
    box, rotation = engine.box_vectors(Atoms("Na", cell=cell, pbc=True))
    assert box is not None
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    basis = cell @ rotation.T @ np.linalg.inv(box)
    np.testing.assert_allclose(basis, np.round(basis), atol=1e-9)  # rounding of an inverse
    assert abs(np.linalg.det(basis)) == pytest.approx(1.0)
    system = openmm.System()
    system.addParticle(1.0)
    system.setDefaultPeriodicBoxVectors(*(box / 10.0))
    context_of_it = openmm.Context(system, openmm.VerletIntegrator(0.001))  # OpenMM refuses what is not reduced
    assert context_of_it.getState().getPeriodicBoxVolume().value_in_unit(unit.angstrom**3) == pytest.approx(
        abs(np.linalg.det(cell))
    )


def fluctuation(timestep: float, time: float = 160.0) -> float:
    """Standard deviation of the total energy of a run from the same start, eV; timestep and time in fs."""
    made = engine.system_from_atoms(disturbed(rock_salt(cubic=True)), RigidIons())
    at = context(made, openmm.VerletIntegrator(timestep * unit.femtosecond))
    at.setVelocitiesToTemperature(300.0, 7)
    integrator, energies = at.getIntegrator(), []
    for _ in range(round(time / timestep)):
        integrator.step(1)
        state = at.getState(energy=True)
        total = state.getPotentialEnergy() + state.getKineticEnergy()
        energies.append(total.value_in_unit(unit.kilojoules_per_mole) * KJ_PER_MOL)
    return float(np.std(energies))


def test_verlet_conserves_energy_to_the_square_of_the_time_step() -> None:
    coarse, fine = fluctuation(8.0), fluctuation(4.0)
    assert coarse < 1e-3  # eV; 8 atoms at 300 K have 0.3 eV of kinetic energy
    assert coarse / fine == pytest.approx(4.0, rel=0.1)  # what is left is of fourth order; 4.05 found


def test_langevin_brings_a_cold_crystal_to_its_temperature() -> None:
    made = engine.system_from_atoms(rock_salt(cubic=True), RigidIons())
    integrator = openmm.LangevinMiddleIntegrator(300.0, 50.0, 0.002)
    integrator.setRandomNumberSeed(11)
    at = context(made, integrator)
    at.setVelocitiesToTemperature(1.0, 7)
    kinetic = []
    for _ in range(200):
        integrator.step(1)
        kinetic.append(at.getState(energy=True).getKineticEnergy().value_in_unit(unit.kilojoules_per_mole))
    degrees = 3 * 8 - 3
    temperature = 2.0 * np.mean(kinetic[50:]) * KJ_PER_MOL / (degrees * ase_units.kB)
    # friction 50/ps: some eight independent samples of 21 degrees of freedom, 11 % of standard error
    assert 200.0 < temperature < 400.0


def test_a_barostat_moves_the_box_that_the_calculator_sees() -> None:
    atoms = disturbed(rock_salt(cubic=True))
    made = engine.system_from_atoms(atoms, RigidIons())
    barostat = openmm.MonteCarloBarostat(20000.0 * unit.bar, 300.0, 1)
    barostat.setRandomNumberSeed(3)
    made.system.addForce(barostat)
    at = context(made)
    at.setVelocitiesToTemperature(300.0, 7)
    at.getIntegrator().step(40)
    state = at.getState(energy=True, positions=True)
    now = Atoms(
        atoms.numbers,
        state.getPositions(asNumpy=True).value_in_unit(unit.angstrom),
        cell=state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom),
        pbc=True,
    )
    assert abs(now.get_volume() / atoms.get_volume() - 1.0) > 1e-3
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoules_per_mole) * KJ_PER_MOL
    assert energy == pytest.approx(RigidIons().get_property("energy", now), abs=1e-10)  # rounding


def test_velocities_of_the_structure_are_kept() -> None:
    atoms = turned(rock_salt(cubic=True))
    assert engine.system_from_atoms(atoms, RigidIons()).velocities is None
    atoms.set_velocities(np.random.default_rng(0).normal(size=(len(atoms), 3)))
    made = engine.system_from_atoms(atoms, RigidIons())
    assert made.velocities is not None
    at = context(made)
    at.setVelocities(made.velocities)
    kinetic = at.getState(energy=True).getKineticEnergy().value_in_unit(unit.kilojoules_per_mole)
    # positions have not moved: the Verlet integrator shifts velocities by half a step of forces, which are zero here
    assert kinetic * KJ_PER_MOL == pytest.approx(atoms.get_kinetic_energy(), rel=1e-6)
    angstrom_per_fs = atoms.get_velocities() * ase_units.fs
    np.testing.assert_allclose(made.velocities @ made.rotation, 100.0 * angstrom_per_fs, rtol=1e-12)


def test_masses_of_isotopes_are_kept() -> None:
    atoms = molecule(0)
    atoms.set_masses([15.999, 2.014, 1.008])
    system = engine.system_from_atoms(atoms, Toy()).system
    assert [system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(3)] == [15.999, 2.014, 1.008]


def chain_of(atoms: Atoms, box: np.ndarray | None) -> Any:
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    for number in atoms.numbers:
        topology.addAtom("X", app.Element.getByAtomicNumber(int(number)), residue)
    if box is not None:
        topology.setPeriodicBoxVectors(box / 10.0 * unit.nanometer)
    return topology


@pytest.mark.parametrize("periodic", [True, False])
def test_openmm_mls_own_two_lines_take_the_periodicity_from_the_topology(periodic: bool) -> None:
    atoms = STRUCTURES["cubic"]()
    topology = chain_of(atoms, atoms.cell.array if periodic else None)
    system = openmmml.MLPotential("ase").createSystem(topology, calculator=RigidIons())
    at = context(engine.OpenMMSystem(system, topology, atoms.positions / 10.0, np.eye(3)))
    expected = atoms if periodic else opened(atoms.copy())
    assert system.usesPeriodicBoundaryConditions() is periodic
    assert energy_and_forces(at)[0] == pytest.approx(RigidIons().get_property("energy", expected), abs=1e-10)


def test_a_mixed_system_counts_the_subsets_own_electrostatics_once() -> None:
    """With mlLongRange=True OpenMM-ML takes the force field's Ewald sum among the subset out, images included."""
    atoms = STRUCTURES["cubic"]().repeat(3)  # OpenMM wants a cutoff below half the box
    subset, charges = [0, 4, 9], np.where(atoms.numbers == 11, 0.4, -0.4)

    def force_field(active: list[int]) -> Any:
        system, force = openmm.System(), openmm.NonbondedForce()
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10.0))
        force.setNonbondedMethod(openmm.NonbondedForce.PME)
        force.setCutoffDistance(0.6)
        force.setEwaldErrorTolerance(1e-6)
        for number, charge in enumerate(charges):
            system.addParticle(20.0)
            force.addParticle(charge if number in active else 0.0, 0.1, 0.0)
        system.addForce(force)
        return system

    topology = chain_of(atoms, atoms.cell.array)
    mixed = openmmml.MLPotential("ase").createMixedSystem(
        topology, force_field(list(range(len(atoms)))), subset, calculator=RigidIons(), mlLongRange=True
    )

    def energy(system: Any) -> float:
        made = engine.OpenMMSystem(system, topology, atoms.positions / 10.0, np.eye(3))
        return energy_and_forces(context(made))[0]

    model = RigidIons().get_property("energy", atoms[subset])
    expected = energy(force_field(list(range(len(atoms))))) - energy(force_field(subset)) + model
    assert energy(mixed) == pytest.approx(expected, abs=1e-3)  # eV: the error of three Ewald sums
    assert abs(model) > 0.1


class TestRefused:
    def test_slabs(self) -> None:
        atoms = rock_salt(cubic=True)
        atoms.pbc = (True, True, False)
        with pytest.raises(GeometryError, match="pbc is T T F; OpenMM has boxes"):
            engine.system_from_atoms(atoms, RigidIons())

    def test_constraints_and_strange_elements(self) -> None:
        from ase.constraints import FixAtoms

        atoms = rock_salt(cubic=True)
        with pytest.raises(DataError, match="the model does not know Na, Cl"):
            engine.system_from_atoms(atoms, Toy())
        atoms.set_constraint(FixAtoms([0]))
        with pytest.raises(GeometryError, match="has constraints of ASE"):
            engine.system_from_atoms(atoms, RigidIons())

    def test_what_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "openmmml" else object())
        with pytest.raises(HostError, match=r'^openmmml not installed: pip install "\.\[openmm\]" from a clone'):
            engine.system_from_atoms(rock_salt(), RigidIons())

    def test_what_the_calculator_refuses_in_its_own_words(self) -> None:
        class Refusing(Toy):
            def calculate(self, *arguments: Any, **named: Any) -> None:
                raise GeometryError("in its own words")

        at = context(engine.system_from_atoms(molecule(0), Refusing()))
        with pytest.raises(openmm.OpenMMException, match="in its own words"):
            energy_and_forces(at)


def test_a_charged_structure_has_the_committee_s_charge_or_is_an_error() -> None:
    calculator = Committee([ChargedToy(), ChargedToy()])
    with pytest.raises(DataError, match=r"which OpenMM does not hand on .* set calculator.total_charge = -1"):
        engine.system_from_atoms(ion(-1), calculator)
    calculator.total_charge = -1
    energy, _ = energy_and_forces(context(engine.system_from_atoms(ion(-1), calculator)))
    # OpenMM's nm and kJ/mol and back
    assert energy == pytest.approx(toy_energy(ion(), -1.0), rel=1e-9)
