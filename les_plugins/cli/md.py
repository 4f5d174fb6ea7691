"""`les-plugins md`: molecular dynamics with currents, dipoles, polarizabilities and fields, restarted after a kill."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.interruption import command_line, says_what_was_kept
from les_plugins.cli.shared import (
    Dtype,
    Head,
    ModelOrCommittee,
    one_frame,
    open_model,
    progress,
    quiet_host,
    say_boundaries,
)
from les_plugins.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ase import Atoms

Ensemble = Enum("Ensemble", {name: name for name in ("nve", "nvt", "npt")}, type=str)  # type: ignore[misc]
Thermostat = Enum("Thermostat", {name: name for name in ("bussi", "langevin")}, type=str)  # type: ignore[misc]
Velocities = Enum("Velocities", {name: name for name in ("auto", "draw", "keep")}, type=str)  # type: ignore[misc]
_NVE, _AUTO = Ensemble("nve"), Velocities("auto")
SUFFIX = ".h5"


def md(
    model: ModelOrCommittee,
    start: Annotated[
        Path,
        typer.Argument(metavar="START", help="Structure file of ASE, or a trajectory (.h5).", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Trajectory to write (.h5).", show_default=False)],
    ensemble: Annotated[Ensemble, typer.Option(help="Ensemble.")] = _NVE,
    thermostat: Annotated[
        Thermostat | None, typer.Option(help="Thermostat of nvt; default bussi.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="K; of the bath, or of the velocities drawn for nve.", show_default=False)
    ] = None,
    pressure: Annotated[float | None, typer.Option(help="bar, of npt.", show_default=False)] = None,
    timestep: Annotated[float, typer.Option(help="fs.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Steps from the start.")] = 1000,
    every: Annotated[int, typer.Option(help="Steps between recorded frames.")] = 4,
    thermostat_time: Annotated[float, typer.Option(help="fs, relaxation time; Langevin friction is 1/time.")] = 100.0,
    barostat_time: Annotated[float, typer.Option(help="fs, of npt.")] = 1000.0,
    seed: Annotated[int, typer.Option(help="Of the velocities and the thermostat.")] = 0,
    velocities: Annotated[
        Velocities, typer.Option(help="keep those of START, draw new ones, or auto: keep if there are any.")
    ] = _AUTO,
    current: Annotated[
        bool, typer.Option("--current/--no-current", help="Record J = Σ Z* v: derivatives for Z* at every frame.")
    ] = True,
    sum_rule: Annotated[
        bool, typer.Option("--sum-rule/--no-sum-rule", help="Take the mean of Z* off every atom in J.")
    ] = True,
    field: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Uniform field, V/Å: three numbers.", show_default=False)
    ] = None,
    pulse_center: Annotated[
        float | None, typer.Option(help="fs: makes the field a Gaussian pulse.", show_default=False)
    ] = None,
    pulse_width: Annotated[float | None, typer.Option(help="fs, its standard deviation.", show_default=False)] = None,
    pulse_wavenumber: Annotated[float, typer.Option(help="cm⁻¹, of its carrier.")] = 0.0,
    polarizability: Annotated[
        list[str] | None,
        typer.Option(
            help="Record α of atoms, did (with dipole–induced dipoles) or self-consistent, each also with +flow; may "
            "be repeated. The model's own is recorded in any case.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with OUTPUT; start it if it is not there.")] = False,
    index: Annotated[int, typer.Option(help="Which frame of START.")] = -1,
    save_every: Annotated[float, typer.Option(help="s of wall time between saved states.")] = 10.0,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    epsilon_infinity: Annotated[
        float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
    ] = None,
    head: Head = None,
    dtype: Dtype = None,
    warn_above: Annotated[
        float | None,
        typer.Option(help="eV/Å: warn when the members of a committee differ by more (0.5).", show_default=False),
    ] = None,
    stop_above: Annotated[
        float | None, typer.Option(help="eV/Å: stop when they differ by more.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Simulate START with MODEL and record positions, velocities, J(t), P(t) and α(t) to an HDF5 file."""
    from les_plugins.data.cautions import coming_from
    from les_plugins.data.evaluation import known_elements
    from les_plugins.data.frames import Boundaries, check_elements_of
    from les_plugins.data.given_charge import given_charge, ignored_charge
    from les_plugins.data.trajectory import NAME
    from les_plugins.dynamics import Field, Settings, Trajectory, run
    from les_plugins.dynamics.watch import WARN_ABOVE, Watch
    from les_plugins.storage import checkpoint

    watch = None
    if warn_above is not None or stop_above is not None:
        watch = Watch(WARN_ABOVE if warn_above is None else warn_above, stop_above)
    if output.suffix != SUFFIX:
        raise typer.BadParameter(f"{output} must end in {SUFFIX}", param_hint="--output")
    if field is None and (pulse_center is not None or pulse_width is not None or pulse_wavenumber):
        raise ConfigError("a pulse needs the field that it is a pulse of: give --field X Y Z")
    settings = Settings.of(
        ensemble=ensemble.value,
        thermostat=None if thermostat is None else thermostat.value,
        temperature=temperature,
        pressure=pressure,
        timestep=timestep,
        steps=steps,
        every=every,
        thermostat_time=thermostat_time,
        barostat_time=barostat_time,
        seed=seed,
        velocities=velocities.value,
        current=current,
        sum_rule=sum_rule,
        field=None if field is None else Field(field, pulse_center, pulse_width, pulse_wavenumber),
        polarizability=tuple(polarizability or ()),
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    with quiet_host(), coming_from(f"{start}, frame {index}"):
        structure = _read_start(start, index)
        calculator, model_facts = open_model(model, device, epsilon_infinity, head, dtype)
        known = known_elements(calculator)
        if known is not None:
            check_elements_of(structure, known, str(start))
        facts = {
            NAME: model.resolve().name,
            "model_weights_sha256": model_facts["weights_sha256"],
            "host": model_facts["host"],
            "epsilon_infinity": model_facts["epsilon_infinity"],
            **({} if head is None else {"head": head}),
            **({} if dtype is None else {"dtype": dtype}),
            "start_sha256": checkpoint.sha256(start),
            "start_index": index,
        }

        def begin(numbers: range) -> Iterator[int]:
            """Once nothing is left that could be refused."""
            say_boundaries(start, Boundaries([structure]))
            for line in _begun_with(structure, settings, numbers.start > 1):
                console.print(line)
            if note := _without_directions(structure, model_facts.get("long_range")):
                console.print(note)
            return progress(numbers, len(numbers), "steps", numbers.start - 1)

        with says_what_was_kept(lambda: _kept(output)):
            outcome = run(
                calculator,
                structure,
                output,
                settings,
                facts,
                resume=resume,
                save_every=save_every,
                track=begin,
                watch=watch,
            )
    given = None if getattr(calculator, "takes_total_charge", False) else given_charge(structure)
    notes = [] if given is None else [ignored_charge(given, str(start))]
    summary = {
        "output": str(output),
        **dataclasses.asdict(outcome),
        **_summary(Trajectory.open(output)),
        "notes": notes,
    }
    if as_json:
        typer.echo(
            json.dumps({"model": model_facts, "settings": settings.model_dump(mode="json"), **summary}, indent=1)
        )
        return
    console.print(
        f"{output}: {outcome.frames} frames to step {outcome.steps} ({outcome.steps * timestep / 1000:g} ps) with "
        f"{', '.join(outcome.series)}; {outcome.seconds:.0f} s"
    )
    console.print(f"temperature {summary['temperature_mean']:.1f} K on average")
    if (largest := summary.get("largest_forces_std")) is not None:
        console.print(f"committee: forces differ by at most {largest:.3g} eV/Å (standard deviation) in the frames")
    for note in notes:
        console.print(f"note: {note}", markup=False)


def _read_start(start: Path, index: int) -> Atoms:
    if start.suffix == SUFFIX:
        from les_plugins.dynamics import Trajectory

        return Trajectory.open(start).atoms(index)
    return one_frame(start, index)


def _begun_with(structure: Atoms, settings: Any, resumed: bool) -> list[str]:
    """Where velocities and constraints of a run are from."""
    from les_plugins.dynamics.integrators import keeps_velocities

    lines = []
    if resumed:
        lines.append("velocities: of the last saved state")
    elif keeps_velocities(structure, settings):
        unused = "" if settings.temperature is None or settings.ensemble != "nve" else "; --temperature is not used"
        lines.append(f"velocities: kept from START, {structure.get_temperature():.1f} K{unused}")
    else:
        lines.append(f"velocities: drawn at {settings.temperature:g} K, seed {settings.seed}")
    if structure.constraints:
        names = ", ".join(sorted({type(constraint).__name__ for constraint in structure.constraints}))
        free = structure.get_number_of_degrees_of_freedom()
        lines.append(f"constraints of START: {names}; {free} of {3 * len(structure)} degrees of freedom are left")
    return lines


def _without_directions(structure: Atoms, section: dict[str, Any] | None) -> str:
    """A note where the polarizability that is recorded will have no Raman spectrum but the isotropic one."""
    response = (section or {}).get("response", {})
    scalar = response.get("dipole") == "isotropic" and response.get("solve", "one_shot") == "one_shot"
    if not scalar or (response.get("charge", False) and not structure.pbc.all()):
        return ""
    return (
        "note: the model's polarizabilities are isotropic, and so is their sum, which is recorded: spectra raman needs "
        "long_range: {response: {dipole: anisotropic}}, or --polarizability did here and there"
    )


def _kept(output: Path) -> str:
    from les_plugins.dynamics import Trajectory

    try:
        found = Trajectory.open(output)
    except DataError:
        return f"{output} has no frame yet; to begin again: {command_line('--resume')}"
    return (
        f"{output} keeps {found.frames} frames, to {(found.frames - 1) * found.interval / 1000:g} ps; to go on: "
        f"{command_line('--resume')}"
    )


def _summary(trajectory: Any) -> dict[str, Any]:
    found = {"temperature_mean": float(trajectory["temperature"].mean())}
    if "largest_forces_std" in trajectory.names:
        found["largest_forces_std"] = float(trajectory["largest_forces_std"].max())
    return found
