"""What a run on many ranks hands out beside forces: charges and dipoles of atoms to LAMMPS, P(t) and J(t) to HDF5."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from ase import Atoms, units
from ase.data import atomic_numbers
from numpy.typing import NDArray

from les_plugins.data.metrics import Floats
from les_plugins.data.trajectory import ALWAYS, SERIES
from les_plugins.dynamics.writer import Writer
from les_plugins.engines.lammps import box_of
from les_plugins.engines.ranks.engine import Evaluation, Observer
from les_plugins.engines.ranks.moments import Moments
from les_plugins.errors import DataError

#: Names under which LAMMPS knows them: `d_les_charge`, `d2_les_dipole[1]` …
CHARGE, DIPOLE = "les_charge", "les_dipole"
#: Frames that a new file has room for; it is made twice as long when they are full.
_ROOM = 256
#: fs in LAMMPS' unit of time, by its units.
TIME_UNITS = {"metal": 1000.0, "real": 1.0}


class AtomProperties(Observer):
    """Charges (e) and dipoles (e·Å) of atoms as properties of LAMMPS, for its dumps and computes.

    Args:
        moments: of the model.
    """

    def __init__(self, moments: Moments) -> None:
        self._moments = moments

    def attached(self, lmp: Any, energy_unit: float) -> None:
        """Adds `fix property/atom`."""
        self._lmp = lmp
        add_properties(lmp)

    def look(self, step: int, found: Evaluation, ids: NDArray[Any], forces: Floats) -> None:
        """Writes them."""
        write_properties(self._lmp, *self._moments.of_atoms(found))


def add_properties(lmp: Any) -> None:
    """Make room for charges and dipoles in LAMMPS' atoms, which they move with."""
    lmp.command(f"fix les_properties all property/atom d_{CHARGE} d2_{DIPOLE} 3 writedata no")


def write_properties(lmp: Any, charge: Floats, dipole: Floats) -> None:
    """Charges (own,) and dipoles (own, 3) of own atoms, in LAMMPS' order."""
    if len(charge):
        lmp.numpy.extract_atom(f"d_{CHARGE}")[: len(charge)] = charge
        lmp.numpy.extract_atom(f"d2_{DIPOLE}")[: len(charge)] = dipole


class Recorder(Observer):
    """Positions, velocities, P(t), J(t) and α(t) every so many steps, into the HDF5 of `les-plugins md`, by rank 0.

    LAMMPS calls when forces are known and velocities are those of half a step before: they are completed with these
    forces, as its integrator does next; what a thermostat does to them afterwards is left out.

    Args:
        path: the file, new.
        every: steps.
        moments: of the model.
        elements: chemical symbol of every type.
        rank: this one.
        facts: what identifies the model.
        sum_rule: take the mean of Z* off every atom in J, but for Q/N of a total charge Q.
        total_charge: e, that the model was given.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        moments: Moments,
        elements: Sequence[str],
        rank: int,
        facts: Mapping[str, Any],
        sum_rule: bool = True,
        total_charge: float = 0.0,
    ) -> None:
        self._total_charge = total_charge
        self._path, self._every, self._moments, self._rank = path, every, moments, rank
        self._elements, self._facts, self._sum_rule = tuple(elements), dict(facts), sum_rule
        self._writer: Writer | None = None
        self._frames, self._last, self._first, self._recorded = 0, -2, 0, -1
        self._timestep = 0.0

    def attached(self, lmp: Any, energy_unit: float) -> None:
        """Reads LAMMPS' units."""
        self._lmp, self._unit = lmp, energy_unit
        self._time = TIME_UNITS[str(lmp.extract_global("units"))]

    def wants_graph(self, step: int) -> bool:
        """Every `every` steps, once."""
        return step % self._every == 0 and step != self._recorded

    def look(self, step: int, found: Evaluation, ids: NDArray[Any], forces: Floats) -> None:
        """One frame, when it is time; called by all ranks."""
        in_a_run, self._last = step == self._last + 1, step
        if not self.wants_graph(step):
            return
        self._recorded = step
        positions, velocities, masses, types = self._atoms(len(ids), forces, in_a_run)
        cell = box_of(self._lmp)[0]
        kinetic = 0.5 * float((masses * np.square(velocities).sum(1)).sum()) / units.fs**2  # eV
        charge = float(self._moments.of_atoms(found).charge.sum())
        sums = self._moments.sum_over_ranks(np.array([float(len(ids)), kinetic, charge, *velocities.sum(0)]))
        count, kinetic, charge, mean = int(sums[0]), float(sums[1]), float(sums[2]), sums[3:] / sums[0]
        current = self._moments.current(found, velocities - mean if self._sum_rule else velocities)
        values: dict[str, Any] = {
            "time": step * self._step_length(),
            "potential_energy": found.energy,
            "kinetic_energy": kinetic,
            "field_work": 0.0,
            "cell": cell,
            "dipole": self._moments.polarization(found, positions),
            "current": current + charge * mean if self._sum_rule else current,  # Σ Z* = Q
        }
        freedom = max(3 * count - 3, 1)
        values["conserved_energy"] = values["potential_energy"] + values["kinetic_energy"]
        values["temperature"] = 2.0 * values["kinetic_energy"] / (freedom * units.kB)
        if (alpha := self._moments.polarizability(found)) is not None:
            values["polarizability"] = alpha
        source = self._moments.source(found)
        gathered = _gathered((ids, types, positions, velocities, masses), self._rank)
        if gathered is not None:
            self._write(step, values, freedom, source, *gathered)

    def close(self) -> None:
        """Close the file; what was recorded counts already."""
        if self._writer is not None:
            self._writer.close()

    def _step_length(self) -> float:
        """fs."""
        return float(self._lmp.extract_global("dt")) * self._time

    def _atoms(self, n_own: int, forces: Floats, in_a_run: bool) -> tuple[Floats, Floats, Floats, NDArray[Any]]:
        """Unwrapped positions, velocities of the same time (Å/fs), masses and types of own atoms."""
        lmp = self._lmp
        if not n_own:
            return np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=int)
        types = np.array(lmp.numpy.extract_atom("type")[:n_own]).reshape(-1)
        positions = np.array(lmp.numpy.extract_atom("x")[:n_own]).reshape(-1, 3)
        image = np.array(lmp.numpy.extract_atom("image")[:n_own]).reshape(-1).astype(np.int64)
        bits = {4: 10, 8: 21}[lmp.extract_setting("imageint")]
        mask, middle = 2**bits - 1, 2 ** (bits - 1)
        turns = np.stack([(image >> bits * axis & mask) - middle for axis in range(3)], 1)
        velocities = np.array(lmp.numpy.extract_atom("v")[:n_own]).reshape(-1, 3)
        each = lmp.numpy.extract_atom("rmass")
        masses = np.ravel(lmp.numpy.extract_atom("mass"))[types] if each is None else np.array(each[:n_own]).ravel()
        if in_a_run:
            half = 0.5 * lmp.extract_global("dt") * lmp.extract_global("ftm2v")
            velocities = velocities + half * forces / masses[:, None]
        return positions + turns @ box_of(lmp)[0], velocities / self._time, masses, types

    def _write(
        self,
        step: int,
        values: dict[str, Any],
        freedom: int,
        source: str,
        types: NDArray[Any],
        positions: Floats,
        velocities: Floats,
        masses: Floats,
    ) -> None:
        values |= {"positions": positions, "velocities": velocities}
        if self._writer is None:
            self._timestep, self._first = self._step_length(), step
            numbers = np.array([0, *(atomic_numbers[symbol] for symbol in self._elements)])[types]
            atoms = Atoms(numbers, positions, cell=values["cell"], pbc=True, masses=masses)
            names = tuple(name for name in SERIES if name in ALWAYS or name in values)
            attributes: dict[str, Any] = {"degrees_of_freedom": freedom, "constraints": "[]", "run": uuid.uuid4().hex}
            attributes |= {"polarization_source": source, "total_charge": self._total_charge}
            if self._moments.susceptibility is not None:
                attributes["susceptibility"] = self._moments.susceptibility
            self._settings = {
                "engine": "lammps",
                "timestep": self._timestep,
                "every": self._every,
                "current": True,
                "sum_rule": self._sum_rule,
                "field": None,
            }
            self._writer = Writer.create(self._path, atoms, _ROOM, names, self._settings, self._facts, **attributes)
        if self._step_length() != self._timestep or step != self._first + self._frames * self._every:
            raise DataError(
                f"{self._path}: frames every {self._every} steps of {self._timestep:g} fs; step {step} of "
                f"{self._step_length():g} fs does not follow: a file holds one run of one time step"
            )
        if self._frames == self._writer.n_frames:
            self._writer.extend(2 * self._frames, self._settings)
        self._writer.write(self._frames, values)
        self._frames += 1
        self._writer.commit(self._frames)


def _gathered(own: tuple[NDArray[Any], ...], rank: int) -> tuple[NDArray[Any], ...] | None:
    """On rank 0 the arrays after the first of all ranks, in the order of the first, ids; None on others."""
    every: list[Any] | None = [None] * dist.get_world_size() if rank == 0 else None
    dist.gather_object(own, every)
    if every is None:
        return None
    ids, *others = (np.concatenate(parts) for parts in zip(*every, strict=True))
    order = np.argsort(ids)
    return tuple(values[order] for values in others)
