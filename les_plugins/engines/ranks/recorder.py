"""`Recorder`: P(t), J(t) and α(t) of a run of LAMMPS on many ranks, into the HDF5 that `spectra` reads."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist
from ase import Atoms, units
from ase.data import atomic_numbers
from numpy.typing import NDArray

from les_plugins.data.metrics import Floats
from les_plugins.data.trajectory import ALWAYS, SERIES
from les_plugins.dynamics.writer import Writer
from les_plugins.engines.lammps import box_of
from les_plugins.engines.ranks.end_of_step import EndOfStep
from les_plugins.engines.ranks.engine import Evaluation, Observer
from les_plugins.engines.ranks.moments import Moments
from les_plugins.errors import DataError, LesPluginsWarning

#: Frames that a new file has room for; it is made twice as long when they are full.
_ROOM = 256
#: fs in LAMMPS' unit of time, by its units.
TIME_UNITS = {"metal": 1000.0, "real": 1.0}
#: Å, by which atoms may miss the place that unchanged velocities take them to.
_STRAY = 1e-3
#: Å, that atoms which rest may seem to move, by rounding; and what their velocities make before that is an error:
#: more than the last digit of a dump that is run again.
_REST, _NOTICED = 1e-10, 1e-2


class _Own(NamedTuple):
    """This rank's atoms when forces were known: positions unwrapped, Å, masses u, Z* (own, 3, 3) e."""

    ids: NDArray[np.int64]
    types: NDArray[Any]
    positions: Floats
    masses: Floats
    born: Floats


@dataclass
class _Pending:
    """A frame whose step is not over.

    Attributes:
        step: of LAMMPS.
        own: this rank's atoms.
        charge: e, of all ranks' atoms.
        values: series of the frame that are known when forces are.
        source: of the polarization.
        timestep: fs.
    """

    step: int
    own: _Own
    charge: float
    values: dict[str, Any]
    source: str
    timestep: float


class _Frame(NamedTuple):
    """A whole frame, on rank 0; atoms in the order of their ids.

    Attributes:
        step, timestep: of LAMMPS, and fs.
        types, masses: (N,) of the atoms, u.
        values: of all series.
        source: of the polarization.
        freedom: degrees of freedom that LAMMPS counts the temperature with; 0 where nothing moves.
    """

    step: int
    timestep: float
    types: NDArray[Any]
    masses: Floats
    values: dict[str, Any]
    source: str
    freedom: int


class Recorder(Observer):
    """Positions, velocities, P(t), J(t) and α(t) every so many steps, into the HDF5 of `les-plugins md`, by rank 0.

    P, α and Z* are of the positions at which LAMMPS asks for forces. Velocities and the temperature are those that
    LAMMPS has when the step is over, after every fix (`EndOfStep`): a frame is written at the next call, or by
    `finish`. Minimizations are left out.

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
        self._path, self._every, self._moments, self._rank = path, every, moments, rank
        self._elements, self._facts, self._sum_rule = tuple(elements), dict(facts), sum_rule
        self._total_charge = total_charge
        self._pending: _Pending | None = None
        self._waiting: list[_Frame] = []  # rank 0: until one shows how many degrees of freedom there are
        self._writer: Writer | None = None
        self._frames, self._first, self._timestep = 0, 0, 0.0
        self._last: _Frame | None = None
        self._said: set[str] = set()

    def attached(self, lmp: Any, energy_unit: float) -> None:
        """Reads LAMMPS' units, and adds a dump of velocities."""
        self._lmp = lmp
        self._time = TIME_UNITS[str(lmp.extract_global("units"))]
        self._end = EndOfStep(lmp, self._every)

    def wants_graph(self, step: int) -> bool:
        """Every `every` steps of a run, once."""
        return (
            step % self._every == 0
            and bool(self._lmp.is_running)
            and (self._pending is None or step != self._pending.step)
        )

    def look(self, step: int, found: Evaluation, ids: NDArray[Any]) -> None:
        """Write the frame that is over, and begin one when it is time; called by all ranks."""
        begins = self.wants_graph(step)
        self._settle(step if self._lmp.is_running else None, ids)
        if not self._lmp.is_running:
            self._say("minimize", "a minimization has no velocities: none of its structures is recorded")
        if not begins:
            return
        own = self._own(ids, self._moments.born(found))
        values: dict[str, Any] = {
            "time": step * self._step_length(),
            "potential_energy": found.energy,
            "field_work": 0.0,
            "cell": box_of(self._lmp)[0],
            "dipole": self._moments.polarization(found, own.positions),
        }
        if (alpha := self._moments.polarizability(found)) is not None:
            values["polarizability"] = alpha
        charge = self._moments.sum_over_ranks(self._moments.of_atoms(found).charge.sum(keepdims=True))
        source = self._moments.source(found)
        self._pending = _Pending(step, own, float(charge[0]), values, source, self._step_length())

    def finish(self) -> None:
        """Write the last frame; called by all ranks, when all of LAMMPS' runs are over."""
        self._settle(-1, np.zeros(0, dtype=np.int64))
        for frame in self._waiting:
            self._write(frame, max(3 * len(frame.types) - 3, 1))
        self._waiting = []

    def close(self) -> None:
        """Close the file; what was recorded counts already."""
        if self._writer is not None:
            self._writer.close()
        self._end.close()

    def _settle(self, step: int | None, ids: NDArray[Any]) -> None:
        """The pending frame becomes a whole one. `step` is that of now, None in a minimization, −1 when all is over."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        end = self._end.take(pending.step, pending.own.ids)
        again = step is None or step == pending.step  # the run of that frame ended with it
        now = (ids, self._velocities(len(ids))) if again else None
        parts = None
        if end is not None:
            parts = (end, np.einsum("nab,nb->a", pending.own.born, end.velocities), pending.own.born.sum(0))
        every: list[Any] | None = [None] * dist.get_world_size() if self._rank == 0 else None
        dist.gather_object((pending.own._replace(born=np.zeros(0)), parts, now), every)
        if every is None or any(parts is None for _, parts, _ in every):
            return  # LAMMPS did not finish that step
        own, ends, states = zip(*every, strict=True)
        frame = self._whole(pending, own, ends)
        if again and not self._frames and not self._waiting and (step is None or _changed(frame, states, self._time)):
            self._say("first", f"step {pending.step} is left out: the structure or velocities changed before the run")
            return
        self._keep(frame)

    def _whole(self, pending: _Pending, own: Sequence[_Own], ends: Sequence[Any]) -> _Frame:
        """Of all ranks."""
        ids, types, positions, masses = (
            np.concatenate([getattr(one, name) for one in own]) for name in ("ids", "types", "positions", "masses")
        )
        order = np.argsort(ids)
        velocities = np.concatenate([end.velocities for end, _, _ in ends])[order] / self._time
        masses = masses[order]
        current, tensors = (sum(one[place] for one in ends) for place in (1, 2))
        current = np.asarray(current) / self._time
        mean = velocities.mean(0)
        if self._sum_rule:
            current = current - np.asarray(tensors) @ mean + pending.charge * mean  # Σ Z* = Q
        squares = float((masses * np.square(velocities).sum(1)).sum())
        kinetic = 0.5 * squares / units.fs**2  # eV
        temperature = float(np.nanmax([end.temperature for end, _, _ in ends]))
        thermal = temperature * self._lmp.extract_global("boltz") / self._lmp.extract_global("mvv2e") / self._time**2
        freedom = round(squares / thermal) if thermal > 0 else 0  # by LAMMPS' own constants
        values = pending.values | {
            "kinetic_energy": kinetic,
            "conserved_energy": pending.values["potential_energy"] + kinetic,
            "temperature": temperature,
            "positions": positions[order],
            "velocities": velocities,
            "current": current,
        }
        return _Frame(pending.step, pending.timestep, types[order], masses, values, pending.source, freedom)

    def _keep(self, frame: _Frame) -> None:
        """Write it, when the degrees of freedom are known."""
        if self._last is None:
            self._course, self._moved = np.zeros(len(frame.types)), np.zeros(len(frame.types), dtype=bool)
        else:
            self._check_motion(self._last, frame)
        self._last = frame
        if self._writer is None:
            self._waiting.append(frame)
            if len(self._waiting) == 1 or not frame.freedom:
                return  # the first waits for the second: it is taken back where the run had not begun
            ready, self._waiting = self._waiting, []
            for one in ready:
                self._write(one, frame.freedom)
            return
        self._write(frame, frame.freedom)

    def _check_motion(self, before: _Frame, after: _Frame) -> None:
        """Refuse velocities that are not of this motion: after `rerun` of a dump without any, of atoms that rest."""
        velocities = after.values["velocities"]
        moved = after.values["positions"] - before.values["positions"]
        course = velocities * (after.values["time"] - before.values["time"])
        same = np.array_equal(before.values["velocities"], velocities)
        if same and np.abs(moved - course).max() > _STRAY:
            raise DataError(
                f"--currents {self._path}: from step {before.step} to {after.step} atoms move and no velocity changes; "
                "allowed: rerun of a dump with velocities, read by `dump x y z vx vy vz`"
            )
        self._course = self._course + np.abs(course).max(1)
        self._moved = self._moved | (np.abs(moved).max(1) > _REST)
        resting = ~self._moved & (self._course > _NOTICED)
        if resting.any():
            raise DataError(
                f"--currents {self._path}: {int(resting.sum())} atoms have velocities and have not moved by step "
                f"{after.step}: no fix integrates them; allowed: velocity GROUP set 0 0 0 for atoms that stay"
            )

    def _step_length(self) -> float:
        """fs."""
        return float(self._lmp.extract_global("dt")) * self._time

    def _velocities(self, n_own: int) -> Floats:
        """(own, 3) in LAMMPS' unit, as they are now."""
        if not n_own:
            return np.zeros((0, 3))
        return np.array(self._lmp.numpy.extract_atom("v")[:n_own]).reshape(-1, 3)

    def _own(self, ids: NDArray[Any], born: Floats) -> _Own:
        lmp, n_own = self._lmp, len(ids)
        if not n_own:
            return _Own(ids, np.zeros(0, dtype=int), np.zeros((0, 3)), np.zeros(0), born)
        types = np.array(lmp.numpy.extract_atom("type")[:n_own]).reshape(-1)
        positions = np.array(lmp.numpy.extract_atom("x")[:n_own]).reshape(-1, 3)
        image = np.array(lmp.numpy.extract_atom("image")[:n_own]).reshape(-1).astype(np.int64)
        bits = {4: 10, 8: 21}[lmp.extract_setting("imageint")]
        mask, middle = 2**bits - 1, 2 ** (bits - 1)
        turns = np.stack([(image >> bits * axis & mask) - middle for axis in range(3)], 1)
        each = lmp.numpy.extract_atom("rmass")
        masses = np.ravel(lmp.numpy.extract_atom("mass"))[types] if each is None else np.array(each[:n_own]).ravel()
        return _Own(ids, types, positions + turns @ box_of(lmp)[0], masses, born)

    def _say(self, kind: str, text: str) -> None:
        """On rank 0, once of each kind."""
        if self._rank == 0 and kind not in self._said:
            self._said.add(kind)
            warnings.warn(f"--currents {self._path}: {text}", LesPluginsWarning, stacklevel=3)

    def _write(self, frame: _Frame, freedom: int) -> None:
        values = frame.values
        if self._writer is None:
            self._timestep, self._first = frame.timestep, frame.step
            numbers = np.array([0, *(atomic_numbers[symbol] for symbol in self._elements)])[frame.types]
            atoms = Atoms(numbers, values["positions"], cell=values["cell"], pbc=True, masses=frame.masses)
            names = tuple(name for name in SERIES if name in ALWAYS or name in values)
            attributes: dict[str, Any] = {"degrees_of_freedom": freedom, "constraints": "[]", "run": uuid.uuid4().hex}
            attributes |= {"polarization_source": frame.source, "total_charge": self._total_charge}
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
        if frame.timestep != self._timestep or frame.step != self._first + self._frames * self._every:
            raise DataError(
                f"{self._path}: frames every {self._every} steps of {self._timestep:g} fs; step {frame.step} of "
                f"{frame.timestep:g} fs does not follow: a file holds one run of one time step"
            )
        if self._frames == self._writer.n_frames:
            self._writer.extend(2 * self._frames, self._settings)
        self._writer.write(self._frames, values)
        self._frames += 1
        self._writer.commit(self._frames)


def _changed(frame: _Frame, states: Sequence[Any], time_unit: float) -> bool:
    """Whether velocities of now are others than those that a step ended with."""
    ids, velocities = (np.concatenate([state[place] for state in states]) for place in (0, 1))
    return not np.array_equal(velocities[np.argsort(ids)] / time_unit, frame.values["velocities"])
