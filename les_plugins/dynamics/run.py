"""The loop of a simulation: one force evaluation a step, records at a stride, a state to go on from after a kill."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units

from les_plugins.data.given_charge import charge_of_results, charge_read
from les_plugins.data.labels import BORN
from les_plugins.data.metrics import Floats
from les_plugins.data.trajectory import ALWAYS, SERIES, Trajectory, described_constraints
from les_plugins.dynamics.field import FieldSumRule, pushed_against_sum_rule
from les_plugins.dynamics.integrators import Integrator, set_velocities
from les_plugins.dynamics.lock import only_run
from les_plugins.dynamics.restart import damaged_state, load_state, write_description, write_state
from les_plugins.dynamics.settings import HOTTEST, Settings
from les_plugins.dynamics.watch import FORCES_STD, Watch, check_committee, spread_of_forces, stopped
from les_plugins.dynamics.writer import Writer
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.hosting.current import CURRENT
from les_plugins.model.polarizability_parts import NAMES


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
    watch: Watch | None = None,
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
        watch: of a committee, how far its members may differ; the default thresholds when None.

    Raises:
        ConfigError, GeometryError: settings that are impossible, or others than those of the run to be resumed.
        DataError: the output exists or cannot be written, the simulation came apart, the members of a committee differ
            by more than `watch` allows.
        HostError: the model cannot take a field, or has no Born charges for the current.
    """
    facts = dict(facts or {})
    atoms = start.copy()
    atoms.calc = calculator
    _check_abilities(calculator, settings)
    if watch is not None:
        check_committee(calculator)
    elif FORCES_STD in calculator.implemented_properties:
        watch = Watch()
    if output.is_symlink():
        output = output.resolve()  # the state lies beside the file itself, and a longer copy takes its place
    with only_run(output), _given_back(calculator):
        found = load_state(output, settings, facts, start, charge_read(calculator, start)) if resume else None
        began = time.monotonic()
        if found is None:
            writer, recorder, velocities = _begun(atoms, output, settings, facts)
            first = 0
        else:
            writer, recorder, velocities = _continued(atoms, output, settings, facts, *found)
            first = int(found[1]["step"])
        try:
            recorder.names = writer.names
            frames = _steps(recorder, writer, output, first, found is None, save_every, track, watch)
        finally:
            writer.close()
    return Outcome(frames, settings.steps, first, time.monotonic() - began, recorder.names, velocities)


def _begun(atoms: Atoms, output: Path, settings: Settings, facts: Mapping[str, Any]) -> tuple[Writer, _Recorder, str]:
    """A new run: the file is made when the first structure has been computed, and has the series found there."""
    if output.exists():
        raise DataError(f"{output}: exists; go on with it with --resume, or choose another output")
    constraints, run_name = described_constraints(atoms), uuid.uuid4().hex
    velocities = set_velocities(atoms, settings)
    recorder = _Recorder(atoms, Integrator(atoms, settings), settings, run_name)
    recorder.begin(0, True)
    recorder.evaluate()
    found = atoms.calc.results
    observed = {"field": settings.field is not None, "current": settings.current}
    observed |= {name: name in found for name in ("dipole", "polarizability", "energy_std")}
    observed["largest_forces_std"] = FORCES_STD in found
    observed |= {name: name in settings.polarizability_series for name in NAMES}
    names = tuple(name for name in SERIES if name in ALWAYS or observed[name])
    attributes: dict[str, Any] = {
        "degrees_of_freedom": recorder.integrator.degrees_of_freedom,
        "constraints": constraints,
        "run": run_name,
        "total_charge": charge_read(atoms.calc, atoms),
    }
    if (susceptibility := getattr(atoms.calc, "reference_susceptibility", None)) is not None:
        attributes["susceptibility"] = float(susceptibility)
    if (source := found.get("polarization_source")) is not None:
        attributes["polarization_source"] = source
    writer = Writer.create(
        output, atoms, settings.n_frames, names, settings.model_dump(mode="json"), facts, **attributes
    )
    try:
        write_description(output, settings, facts)
    except BaseException:
        writer.close()
        raise
    return writer, recorder, velocities


def _continued(
    atoms: Atoms,
    output: Path,
    settings: Settings,
    facts: Mapping[str, Any],
    before: Trajectory,
    state: Mapping[str, Any],
) -> tuple[Writer, _Recorder, str]:
    """A run that goes on from its last saved state."""
    atoms.set_cell(state["cell"])
    atoms.positions[:] = state["positions"]
    atoms.set_momenta(state["momenta"], apply_constraint=False)
    if before.susceptibility is not None and hasattr(atoms.calc, "reference_susceptibility"):
        atoms.calc.reference_susceptibility = before.susceptibility
    recorder = _Recorder(atoms, Integrator(atoms, settings), settings, before.run)
    if recorder.integrator.degrees_of_freedom != before.degrees_of_freedom:
        raise ConfigError(
            f"{output}: cannot be resumed: it counts temperatures with {before.degrees_of_freedom} degrees of "
            f"freedom, this version with {recorder.integrator.degrees_of_freedom}; begin a new run from its last frame"
        )
    try:
        recorder.integrator.set_state(state)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged_state(output, f"{type(error).__name__}: {error}") from None
    first = int(state["step"])
    recorder.work = float(state["field_work"])
    recorder.begin(first, False)
    recorder.evaluate()
    writer = Writer(output)
    try:
        dump = settings.model_dump(mode="json")
        if dump != before.settings:
            writer.extend(settings.n_frames, dump)
        writer.commit(int(state["frames"]))  # a kill may have come between the state and this
        write_description(output, settings, facts)
    except BaseException:
        writer.close()
        raise
    return writer, recorder, "restart"


def _steps(
    recorder: _Recorder,
    writer: Writer,
    output: Path,
    first: int,
    record_first: bool,
    save_every: float,
    track: Callable[[range], Iterable[int]],
    watch: Watch | None,
) -> int:
    """From step `first` to the last one; returns the number of frames."""
    settings, frames, saved = recorder.settings, first // recorder.settings.every + 1, -math.inf
    if record_first:
        writer.write(0, recorder.values(0))
        saved = _save(recorder, writer, output, 0, 1, save_every > 0)
    if watch is not None and (why := watch.look(recorder.atoms, first)) is not None:
        raise stopped(output, recorder.atoms, why)
    for step in track(range(first + 1, settings.steps + 1)):
        due = step % settings.every == 0
        recorder.begin(step, due)
        recorder.step()
        if due:
            writer.write(step // settings.every, recorder.values(step))
            frames = step // settings.every + 1
        if watch is not None and (why := watch.look(recorder.atoms, step)) is not None:
            _save(recorder, writer, output, step, frames, save_every > 0)
            raise stopped(output, recorder.atoms, why)
        if due and (time.monotonic() - saved >= save_every or step + settings.every > settings.steps):
            saved = _save(recorder, writer, output, step, frames, save_every > 0)
    if settings.steps % settings.every and settings.steps > first:
        _save(recorder, writer, output, settings.steps, frames, save_every > 0)
    return frames


class _Recorder:
    """Takes steps, keeps the forces for the next one, and collects what a frame holds."""

    def __init__(self, atoms: Atoms, integrator: Integrator, settings: Settings, run_name: str) -> None:
        self.atoms, self.integrator, self.settings, self.run_name = atoms, integrator, settings, run_name
        self.names: tuple[str, ...] = ()
        self.work = 0.0
        self._forces: Floats | None = None
        self._power = 0.0
        # the charges of open structures obey the sum rule as they are, up to the total charge, which the field pushes
        self._sum_rule = settings.sum_rule and bool(atoms.pbc.any())
        if settings.field is not None and self._sum_rule:
            atoms.set_constraint([FieldSumRule(), *atoms.constraints])

    def begin(self, step: int, record: bool) -> None:
        """Before the evaluation that a step ends with: the field at its time, and what is to be derived with it."""
        self._step = step
        calculator = self.atoms.calc
        wanted: tuple[str, ...] = (CURRENT,) if record and self.settings.current else ()
        if record:
            wanted += self.settings.polarizability_series
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
        if not math.isfinite(energy) or not 0 <= self.integrator.temperature() < HOTTEST:
            raise DataError(
                f"step {self._step}: the simulation came apart (energy {energy:.4g} eV, temperature "
                f"{self.integrator.temperature():.4g} K); try a shorter --timestep or a start nearer to equilibrium"
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
            "temperature": self.integrator.temperature(),
            "positions": atoms.positions,
            "velocities": velocities,
            "cell": atoms.cell.array,
        }
        if self.settings.field is not None:
            found["field"] = self.settings.field.at(step * self.settings.timestep)
        if "largest_forces_std" in self.names:
            found["largest_forces_std"] = spread_of_forces(results).max()
        for name in ("dipole", "polarizability", "energy_std", *NAMES):
            if name in self.names:
                found[name] = results[name] if name in results else atoms.calc.get_property(name, atoms)
        if "current" in self.names:
            found["current"] = self._current(velocities)
        return found

    def _current(self, velocities: Floats) -> Floats:
        """J (3,) e·Å/fs; with the sum rule that of Z* whose mean is Q/N: Σ Z* (v − v̄) + Q v̄."""
        calculator, mean = self.atoms.calc, velocities.mean(0)
        moving = velocities - mean if self._sum_rule else velocities
        if hasattr(calculator, CURRENT):
            found: Floats = calculator.current(moving, self.atoms)
        else:
            found = np.asarray(np.einsum("nab,nb->a", calculator.get_property(BORN, self.atoms), moving))
        return found + charge_of_results(calculator) * mean if self._sum_rule else found

    def _field_power(self) -> float:
        """Power of the field's forces, eV per ASE time."""
        pushed = self.atoms.calc.results.get("field_forces") if self.settings.field is not None else None
        if pushed is None:
            return 0.0
        if self._sum_rule:
            pushed = pushed - pushed_against_sum_rule(self.atoms.calc)
        return float((pushed * self.atoms.get_velocities()).sum())


def _check_abilities(calculator: Any, settings: Settings) -> None:
    if settings.current and BORN not in calculator.implemented_properties:
        raise HostError("current: the model predicts no Born charges: it has no long-range part; use --no-current")
    if missing := [name for name in settings.polarizability_series if name not in calculator.implemented_properties]:
        raise HostError(
            f"polarizability: this calculator does not give {missing[0]}: only models loaded from a checkpoint that "
            "have a long-range part do"
        )
    if settings.field is not None and not getattr(calculator, "takes_external_field", False):
        if getattr(calculator, "is_committee", False):
            raise HostError("field: a committee takes none; simulate with one of its models")
        if getattr(calculator, "has_long_range", False):
            raise HostError("field: this host's adapter cannot apply fields yet; MACE's and NequIP's can")
        raise HostError("field: this model has no long-range part that a field could act on")


def _save(recorder: _Recorder, writer: Writer, output: Path, step: int, frames: int, durable: bool) -> float:
    """Frames first, then the state that goes on from them, then their number: a kill in between costs nothing."""
    writer.flush(durable)
    atoms = recorder.atoms
    state = {
        "run": recorder.run_name,
        "step": step,
        "frames": frames,
        "field_work": recorder.work,
        "positions": atoms.positions,
        "momenta": atoms.get_momenta(),
        "cell": atoms.cell.array,
        **recorder.integrator.state(),
    }
    write_state(output, state, durable)
    writer.commit(frames)
    return time.monotonic()


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
