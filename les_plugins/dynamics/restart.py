"""What a run goes on from: its settings, its last state, and whether they belong to the trajectory. `run` asks here."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from les_plugins.data.trajectory import NAME, Trajectory, described_constraints
from les_plugins.dynamics.settings import Settings
from les_plugins.dynamics.writer import is_empty
from les_plugins.errors import ConfigError, DataError
from les_plugins.io.documents import parse_json
from les_plugins.io.files import whole_file

_VERSION = 1
#: What every state holds, beside what its integrator puts there.
_NUMBERS, _ARRAYS = ("version", "step", "frames", "field_work"), ("positions", "momenta", "cell")


def write_state(output: Path, state: Mapping[str, Any], durable: bool) -> None:
    """Save a state; the one before it stays until the new one is whole.

    Raises:
        DataError: it cannot be written.
    """
    held = io.BytesIO()  # NumPy's own file would complain once more, on its way out, when the disk is full
    np.savez(held, version=_VERSION, **state)
    target = state_path(output)
    with whole_file(target, "wb", durable=durable, partial=target.with_name(f".{target.name}")) as file:
        file.write(held.getbuffer())


def write_description(output: Path, settings: Settings, facts: Mapping[str, Any]) -> None:
    """Settings and facts beside the trajectory, for people and other programs; the trajectory has them too."""
    described = {"settings": settings.model_dump(mode="json"), "facts": dict(facts)}
    partial = output.with_name(f".{output.name}.json")
    with whole_file(_description_path(output), partial=partial) as file:
        file.write(json.dumps(described, indent=1, ensure_ascii=False) + "\n")


def load_state(
    output: Path, settings: Settings, facts: Mapping[str, Any], start: Atoms, total_charge: float
) -> tuple[Trajectory, dict[str, Any]] | None:
    """The trajectory so far and the last saved state of its run; None where it has not begun.

    Args:
        output: the trajectory.
        settings: the simulation that is asked for.
        facts: of model and start.
        start: the structure.
        total_charge: e, that the calculator gives it.

    Raises:
        ConfigError: it was run with other settings, another model or another start.
        DataError: the trajectory or the state is missing or damaged.
    """
    path = state_path(output)
    if not output.exists():
        if path.exists():
            raise DataError(
                f"{output}: cannot be resumed: it is missing, and {path} is there: put it back, or remove that file "
                "to begin anew"
            )
        return None
    if not path.exists():
        if not is_empty(output):
            Trajectory.with_any_frames(output)  # a damaged one has an error of its own
            raise DataError(f"{output}: cannot be resumed: {path} is missing; {_from_last_frame(output)}")
        output.unlink()  # laid out, but killed before the first frame was there
        return None
    before = Trajectory.with_any_frames(output)
    state = _read_state(path, output)
    if str(state.get("run", "")) != before.run:
        if before.frames == 0:
            output.unlink()  # likewise; the state is that of a trajectory which had this name before
            return None
        raise DataError(f"{path}: is not the state of {output}, but of another run; {_from_last_frame(output)}")
    _check_description(output, before)
    _check_same(output, before, settings, facts, start, total_charge)
    _check_together(path, before, state)
    if int(state["step"]) > settings.steps:
        raise ConfigError(f"{output}: has run {int(state['step'])} steps; --steps {settings.steps} is less")
    return before, state


def damaged_state(output: Path, why: str) -> DataError:
    """The error of a state that cannot be gone on from."""
    return DataError(f"{state_path(output)}: is damaged ({why}): cannot be resumed; {_from_last_frame(output)}")


def state_path(output: Path) -> Path:
    """Where the state of a run is."""
    return output.with_name(f"{output.name}.restart.npz")


def _description_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.json")


def _from_last_frame(output: Path) -> str:
    return f"the frames of {output} are kept: begin a new run from its last one, with {output} as START"


def _read_state(path: Path, output: Path) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            state = {key: stored[key] for key in stored.files}
    except Exception as error:  # zip, zlib and NumPy raise whatever the damage makes them
        raise damaged_state(output, type(error).__name__) from None
    if missing := [name for name in (*_NUMBERS, *_ARRAYS) if name not in state]:
        raise damaged_state(output, f"{', '.join(missing)} missing")
    if strange := [name for name in _NUMBERS if state[name].shape != () or state[name].dtype.kind not in "if"]:
        raise damaged_state(output, f"{strange[0]} is no number")
    if int(state["version"]) != _VERSION:
        raise DataError(f"{path}: version {int(state['version'])}; this version reads {_VERSION}")
    return state


def _check_description(output: Path, before: Trajectory) -> None:
    """The file for people is not needed, but one that says something else is a sign that files were mixed up."""
    path = _description_path(output)
    if not path.exists():
        return
    try:
        described = parse_json(path.read_text(encoding="utf-8"))
        settings, facts = dict(described["settings"]), dict(described["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is damaged ({type(error).__name__}): remove it and resume again; it is made anew from {output}"
        ) from None
    names = [name for name in before.settings if name != "steps" and settings.get(name) != before.settings[name]]
    names += [name for name in before.facts if facts.get(name) != before.facts[name]]
    if names:
        raise DataError(
            f"{path}: {names[0]} is another one than in {output}: if it is not of that trajectory, remove it and "
            "resume again; it is made anew"
        )


def _check_same(
    output: Path, before: Trajectory, settings: Settings, facts: Mapping[str, Any], start: Atoms, total_charge: float
) -> None:
    """Raise ConfigError where another simulation is asked for than the one so far."""
    problems = settings.differences(before.settings)
    for key in dict.fromkeys((*facts, *before.facts)) if facts else ():
        was, now = before.facts.get(key), facts.get(key)
        if key != NAME and was != now:  # older files have none, and a folder may be renamed
            problems.append(f"{key} was {was!r} and is {now!r}")
    for name, mine in (("numbers", start.numbers), ("masses", start.get_masses()), ("pbc", start.pbc)):
        if not np.array_equal(getattr(before, name), mine):
            problems.append(f"{name} of the start are others than before")
    if before.run and described_constraints(start) != before.constraints_text:
        problems.append("constraints of the start are others than before")
    if before.total_charge is not None and total_charge != before.total_charge:
        problems.append(f"the total charge was {before.total_charge:g} and is {total_charge:g} e")
    if problems:
        raise ConfigError(f"{output}: cannot be resumed with other settings: {'; '.join(problems)}")


def _check_together(path: Path, before: Trajectory, state: Mapping[str, Any]) -> None:
    """Raise DataError where a state is not that of the last frame of the trajectory."""
    shapes = {"positions": (len(before.numbers), 3), "momenta": (len(before.numbers), 3), "cell": (3, 3)}
    for name, shape in shapes.items():
        if state[name].shape != shape or not np.isfinite(state[name]).all():
            raise damaged_state(before.path, f"{name} of shape {state[name].shape} or not finite")
    step, frames, every = int(state["step"]), int(state["frames"]), int(before.settings["every"])
    if step < 0 or frames != step // every + 1:
        raise damaged_state(before.path, f"{frames} frames at step {step}")
    if step % every:
        return
    for name in ("positions", "cell"):
        if not np.array_equal(before.frame(name, frames - 1), state[name]):
            raise DataError(
                f"{path}: is not the state of frame {frames - 1} of {before.path}, which differs in its {name}: one "
                f"of them is damaged, or of another time; {_from_last_frame(before.path)}"
            )
