"""Relaxation of positions and cell with any ASE calculator, symmetry kept. `les-plugins relax` calls this."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, LBFGS

from les_plugins.data.copies import said_of_charge_and_spin
from les_plugins.data.frames import check_frame
from les_plugins.data.given_charge import brings_charge, charge_to_keep
from les_plugins.data.metrics import Floats
from les_plugins.errors import ConfigError, GeometryError, HostError

#: Atoms up to which the optimizer keeps the whole Hessian (BFGS); above, the last hundred steps of it (LBFGS).
_WHOLE_HESSIAN = 200
#: Largest step, Å; for the cell it is the atoms' number times a strain, of which FixSymmetry takes 0.15 at most.
_STEP = 0.2
#: Arrays of a structure that stay true when its atoms move.
_KEPT_ARRAYS = ("numbers", "positions", "tags", "masses", "initial_charges", "initial_magmoms")


@dataclass(frozen=True)
class State:
    """Where a relaxation stands.

    Attributes:
        energy: eV.
        forces: (N, 3) eV/Å, constraints applied.
        largest_force: largest norm of them, eV/Å.
        stress: (3, 3) eV/Å³ of ASE's sign (tension is positive), or None where the cell is not relaxed.
        excess_stress: largest component of stress + pressure, GPa; 0 where the cell is not relaxed.
    """

    energy: float
    forces: Floats
    largest_force: float
    stress: Floats | None
    excess_stress: float


@dataclass(frozen=True)
class Relaxation:
    """What `relax` found.

    Attributes:
        atoms: the relaxed structure, its constraints, and what of its data does not depend on positions.
        converged: whether forces and stress are below their limits.
        steps: that were made.
        first: before the first step.
        last: after the last.
        cell_relaxed: whether the cell was free.
        space_group: name that was kept, or None where symmetry was not asked for or cannot be.
        notes: what to know about the result.
        left_out: names of data of the structure that belonged to the old positions.
    """

    atoms: Atoms
    converged: bool
    steps: int
    first: State
    last: State
    cell_relaxed: bool
    space_group: str | None
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def relax(
    calculator: Any,
    atoms: Atoms,
    largest_force: float = 1e-3,
    largest_stress: float = 0.01,
    steps: int = 500,
    pressure: float | None = None,
    fixed_cell: bool = False,
    symmetry: bool | None = None,
    symmetry_tolerance: float = 1e-3,
    track: Callable[[range], Iterable[int]] = iter,
) -> Relaxation:
    """Minimize the enthalpy E + P V over positions and, of structures periodic along three axes, the cell.

    Args:
        calculator: ASE calculator with forces and, where the cell is free, stress.
        atoms: structure, not changed; its constraints hold. Of slabs and open structures the positions alone move.
        largest_force: eV/Å, converged below it.
        largest_stress: GPa, every component of stress + pressure is below it when converged.
        steps: most that are made.
        pressure: GPa, hydrostatic; 0 when None.
        fixed_cell: leave the cell as it is.
        symmetry: keep the space group (needs spglib); None: where spglib is there and the structure allows it.
        symmetry_tolerance: Å, of the search for the space group; the structure is brought onto it exactly.
        track: wraps the range of steps, for a progress bar.

    Raises:
        ConfigError: an option out of its range, or a pressure or a symmetry that this structure cannot have.
        HostError: the calculator gives no stress, or spglib is missing.
        GeometryError: energy, forces or stress are not finite, or the cell ran away; names the step.
    """
    _check_options(largest_force, largest_stress, steps, symmetry_tolerance)
    free_cell = bool(atoms.pbc.all()) and not fixed_cell
    if pressure is not None and not (math.isfinite(pressure) and free_cell):
        raise ConfigError(
            f"pressure is {pressure} GPa; allowed: a finite number, for a free cell that is periodic along three axes"
        )
    if free_cell and "stress" not in calculator.implemented_properties:
        raise HostError(
            "the calculator gives no stress, so the cell cannot be relaxed; relax the positions (fixed cell)"
        )
    moving, left_out = _bare(atoms, calculator)
    notes = _notes(atoms, fixed_cell)
    group = _keep_symmetry(moving, symmetry, symmetry_tolerance, notes)
    moving.calc = calculator
    target: Any = moving
    if free_cell:
        target = FrechetCellFilter(moving, scalar_pressure=(pressure or 0.0) * units.GPa)
    optimizer_class: Any = BFGS if len(atoms) <= _WHOLE_HESSIAN else LBFGS
    optimizer = optimizer_class(target, logfile=None, maxstep=_STEP / 2 if free_cell and len(atoms) == 1 else _STEP)

    def done(state: State) -> bool:
        return state.largest_force <= largest_force and state.excess_stress <= largest_stress

    first = last = _state(moving, free_cell, pressure or 0.0, 0)
    iteration = optimizer.irun(fmax=0.0, steps=steps)  # the limits are ours: ASE has one for forces and stress
    next(iteration)
    made = 0
    for number in track(range(steps)):
        if done(last):
            break
        try:
            next(iteration)
        except RuntimeError as error:  # of FixSymmetry
            raise GeometryError(f"step {number + 1}: {error}") from None
        check_frame(moving, f"step {number + 1}")
        made, last = number + 1, _state(moving, free_cell, pressure or 0.0, number + 1)
    moving.calc = None
    moving.set_constraint(atoms.copy().constraints)
    return Relaxation(moving, done(last), made, first, last, free_cell, group, notes, left_out)


def _check_options(largest_force: float, largest_stress: float, steps: int, tolerance: float) -> None:
    for name, value, unit in (
        ("largest force", largest_force, "eV/Å"),
        ("largest stress", largest_stress, "GPa"),
        ("symmetry tolerance", tolerance, "Å"),
    ):
        if not 0.0 < value < math.inf:
            raise ConfigError(f"the {name} is {value} {unit}; allowed: a positive number")
    if steps < 0:
        raise ConfigError(f"steps is {steps}; allowed: 0 or more")


def _bare(atoms: Atoms, calculator: Any) -> tuple[Atoms, list[str]]:
    """A copy without labels, velocities and results, which belong to the old positions, and their names.

    It has the total charge that the calculator gives it, and what else the calculator reads.
    """
    bare: Atoms = atoms.copy()
    key = getattr(calculator, "total_charge_key", None)
    kept_info = {*said_of_charge_and_spin(atoms), key, *getattr(calculator, "read_names", ())}
    left_out = sorted((set(bare.arrays) - set(_KEPT_ARRAYS)) | (set(bare.info) - kept_info))
    for name in left_out:
        bare.arrays.pop(name, None)
        bare.info.pop(name, None)
    if not brings_charge(atoms, key):
        bare.info.update(charge_to_keep(calculator, atoms))
    return bare, left_out


def _notes(atoms: Atoms, fixed_cell: bool) -> list[str]:
    notes = []
    if not atoms.pbc.all() and not fixed_cell:
        kind = "open structures have none" if not atoms.pbc.any() else "slabs have no stress here"
        notes.append(f"positions only: the cell is relaxed of structures periodic along three axes, {kind}")
    elif atoms.constraints and not fixed_cell:
        notes.append("atoms that are held move with the cell: their fractional coordinates are kept")
    return notes


def _keep_symmetry(moving: Atoms, wanted: bool | None, tolerance: float, notes: list[str]) -> str | None:
    """Bring the structure onto its space group and hold it there; the group's name."""
    problem = None
    if not moving.pbc.all():
        problem = "a structure that is not periodic along three axes has no space group"
    elif moving.constraints:
        problem = "the structure has constraints of its own, which its space group may not keep"
    elif find_spec("spglib") is None:
        problem = "spglib is not installed (pip install spglib)"
    if wanted and problem is not None:
        raise (HostError if "spglib" in problem else ConfigError)(f"symmetry cannot be kept: {problem}")
    if wanted is False or problem is not None:
        if wanted is None and moving.pbc.all():
            notes.append(f"symmetry is not kept: {problem}")
        return None
    from ase.spacegroup.symmetrize import check_symmetry

    try:
        moving.set_constraint(FixSymmetry(moving, symprec=tolerance))
        data = check_symmetry(moving, symprec=tolerance)
    except Exception as error:  # spglib's own kinds, for atoms in one place
        raise GeometryError(f"spglib finds no space group within {tolerance} Å: {error}") from None
    return f"{data.international} ({data.number})"


def _state(atoms: Atoms, free_cell: bool, pressure: float, step: int) -> State:
    energy, forces = float(atoms.get_potential_energy()), np.asarray(atoms.get_forces(), dtype=float)
    stress, excess = None, 0.0
    if free_cell:
        stress = np.asarray(atoms.get_stress(voigt=False), dtype=float)
        excess = float(np.abs(stress / units.GPa + pressure * np.eye(3)).max())
    largest = float(np.linalg.norm(forces, axis=1).max())
    if not (math.isfinite(energy) and math.isfinite(largest) and math.isfinite(excess)):
        raise GeometryError(f"step {step}: energy, forces or stress are NaN or infinite")
    return State(energy, forces, largest, stress, excess)
