"""Which trajectories may be averaged: of one system, simulated in one way. Everything else is refused by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase.geometry import cell_to_cellpar

from les_plugins.committee.agreement import same_screening
from les_plugins.data.metrics import Floats
from les_plugins.data.trajectory import Trajectory
from les_plugins.errors import DataError

#: Relative differences of volumes and of cell lengths that are taken as the same state.
_SAME_VOLUME, _SAME_LENGTH = 0.02, 0.02
#: Relative difference of 1 + χ that is taken as one material's scatter.
_SAME_SUSCEPTIBILITY = 0.05
#: Largest relative difference of mean temperatures, whatever the size of the system.
_LARGEST_DIFFERENCE = 0.25
#: Settings that change what is recorded or how it moves.
_SETTINGS = ("timestep", "sum_rule")
#: Facts that say which model it was.
_FACTS = {"model_weights_sha256": "weights of the model (SHA-256)", "host": "host", "epsilon_infinity": "ε_∞"}


def check_together(trajectories: Sequence[Trajectory]) -> None:
    """DataError where two trajectories cannot be averaged, with both files and what each has.

    Compared: atoms and their order, masses, periodic directions, interval and time step, model, ε_∞, χ, field, sum rule
    of the current, constraints, Langevin's friction, cell and volume, temperature, pressure. Volumes and temperatures
    may differ by what they fluctuate; each trajectory is then scaled by its own.
    """
    one, seen = trajectories[0], dict[str, Trajectory]()
    for each in trajectories:
        name = each.run or str(each.path.resolve())
        if name in seen:
            raise DataError(f"{each.path}: is the same run as {seen[name].path}; give each trajectory once")
        seen[name] = each
    for other in trajectories[1:]:
        _same_system(one, other)
        _same_model(one, other)
        _same_way(one, other)
        _same_susceptibility(one, other)
        _same_state(one, other)
    _no_copies(trajectories)


def check_models(trajectories: Sequence[Trajectory]) -> None:
    """As `check_together`, of trajectories of several models, one of each: all but the model has to be the same.

    ε_∞ too, which scales J and P of each.
    """
    one = trajectories[0]
    for other in trajectories[1:]:
        _same_screening(one, other)
        _same_system(one, other)
        _same_way(one, other)
        _same_state(one, other)


def check_fields(trajectories: Sequence[Trajectory]) -> None:
    """As `check_together`, of trajectories in different static fields: all but these has to be the same."""
    one, seen = trajectories[0], dict[str, Trajectory]()
    for each in trajectories:
        name = each.run or str(each.path.resolve())
        if name in seen:
            raise DataError(f"{each.path}: is the same run as {seen[name].path}; give each trajectory once")
        seen[name] = each
    for other in trajectories[1:]:
        _same_system(one, other)
        _same_model(one, other)
        _same_susceptibility(one, other)
        _same_state(one, other)


def _same_system(one: Trajectory, other: Trajectory) -> None:
    if not np.array_equal(other.numbers, one.numbers):
        reordered = np.array_equal(np.sort(other.numbers), np.sort(one.numbers))
        raise DataError(
            f"{other.path}: has other atoms than {one.path}; trajectories must be of one system"
            + (": they are the same elements in another order" if reordered else "")
        )
    if not np.allclose(other.masses, one.masses, rtol=1e-6):
        atom = int(np.argmax(np.abs(other.masses - one.masses)))
        _refuse(one, other, f"mass of atom {atom}", f"{one.masses[atom]:g} u", f"{other.masses[atom]:g} u")
    if not np.array_equal(other.pbc, one.pbc):
        _refuse(one, other, "pbc", *(" ".join("FT"[int(flag)] for flag in each.pbc) for each in (one, other)))


def _same_model(one: Trajectory, other: Trajectory) -> None:
    for key, words in _FACTS.items():
        known = [each.facts.get(key) for each in (one, other)]
        if key in one.facts and key in other.facts and known[0] != known[1]:
            shown = [str(value)[:12] if key.endswith("sha256") else value for value in known]
            shown = ["not given" if value is None else text for text, value in zip(shown, known, strict=True)]
            _refuse(one, other, words, *shown)
    if one.facts and other.facts and one.facts.get("head") != other.facts.get("head"):
        _refuse(one, other, "head of the model", *(each.facts.get("head", "the default") for each in (one, other)))


def _same_screening(one: Trajectory, other: Trajectory) -> None:
    known = [float(each.facts["epsilon_infinity"] or 1.0) for each in (one, other) if "epsilon_infinity" in each.facts]
    if one.pbc.all() and len(known) == 2 and not same_screening(known):
        way = "give both simulations one by --epsilon-infinity of les-plugins md"
        _refuse(one, other, "ε_∞", f"{known[0]:.4g}", f"{known[1]:.4g}", way=way)


def _same_way(one: Trajectory, other: Trajectory) -> None:
    if other.interval != one.interval:
        raise DataError(
            f"{other.path}: has frames {other.interval:g} fs apart and {one.path} {one.interval:g} fs; "
            "trajectories must have one interval"
        )
    for name in _SETTINGS:
        if one.settings.get(name) != other.settings.get(name):
            _refuse(one, other, name, one.settings.get(name), other.settings.get(name))
    if one.settings.get("field") != other.settings.get("field"):
        _refuse(one, other, "field", *(_field_of(each) for each in (one, other)))
    if one.constraints_text != other.constraints_text or one.degrees_of_freedom != other.degrees_of_freedom:
        shown = [f"{each.degrees_of_freedom} degrees of freedom" for each in (one, other)]
        _refuse(one, other, "constraints", *shown)
    frictions = [_friction(each) for each in (one, other)]
    if frictions[0] != frictions[1]:
        _refuse(one, other, "Langevin friction", *(f"{each:g}/fs" for each in frictions))


def _same_susceptibility(one: Trajectory, other: Trajectory) -> None:
    if one.susceptibility is not None and other.susceptibility is not None:
        low, high = sorted((1.0 + one.susceptibility, 1.0 + other.susceptibility))
        if high > (1.0 + _SAME_SUSCEPTIBILITY) * low:
            _refuse(one, other, "χ", f"{one.susceptibility:.4g}", f"{other.susceptibility:.4g}")


def _same_state(one: Trajectory, other: Trajectory) -> None:
    if one.pbc.any():
        cells = [each.part("cell", 0, 1)[0] for each in (one, other)]
        lengths = [cell_to_cellpar(cell)[:3] for cell in cells]
        angles = [cell_to_cellpar(cell)[3:] for cell in cells]
        if one.pbc.all():
            volumes = [np.abs(np.linalg.det(each["cell"])) for each in (one, other)]
            means = [float(each.mean()) for each in volumes]
            scatter = 4.0 * np.hypot(volumes[0].std(), volumes[1].std())
            if abs(means[1] - means[0]) > max(_SAME_VOLUME * means[0], scatter):
                _refuse(one, other, "volume", f"{means[0]:.6g} Å³", f"{means[1]:.6g} Å³")
            lengths = [each / np.cbrt(abs(np.linalg.det(cell))) for each, cell in zip(lengths, cells, strict=True)]
        ratio = lengths[1][one.pbc] / lengths[0][one.pbc]
        if np.abs(ratio - 1.0).max() > _SAME_LENGTH or np.abs(angles[1] - angles[0]).max() > 90.0 * _SAME_LENGTH:
            _refuse(one, other, "cell", *(np.round(cell_to_cellpar(cell), 3).tolist() for cell in cells))
    for name, unit in (("temperature", "K"), ("pressure", "bar")):
        asked = [_asked_for(each, name) for each in (one, other)]
        if None not in asked and asked[0] != asked[1]:
            _refuse(one, other, name, *(f"{each:.12g} {unit}" for each in asked))
    means = [float(each["temperature"].mean()) for each in (one, other)]
    middle = 0.5 * sum(means)
    # the energy of a simulation that is left alone is that of its start, whose temperature scatters by T/sqrt(N_f)
    allowed = min(3.0 * np.sqrt(2.0 / max(one.degrees_of_freedom, 1)), _LARGEST_DIFFERENCE) * middle
    if abs(means[1] - means[0]) > max(allowed, 1e-6):
        _refuse(one, other, "mean temperature", f"{means[0]:.1f} K", f"{means[1]:.1f} K")


def _no_copies(trajectories: Sequence[Trajectory]) -> None:
    """Of runs from one start with the same random numbers, the frames are the same too: no independent estimates."""
    known: list[tuple[Trajectory, Floats]] = []
    for each in trajectories:
        for other, positions in known:
            frames = min(each.frames, other.frames)
            if frames < 2 or not np.array_equal(each.part("positions", 0, 1)[0], positions):
                continue
            last = [one.part("positions", frames - 1, frames)[0] for one in (each, other)]
            if np.array_equal(*last) and np.ptp(last[0] - positions) > 0:
                raise DataError(f"{each.path}: holds the same frames as {other.path}; give each trajectory once")
        known.append((each, each.part("positions", 0, 1)[0]))


def _asked_for(trajectory: Trajectory, name: str) -> float | None:
    """Temperature of a bath or of the velocities that were drawn, or pressure, where it was given."""
    value = trajectory.settings.get(name)
    return None if value is None else float(value)


def _friction(trajectory: Trajectory) -> float:
    settings = trajectory.settings
    return 1.0 / float(settings["thermostat_time"]) if settings.get("thermostat") == "langevin" else 0.0


def _field_of(trajectory: Trajectory) -> str:
    field = trajectory.settings.get("field")
    if field is None:
        return "none"
    if isinstance(field, dict):
        return ", ".join(f"{name} {value}" for name, value in field.items() if value)
    return str(field)


def _refuse(
    one: Trajectory,
    other: Trajectory,
    name: str,
    first: object,
    second: object,
    *,
    way: str = "analyse them one by one",
) -> None:
    raise DataError(
        f"{other.path}: {name} is {second} and that of {one.path} is {first}; such trajectories are not averaged: {way}"
    )
