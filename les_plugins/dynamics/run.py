"""The loop of a simulation: one force evaluation a step, records at a stride, a state to go on from after a kill."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from les_plugins.dynamics.integrators import Integrator, set_velocities
from les_plugins.dynamics.settings import Settings
from les_plugins.dynamics.trajectory import ALWAYS, SERIES, Writer, is_empty
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.labels import BORN
from les_plugins.metrics import Floats

#: Above it, K, a simulation has come apart and is stopped.
HOTTEST = 1e5
_STATE_VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        frames: frames in the file.
        steps: steps from the start.
        first_step: step that this sitting went on from.
        seconds: of this sitting.
        series: what was recorded.
        velocities: where the velocities are from: start, drawn or restart.
    """

    frames: int
    steps: int
    first_step: int
    seconds: float
    series: tuple[str, ...]
    velocities: str


def run(
    calculator: Any,
    start: Atoms,
    output: Path,
    settings: Settings,
    facts: Mapping[str, Any] | None = None,
    resume: bool = False,
    save_every: float = 10.0,
    track: Callable[[range], Iterable[int]] = iter,
) -> Outcome:
    """Simulate, and record to an HDF5 file; settings go to `<output>.json`, the state to `<output>.restart.npz`.

    Args:
        calculator: ASE calculator, as of `les_plugins.load`.
        start: the structure; not changed.
        output: trajectory to write.
        settings: the simulation.
        facts: what identifies model and start; compared when a run is resumed.
        resume: go on from the last saved state, or start where there is none.
        save_every: wall time between saved states, s; 0 saves one with every frame, safe from a kill but not from a
            power cut.
        track: wraps the step numbers, for a progress bar.

    Raises:
        ConfigError, GeometryError: settings that are impossible, or others than those of the run to be resumed.
        DataError: the output exists or cannot be written, the simulation came apart.
        HostError: the model cannot take a field, or has no Born charges for the current.
    """
    facts = dict(facts or {})
    atoms = start.copy()
    atoms.calc = calculator
    _check_abilities(calculator, settings)
    state = _load_state(output, settings, facts) if resume else None
    if state is None:
        _refuse_overwriting(output)
        velocities = set_velocities(atoms, settings)
    else:
        velocities = "restart"
        atoms.set_cell(state["cell"])
        atoms.positions[:] = state["positions"]
        atoms.set_momenta(state["momenta"], apply_constraint=False)
    began, integrator = time.monotonic(), Integrator(atoms, settings)
    recorder = _Recorder(atoms, integrator, settings)
    with _given_back(calculator):
        if state is None:
            first = 0
            recorder.begin(0, True)
            recorder.evaluate()
            writer = _new_file(output, recorder, facts)
        else:
            first = int(state["step"])
            integrator.set_state(state)
            recorder.work = float(state["field_work"])
            recorder.begin(first, False)
            recorder.evaluate()
            writer = _continue(output, settings, facts)
        try:
            recorder.names = writer.names
            frames = _steps(recorder, writer, output, first, state is None, save_every, track)
        finally:
            writer.close()
    return Outcome(frames, settings.steps, first, time.monotonic() - began, recorder.names, velocities)


def _steps(
    recorder: _Recorder,
    writer: Writer,
    output: Path,
    first: int,
    record_first: bool,
    save_every: float,
    track: Callable[[range], Iterable[int]],
) -> int:
    """From step `first` to the last one; returns the number of frames."""
    settings, frames, saved = recorder.settings, first // recorder.settings.every + 1, -math.inf
    if record_first:
        writer.write(0, recorder.values(0))
        saved = _save(recorder, writer, output, 0, 1, save_every > 0)
    for step in track(range(first + 1, settings.steps + 1)):
        due = step % settings.every == 0
        recorder.begin(step, due)
        recorder.step()
        if due:
            writer.write(step // settings.every, recorder.values(step))
            frames = step // settings.every + 1
            if time.monotonic() - saved >= save_every or step + settings.every > settings.steps:
                saved = _save(recorder, writer, output, step, frames, save_every > 0)
    if settings.steps % settings.every and settings.steps > first:
        _save(recorder, writer, output, settings.steps, frames, save_every > 0)
    return frames


class _Recorder:
    """Takes steps, keeps the forces for the next one, and collects what a frame holds."""

    def __init__(self, atoms: Atoms, integrator: Integrator, settings: Settings) -> None:
        self.atoms, self.integrator, self.settings = atoms, integrator, settings
        self.names: tuple[str, ...] = ()
        self.work = 0.0
        self._forces: Floats | None = None
        self._power = 0.0

    def begin(self, step: int, record: bool) -> None:
        """Before the evaluation that a step ends with: the field at its time, and what is to be derived with it."""
        self._step = step
        calculator = self.atoms.calc
        wanted = (BORN,) if record and self.settings.current else ()
        if hasattr(calculator, "always"):
            calculator.always = wanted
        if self.settings.field is not None:
            # the forces of the last positions are kept here: setting a field makes the calculator forget them
            calculator.external_field = self.settings.field.at(step * self.settings.timestep)

    def evaluate(self) -> None:
        """Energy and forces of the present positions."""
        self._forces = self.atoms.get_forces(md=True)
        self._power = self._field_power()

    def step(self) -> None:
        """One step, its result checked; the work of the field by the trapezoid rule."""
        self._forces = self.integrator.step(self._forces)
        energy = self.atoms.get_potential_energy()
        if not math.isfinite(energy) or not 0 <= self._temperature() < HOTTEST:
            raise DataError(
                f"step {self._step}: the simulation came apart (energy {energy:.4g} eV, temperature "
                f"{self._temperature():.4g} K); try a shorter --timestep or a start nearer to equilibrium"
            )
        if self.settings.field is not None:
            before, self._power = self._power, self._field_power()
            self.work += 0.5 * (before + self._power) * self.settings.timestep * units.fs

    def values(self, step: int) -> dict[str, Any]:
        """One frame in the units of `trajectory.SERIES`."""
        atoms, results = self.atoms, self.atoms.calc.results
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        velocities = atoms.get_velocities() * units.fs
        energy = float(results.get("zero_field_energy", potential))
        found = {
            "time": step * self.settings.timestep,
            "potential_energy": potential,
            "kinetic_energy": kinetic,
            "conserved_energy": energy + kinetic + self.integrator.conserved_offset() - self.work,
            "field_work": self.work,
            "temperature": self._temperature(),
            "positions": atoms.positions,
            "velocities": velocities,
            "cell": atoms.cell.array,
        }
        if self.settings.field is not None:
            found["field"] = self.settings.field.at(step * self.settings.timestep)
        for name in ("dipole", "polarizability"):
            if name in self.names:
                found[name] = results[name] if name in results else atoms.calc.get_property(name, atoms)
        if "current" in self.names:
            born = np.asarray(atoms.calc.get_property(BORN, atoms))
            if self.settings.sum_rule:
                born = born - born.mean(0)
            found["current"] = np.einsum("nab,nb->a", born, velocities)
        return found

    def _temperature(self) -> float:
        free = max(self.integrator.degrees_of_freedom, 1)
        return float(2.0 * self.atoms.get_kinetic_energy() / (free * units.kB))

    def _field_power(self) -> float:
        """Power of the field's forces, eV per ASE time."""
        pushed = self.atoms.calc.results.get("field_forces") if self.settings.field is not None else None
        return 0.0 if pushed is None else float((pushed * self.atoms.get_velocities()).sum())


def _check_abilities(calculator: Any, settings: Settings) -> None:
    if settings.current and BORN not in calculator.implemented_properties:
        raise HostError("current: the model predicts no Born charges: it has no long-range part; use --no-current")
    if settings.field is not None and not getattr(calculator, "takes_external_field", False):
        if getattr(calculator, "has_long_range", False):
            raise HostError("field: this host's adapter cannot apply fields yet; MACE's and NequIP's can")
        raise HostError("field: this model has no long-range part that a field could act on")


def _new_file(output: Path, recorder: _Recorder, facts: Mapping[str, Any]) -> Writer:
    """The file of a run whose first structure has been computed: series are what the model answered with."""
    settings, found = recorder.settings, recorder.atoms.calc.results
    observed = {"field": settings.field is not None, "current": settings.current}
    observed |= {name: name in found for name in ("dipole", "polarizability")}
    names = tuple(name for name in SERIES if name in ALWAYS or observed[name])
    dump, free = settings.model_dump(mode="json"), recorder.integrator.degrees_of_freedom
    writer = Writer.create(output, recorder.atoms, settings.n_frames, names, dump, facts, free)
    _write_json(output, settings, facts)
    return writer


def _refuse_overwriting(output: Path) -> None:
    if not output.parent.is_dir():
        raise DataError(f"{output}: cannot be written: there is no folder {output.parent}")
    if output.exists():
        raise DataError(f"{output}: exists; go on with it with --resume, or choose another output")


def _save(recorder: _Recorder, writer: Writer, output: Path, step: int, frames: int, durable: bool) -> float:
    """Frames first, then the state that goes on from them, then their number: a kill in between costs nothing."""
    writer.flush(durable)
    atoms = recorder.atoms
    target = _state_path(output)
    partial = target.with_name(f".{target.name}")
    with partial.open("wb") as file:
        np.savez(
            file,
            version=_STATE_VERSION,
            step=step,
            frames=frames,
            field_work=recorder.work,
            positions=atoms.positions,
            momenta=atoms.get_momenta(),
            cell=atoms.cell.array,
            **recorder.integrator.state(),
        )
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(partial, target)
    writer.commit(frames)
    return time.monotonic()


def _load_state(output: Path, settings: Settings, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last saved state of a run, None where it has not begun.

    Raises:
        ConfigError: it was run with other settings, another model or another start.
        DataError: the trajectory or the state is missing.
    """
    path, described = _state_path(output), _json_path(output)
    if not path.exists():
        if output.exists():
            if not is_empty(output):
                raise DataError(f"{output}: cannot be resumed: {path} is missing")
            output.unlink()  # laid out, but killed before the first frame was there
        return None
    if not output.exists() or not described.exists():
        raise DataError(f"{output}: cannot be resumed: {output if not output.exists() else described} is missing")
    before = json.loads(described.read_text(encoding="utf-8"))
    problems = settings.differences(before["settings"])
    known = before["facts"]
    problems += [f"{key} was {known.get(key)!r} and is {facts[key]!r}" for key in facts if known.get(key) != facts[key]]
    if problems:
        raise ConfigError(f"{output}: cannot be resumed with other settings: {'; '.join(problems)}")
    with np.load(path, allow_pickle=False) as stored:
        state = {key: stored[key] for key in stored.files}
    if int(state["version"]) != _STATE_VERSION:
        raise DataError(f"{path}: version {int(state['version'])}; this version reads {_STATE_VERSION}")
    if int(state["step"]) > settings.steps:
        raise ConfigError(f"{output}: has run {int(state['step'])} steps; --steps {settings.steps} is less")
    return state


def _continue(output: Path, settings: Settings, facts: Mapping[str, Any]) -> Writer:
    writer = Writer(output)
    if settings.n_frames > writer.n_frames:
        writer.extend(settings.n_frames)
    writer.set_settings(settings.model_dump(mode="json"))
    _write_json(output, settings, facts)
    return writer


def _write_json(output: Path, settings: Settings, facts: Mapping[str, Any]) -> None:
    described = {"settings": settings.model_dump(mode="json"), "facts": dict(facts)}
    partial = output.with_name(f".{output.name}.json")
    partial.write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, _json_path(output))


def _state_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.restart.npz")


def _json_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.json")


@contextmanager
def _given_back(calculator: Any) -> Iterator[None]:
    """The calculator as it was, when the run is over."""
    always = getattr(calculator, "always", None)
    try:
        yield
    finally:
        if always is not None:
            calculator.always = always
        if getattr(calculator, "external_field", None) is not None:
            calculator.external_field = None
