"""`les-plugins spectra`: infrared, conductivity, dielectric constants and velocities; `cli.raman` adds Raman."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.cautions import warn_of_aliases, warn_of_fields
from les_plugins.cli.shared import beside as named
from les_plugins.errors import ConfigError, DataError

Trajectories = Annotated[
    list[Path], typer.Argument(metavar="TRAJ...", help="Trajectories of `les-plugins md` (.h5).", show_default=False)
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write NAME.csv and NAME.png.", metavar="NAME", show_default=False)
]
Resolution = Annotated[float, typer.Option(help="cm⁻¹ between points; segments are 1/(c × this) long.")]
Window = Annotated[str, typer.Option(help="Window of the segments, by its name in SciPy.")]
Blocks = Annotated[
    int | None, typer.Option(help="Blocks of each trajectory, for error bars; default: up to ten.", show_default=False)
]
Skip = Annotated[float, typer.Option(help="ps left out at the start of each trajectory.")]
Limits = Annotated[tuple[float, float], typer.Option(help="Wavenumbers shown, cm⁻¹.")]
Overlay = Annotated[Path | None, typer.Option(help="CSV with a measured curve: wavenumber, value.", show_default=False)]
Marks = Annotated[
    list[float] | None,
    typer.Option("--mark", help="cm⁻¹: a dotted line there, for a measured band; may be repeated.", show_default=False),
]
Epsilon = Annotated[
    float | None,
    typer.Option(
        "--epsilon-infinity",
        help="ε_∞ in the place of the trajectory's: J is scaled by the root of their ratio.",
        show_default=False,
    ),
]
Axis = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="Three numbers: light polarized along, or across, this axis, as of a field.", show_default=False),
]
ByModel = Annotated[
    bool,
    typer.Option("--by-model", help="Trajectories of several models: a spectrum of each, their mean and spread."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Correction = Enum("Correction", {n: n for n in ("harmonic", "standard", "schofield")}, type=str)  # type: ignore[misc]
_HARMONIC = Correction("harmonic")
_SHOWN = (0.0, 4000.0)
_AXIS = "wavenumber (cm⁻¹)"


def register(app: typer.Typer) -> None:
    """Add the spectra to the group."""
    for function in (ir, conductivity, dielectric, velocities):
        app.command(function.__name__)(function)


def ir(
    trajectories: Trajectories,
    output: Output = None,
    resolution: Resolution = 26.7,
    window: Window = "hann",
    blocks: Blocks = None,
    skip: Skip = 0.0,
    limits: Limits = _SHOWN,
    overlay: Overlay = None,
    mark: Marks = None,
    correction: Annotated[Correction, typer.Option(help="Quantum correction of the line shape.")] = _HARMONIC,
    temperature: Annotated[
        float | None, typer.Option(help="K, in the place of the trajectory's mean.", show_default=False)
    ] = None,
    epsilon_infinity: Epsilon = None,
    along: Axis = None,
    across: Axis = None,
    by_model: ByModel = False,
    as_json: AsJson = False,
) -> None:
    """Infrared absorption from J(t): n(ν) α(ν) in cm⁻¹ for periodic trajectories."""
    from les_plugins import spectra

    static = None if along or across else "absorption is that in the field, a mean over directions: --along, --across"
    how, groups = spectra.Welch(resolution, window, blocks), groups_of(trajectories, skip, by_model, static)
    if temperature is not None:
        spectra.check_temperature(temperature, "--temperature")
    if along is not None and across is not None:
        raise ConfigError("--along and --across: give one of them")

    def spectrum(samples: Any) -> list[Any]:
        volumes = samples.volumes() if samples.is_periodic else None
        kelvin = samples.temperatures() if temperature is None else temperature
        currents = samples.currents(epsilon_infinity)
        if (axis := along or across) is not None:
            currents = spectra.directed(currents, axis, across is not None)
        drift = _drift(samples)
        return [spectra.infrared(currents, samples.interval, kelvin, volumes, how, correction.value, drift)]

    found = over_models([spectrum(samples) for samples in groups])
    samples = groups[0]
    volume = samples.volume() if samples.is_periodic else None
    notes = {
        "temperature_K": samples.temperature() if temperature is None else temperature,
        "volume_A3": volume,
        "epsilon_infinity": samples.epsilon_infinity if epsilon_infinity is None else epsilon_infinity,
        "quantum correction": correction.value,
        "light along": along,
        "light across": across,
    }
    write_report(found, groups, notes, output, limits, overlay, mark, as_json, scaled=volume is None)


def conductivity(
    trajectories: Trajectories,
    output: Output = None,
    resolution: Resolution = 26.7,
    window: Window = "hann",
    blocks: Blocks = None,
    skip: Skip = 0.0,
    limits: Limits = _SHOWN,
    overlay: Overlay = None,
    mark: Marks = None,
    correlation_time: Annotated[float, typer.Option(help="fs, longest time of the Green–Kubo integral.")] = 1000.0,
    epsilon_infinity: Epsilon = None,
    as_json: AsJson = False,
) -> None:
    """Conductivity from J(t): Re σ(ν), and its static value by the Green–Kubo integral."""
    from les_plugins import spectra

    samples = _samples(trajectories, skip, "the mean current is taken off, and read by Ohm's law beside")
    how, drift = spectra.Welch(resolution, window, blocks), _drift(samples)
    currents, kelvin, volumes = samples.currents(epsilon_infinity), samples.temperatures(), samples.volumes()
    found = spectra.conductivity_spectrum(currents, samples.interval, kelvin, volumes, how, drift)
    ohmic: tuple[Any, Any] = (None, None)
    if samples.field.any():
        ohmic = spectra.ohmic_conductivity(currents, samples.field, volumes)
    try:
        static = spectra.green_kubo(currents, samples.interval, kelvin, volumes, correlation_time, blocks, drift)
    except DataError as error:  # the spectrum is there all the same
        static = {"conductivity": f"none: {error}", "error": None}
    notes = {
        "temperature_K": samples.temperature(),
        "volume_A3": samples.volume(),
        "static_conductivity_S/m": static["conductivity"],
        "static_conductivity_error_S/m": static["error"],
        "displacement_conductivity_S/m": static.get("displacement_conductivity"),
        "displacement_conductivity_error_S/m": static.get("displacement_error"),
        "ohmic_conductivity_S/m": ohmic[0],
        "ohmic_conductivity_error_S/m": ohmic[1],
        "Green-Kubo window_fs": [0.5 * correlation_time, correlation_time],
    }
    write_report([found], [samples], notes, output, limits, overlay, mark, as_json)


def dielectric(
    trajectories: Trajectories,
    output: Output = None,
    resolution: Resolution = 26.7,
    window: Window = "hann",
    blocks: Blocks = None,
    skip: Skip = 0.0,
    limits: Limits = _SHOWN,
    overlay: Overlay = None,
    mark: Marks = None,
    epsilon_infinity: Epsilon = None,
    as_json: AsJson = False,
) -> None:
    """Static dielectric constant from dipole fluctuations, and the loss ε''(ν)."""
    from les_plugins import spectra

    static = "ε_0 and loss are those of fluctuations in it, a mean over directions; see analyze polarization"
    samples, how = _samples(trajectories, skip, static), spectra.Welch(resolution, window, blocks)
    kelvin, volumes, electronic = samples.temperatures(), samples.volumes(), epsilon_infinity
    currents = samples.currents(epsilon_infinity)
    if electronic is None:
        electronic = samples.epsilon_infinity
    if electronic is None:
        raise DataError(f"{trajectories[0]}: does not say with which ε_∞ it was made: give --epsilon-infinity to md")
    dipoles = [spectra.dipole_from_current(current, samples.interval) for current in currents]
    constant, error = spectra.static_dielectric_constant(dipoles, kelvin, volumes, electronic)
    found = spectra.dielectric_loss(currents, samples.interval, kelvin, volumes, how, _drift(samples))
    notes = {
        "temperature_K": samples.temperature(),
        "volume_A3": samples.volume(),
        "epsilon_infinity": electronic,
        "epsilon_0": constant,
        "epsilon_0_error": error,
    }
    write_report([found], [samples], notes, output, limits, overlay, mark, as_json)


def velocities(
    trajectories: Trajectories,
    output: Output = None,
    resolution: Resolution = 26.7,
    window: Window = "hann",
    blocks: Blocks = None,
    skip: Skip = 0.0,
    limits: Limits = _SHOWN,
    overlay: Overlay = None,
    mark: Marks = None,
    as_json: AsJson = False,
) -> None:
    """Vibrational density of states: power spectrum of the velocities, all atoms and each element."""
    from dataclasses import replace

    from ase.data import chemical_symbols

    from les_plugins import spectra

    samples = _samples(trajectories, skip, "the density of states is that of the material in it")
    how = spectra.Welch(resolution, window, blocks)
    kelvin, moving = samples.temperatures(), samples.series("velocities")
    numbers, masses = samples.trajectories[0].numbers, samples.trajectories[0].masses
    elements = sorted(set(numbers.tolist()))
    parts = []
    for number in [None, *elements] if len(elements) > 1 else [None]:
        chosen = numbers == number if number is not None else numbers > 0
        found = spectra.velocity_spectrum(
            [values[:, chosen] for values in moving], masses[chosen], samples.interval, kelvin, how
        )
        parts.append(replace(found, name="all" if number is None else chemical_symbols[number]))
    write_report(
        parts, [samples], {"temperature_K": samples.temperature()}, output, limits, overlay, mark, as_json, scaled=True
    )


def groups_of(trajectories: list[Path], skip: float, by_model: bool, static: str | None) -> list[Any]:
    """One group of trajectories, or one a model; `static` as of `warn_of_fields`."""
    from les_plugins import spectra

    if not by_model:
        return [_samples(trajectories, skip, static)]
    groups = spectra.by_model(trajectories, skip)
    for samples in groups:
        warn_of_fields(samples, static)
        warn_of_aliases(samples)
    return groups


def over_models(found: list[list[Any]]) -> list[Any]:
    """Spectra of the one group, or their mean over the models, part by part."""
    from les_plugins import spectra

    return found[0] if len(found) == 1 else [spectra.over_models(parts) for parts in zip(*found, strict=True)]


def _samples(trajectories: list[Path], skip: float, static: str | None) -> Any:
    from les_plugins.spectra import Samples

    samples = Samples.open(trajectories, skip)
    warn_of_fields(samples, static)
    warn_of_aliases(samples)
    return samples


def _drift(samples: Any) -> bool | None:
    """In a static field the mean current is taken off; without one, where it is beyond its scatter."""
    return True if samples.field.any() else None


def _facts(groups: list[Any]) -> dict[str, Any]:
    """What was analysed, of all models."""
    facts = groups[0].facts()
    for samples in groups[1:]:
        other = samples.facts()
        for name in ("trajectories", "frames", "duration_ps", "model"):
            facts[name] = facts[name] + other[name]
    facts["temperature_K"] = sum(samples.temperature() for samples in groups) / len(groups)
    return facts  # type: ignore[no-any-return]


def _title(groups: list[Any]) -> str:
    if len(groups) == 1:
        return str(groups[0].title)
    facts = _facts(groups)
    size = f"{groups[0].n_atoms} atoms, {facts['temperature_K']:.0f} K, {facts['duration_ps']:.3g} ps"
    return f"{len(groups)} models: {size}; bands: sampling, and between models"


def _plain(values: Any) -> list[float | None] | None:
    """Numbers for JSON, which knows no NaN."""
    return None if values is None else [value if math.isfinite(value) else None for value in values.tolist()]


def check_limits(limits: tuple[float, float], output: Path | None) -> None:
    """ConfigError for limits that are no interval, DataError for an output without a name."""
    if not -float("inf") < limits[0] < limits[1] < float("inf"):
        raise ConfigError(
            f"--limits are {limits[0]:g} and {limits[1]:g} cm⁻¹; allowed: two numbers, the smaller one first"
        )
    if output is not None and not output.name:
        raise DataError(f"{output}: has no name that .csv and .png could be added to; give --output NAME")


def _error_in_words(found: Any) -> str:
    if found.error is None:
        return "none, there is one block: simulate longer, or give a coarser --resolution or more trajectories"
    return f"68 % interval over {found.blocks} blocks (Student's t)"


def write_report(
    found: list[Any],
    groups: list[Any],
    notes: dict[str, Any],
    output: Path | None,
    limits: tuple[float, float],
    overlay: Path | None,
    marks: list[float] | None,
    as_json: bool,
    scaled: bool = False,
    beside: Sequence[Any] = (),
) -> None:
    """Print or write spectra that share an axis: `found` with their picture, `beside` in CSV and JSON alone."""
    import numpy as np

    from les_plugins.plots.plotting import check_available
    from les_plugins.plots.spectra import Curve, plot, read_curve, write_csv

    check_limits(limits, output)
    if strange := [mark for mark in marks or () if not math.isfinite(mark)]:
        raise ConfigError(f"--mark is {strange[0]} cm⁻¹; allowed: a finite number")
    if output is not None:
        check_available()
    reference = None if overlay is None else read_curve(overlay)
    shown = [part.between(*limits) for part in found]
    for part in shown:
        finite = np.isfinite(part.value + (0.0 if part.error is None else part.error))
        if not finite.all():
            place = part.wavenumber[int(np.argmin(finite))]
            raise DataError(f"{part.name} is not finite at {place:.0f} cm⁻¹: what was given is too large or too small")
    if not len(shown[0].wavenumber):
        raise DataError(f"no point of the spectrum lies between {limits[0]:g} and {limits[1]:g} cm⁻¹")
    curves = [Curve(part.name, part.wavenumber, part.value, part.error, part.model_error) for part in shown]
    others = [part.between(*limits) for part in beside]
    columns = [Curve(part.name, part.wavenumber, part.value, part.error, part.model_error) for part in others]
    notes = {**found[0].notes, **notes}
    files = []
    if output is not None:
        table, picture = named(output, "csv", "png")
        described = {**notes, "unit": found[0].unit, "error": _error_in_words(found[0])}
        write_csv(table, "wavenumber_cm-1", curves + columns, described)
        label = f"{found[0].name} ({found[0].unit})" if len(found) == 1 else f"intensity ({found[0].unit})"
        plot(picture, curves, _AXIS, label, limits, _title(groups), reference, scaled, marks or (), "bands of --mark")
        files = [str(table), str(picture)]
    if as_json:
        listed = {
            part.name: {
                "value": _plain(part.value),
                "error": _plain(part.error),
                **({} if part.model_error is None else {"model_error": _plain(part.model_error)}),
                "unit": part.unit,
            }
            for part in (*shown, *others)
        }
        report = {"samples": _facts(groups), "notes": notes, "files": files}
        typer.echo(json.dumps(report | {"wavenumber": shown[0].wavenumber.tolist(), "spectra": listed}, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    facts = _facts(groups)
    number = len(facts["trajectories"])
    console.print(
        f"{number} trajector{'ies' if number > 1 else 'y'}, {facts['duration_ps']:.3g} ps at "
        f"{facts['temperature_K']:.0f} K; "
        f"{notes['blocks']} blocks of {notes['block_fs'] / 1000:.3g} ps, segments of {notes['segment_fs'] / 1000:.3g} "
        f"ps ({notes['window']}), Nyquist {notes['nyquist_cm-1']:.0f} cm⁻¹"
    )
    for part in shown:
        top = int(part.value[1:].argmax()) + 1 if len(part.value) > 1 else 0
        console.print(
            f"{part.name}: highest at {part.peak:.0f} cm⁻¹, {part.value[top]:.4g}"
            + (f" {part.unit}" if part.error is None else f" ± {part.error[top]:.2g} {part.unit}")
            + ("" if part.model_error is None else f", between models ± {part.model_error[top]:.2g}")
        )
    if found[0].error is None:
        console.print(f"error: {_error_in_words(found[0])}")
    for name, value in notes.items():
        if name not in found[0].notes and value is not None:
            console.print(f"{name}: {value:.5g}" if isinstance(value, float) else f"{name}: {value}")
    for file in files:
        console.print(f"wrote {file}")
