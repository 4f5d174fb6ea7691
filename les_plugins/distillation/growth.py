"""Candidates grown from a start: dynamics at several temperatures in strained cells, rattled frames, long waves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from les_plugins.data.copies import said_of_charge_and_spin
from les_plugins.data.given_charge import charge_read
from les_plugins.data.trajectory import Trajectory
from les_plugins.distillation.displacements import moved_ions, of_atoms_in_molecules, rattled, with_waves
from les_plugins.dynamics import Settings, run
from les_plugins.dynamics.restart import load_state, state_path
from les_plugins.dynamics.settings import HOTTEST
from les_plugins.dynamics.stability import CRUSHED
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning

#: Thermostats of the first steps, from whatever start, and of those after: relaxation times, fs.
WARM_UP_TIME, THERMOSTAT_TIME = 10.0, 50.0
#: The first steps are so much shorter.
WARM_UP_PART = 0.25
#: Options of the command that are called otherwise than the settings below.
_OPTIONS = {"frames": "grow", "temperatures": "temperature"}


class Growth(BaseModel):
    """How candidates are grown; all options of the command but the files.

    Attributes:
        frames: how many are to be chosen and labelled.
        candidates: how many are made for each one that is chosen.
        temperatures: K; walkers take them in turn.
        walkers: simulations, each from a start of its own as long as there are some; None: one for each start and at
            least one for each temperature.
        interval: steps between candidates.
        timestep: fs.
        warm_up: steps of a quarter of the time step before the first candidate, with a strong thermostat.
        hydrogen_mass: u, in the place of 1.008: the same structures occur at every mass, and heavier atoms allow a
            longer time step. None: as they are.
        strain: one standard deviation of each component of the strain of a walker's cell.
        rattled: part of the candidates whose ions and molecules are displaced and turned as wholes, atoms a little.
        rattle: Å, one standard deviation of each component of such a displacement.
        waves: part of the candidates that are doubled along a lattice vector and displaced along waves of that length.
        amplitude: Å, root mean square of each component of the waves.
        seed: of everything random.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: int = Field(ge=2, le=10**6)
    candidates: int = Field(default=3, ge=1, le=1000)
    temperatures: tuple[float, ...] = (300.0,)
    walkers: int | None = Field(default=None, ge=1, le=10**4)
    interval: int = Field(default=10, ge=1, le=10**6)
    timestep: float = Field(default=0.5, gt=0, le=10)
    warm_up: int = Field(default=100, ge=0, le=10**6)
    hydrogen_mass: float | None = Field(default=None, ge=1.0, le=20.0)
    strain: float = Field(default=0.02, ge=0, le=0.2)
    rattled: float = Field(default=0.25, ge=0, le=1)
    rattle: float = Field(default=0.05, ge=0, le=1)
    waves: float = Field(default=0.0, ge=0, le=1)
    amplitude: float = Field(default=0.15, ge=0, le=2)
    seed: int = Field(default=0, ge=0)

    @classmethod
    def of(cls, **values: Any) -> Growth:
        """Settings from keyword arguments; ConfigError names an option that is not allowed."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = "".join(f"--{_OPTIONS.get(str(part), str(part))}" for part in first["loc"][:1]).replace("_", "-")
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{name} is {first['input']!r}: {message}" if name else message) from None

    @model_validator(mode="after")
    def _consistent(self) -> Growth:
        if not self.temperatures or not all(0 < t < HOTTEST for t in self.temperatures):
            given = ", ".join(f"{t:g}" for t in self.temperatures)
            raise ValueError(f"--temperature is {given or 'empty'}; allowed: above 0 and below {HOTTEST:g} K")
        if self.rattled + self.waves > 1:
            raise ValueError(
                f"--rattled {self.rattled} and --waves {self.waves} are parts of all; allowed: up to 1 together"
            )
        return self

    def check(self, starts: Sequence[Atoms]) -> None:
        """See whether these structures can be starts.

        Raises:
            ConfigError: waves in structures that are not periodic along all axes, or that have constraints.

        Warns:
            LesPluginsWarning: slabs or wires, whose cells are not strained.
        """
        if self.waves and not all(atoms.pbc.all() for atoms in starts):
            raise ConfigError("--waves needs structures that are periodic along all three axes; allowed otherwise: 0")
        if self.waves and any(atoms.constraints for atoms in starts):
            raise ConfigError("--waves displaces all atoms, and a structure has constraints; allowed with those: 0")
        some = sum(bool(atoms.pbc.any() and not atoms.pbc.all()) for atoms in starts)
        if self.strain and some:
            warnings.warn(
                f"--strain {self.strain:g} is left out for {some} of {len(starts)} structures, which are not periodic "
                "along all three axes",
                LesPluginsWarning,
                2,
            )

    def walkers_of(self, starts: int) -> int:
        """How many simulations there are."""
        return self.walkers or max(starts, len(self.temperatures))

    def snapshots_of(self, starts: int) -> int:
        """Candidates of each simulation."""
        return -(-self.frames * self.candidates // self.walkers_of(starts))


def grow(
    driver: Any,
    starts: Sequence[Atoms],
    growth: Growth,
    folder: Path,
    facts: Mapping[str, Any],
    track: Callable[[range, str], Iterable[int]] = lambda numbers, text: numbers,
) -> list[Atoms]:
    """Candidates, the same ones however often it is stopped and called again.

    Args:
        driver: ASE calculator that drives the dynamics.
        starts: structures to start from.
        growth: settings.
        folder: where trajectories are kept meanwhile.
        facts: what identifies the driver; compared when a simulation is gone on with.
        track: wraps the step numbers of each simulation, given with what it is.

    Returns:
        The candidates, in `info["origin"]` where each is from.

    Raises:
        DataError: no walker gave any candidate.
        ConfigError: constraints of a start that dynamics cannot have.

    Warns:
        LesPluginsWarning: a simulation came apart; the candidates before it are kept.
    """
    found = []
    for walker in range(count := growth.walkers_of(len(starts))):
        start, bar = starts[walker % len(starts)], _bar(track, f"walker {walker + 1} of {count}")
        for number, atoms in enumerate(_walk(driver, start, growth, len(starts), walker, folder, facts, bar)):
            candidate = _varied(atoms, growth, walker, number)
            candidate.set_constraint()
            if is_sane(candidate):
                found.append(candidate)
    if not found:
        raise DataError("no simulation gave a structure; try a shorter --timestep or a start nearer to equilibrium")
    return found


def _bar(track: Callable[[range, str], Iterable[int]], text: str) -> Callable[[range], Iterable[int]]:
    return lambda numbers: track(numbers, text)


def is_sane(atoms: Atoms) -> bool:
    """Whether no two atoms are nearer than `dynamics.stability` calls crushed."""
    return len(neighbor_list("i", atoms, natural_cutoffs(atoms, mult=CRUSHED))) == 0


def _walk(
    driver: Any,
    start: Atoms,
    growth: Growth,
    starts: int,
    walker: int,
    folder: Path,
    facts: Mapping[str, Any],
    track: Callable[[range], Iterable[int]],
) -> list[Atoms]:
    """Snapshots of one simulation."""
    temperature = growth.temperatures[walker % len(growth.temperatures)]
    atoms = _begun(start, growth, walker)
    common = {"ensemble": "nvt", "thermostat": "langevin", "temperature": temperature, "current": False}
    common |= {"seed": growth.seed + walker}
    snapshots = growth.snapshots_of(starts)
    try:
        if growth.warm_up:
            settings = Settings.of(
                **common,
                timestep=WARM_UP_PART * growth.timestep,
                steps=growth.warm_up,
                every=growth.warm_up,
                thermostat_time=WARM_UP_TIME,
            )
            path = folder / f"warm-up-{walker:04d}.h5"
            _run(driver, atoms, path, settings, facts, track)
            atoms = _after(Trajectory.open(path), -1, atoms)
        settings = Settings.of(
            **common,
            timestep=growth.timestep,
            steps=growth.interval * snapshots,
            every=growth.interval,
            thermostat_time=THERMOSTAT_TIME,
        )
        path = folder / f"walker-{walker:04d}.h5"
        _run(driver, atoms, path, settings, facts, track)
    except DataError as error:
        if "came apart" not in str(error):
            raise
        warnings.warn(
            f"walker {walker} at {temperature:g} K: {error}; its candidates before are kept", LesPluginsWarning, 2
        )
    if not path.exists() or path.name.startswith("warm-up"):
        return []
    trajectory = Trajectory.open(path)
    return [_bare(_after(trajectory, number, atoms)) for number in range(1, trajectory.frames)]


def _after(trajectory: Trajectory, number: int, start: Atoms) -> Atoms:
    """A frame, with what its start says of charge and spin: a trajectory keeps a charge other than zero."""
    found = trajectory.atoms(number)
    found.info = {**said_of_charge_and_spin(start), **found.info}
    return found


def _run(
    driver: Any,
    atoms: Atoms,
    path: Path,
    settings: Settings,
    facts: Mapping[str, Any],
    track: Callable[[range], Iterable[int]],
) -> None:
    """Go on with a simulation, or begin it; from its start again where its files are damaged."""
    try:
        load_state(path, settings, facts, atoms, charge_read(driver, atoms))
    except DataError as error:
        warnings.warn(f"{error}; it is run again from its start", LesPluginsWarning, 2)
        path.unlink(missing_ok=True)
        state_path(path).unlink(missing_ok=True)
    run(driver, atoms, path, settings, facts, resume=True, save_every=0.0, track=track)


def _begun(start: Atoms, growth: Growth, walker: int) -> Atoms:
    """The start of one simulation: strained, molecules whole, hydrogen as heavy as asked for."""
    random = np.random.default_rng([growth.seed, walker])
    atoms = _bare(start)
    if growth.strain and atoms.pbc.all():
        atoms = rattled(atoms, random, of_atoms_in_molecules(0.0), growth.strain)
    if growth.hydrogen_mass is not None:
        masses = atoms.get_masses()
        masses[atoms.numbers == 1] = growth.hydrogen_mass
        atoms.set_masses(masses)
    return atoms


def _varied(atoms: Atoms, growth: Growth, walker: int, number: int) -> Atoms:
    """A snapshot as it is, rattled or with waves; drawn for each, so that it does not depend on those before."""
    random = np.random.default_rng([growth.seed, walker, number])
    kind, name = random.random(), f"walker {walker}"
    if kind < growth.waves:
        atoms = with_waves(atoms, random, of_atoms_in_molecules(growth.rattle), 0.0, growth.amplitude)
        name += ", waves"
    elif kind < growth.waves + growth.rattled:
        whole = rattled(atoms, random, of_atoms_in_molecules(growth.rattle), 0.0)
        atoms.set_positions(moved_ions(whole, random, growth.rattle).positions)  # as far as constraints let them go
        name += ", rattled"
    temperature = growth.temperatures[walker % len(growth.temperatures)]
    atoms.info["origin"] = f"{name}, {temperature:g} K, frame {number}"
    return atoms


def _bare(atoms: Atoms) -> Atoms:
    """The structure alone, with its masses, velocities, constraints, total charge and spin."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, masses=atoms.get_masses())
    bare.info = said_of_charge_and_spin(atoms)
    bare.set_velocities(atoms.get_velocities())
    bare.set_constraint(atoms.constraints)
    return bare
