"""`les-plugins spectra`: infrared, conductivity, dielectric constants and velocities; `cli.raman` adds Raman."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from les_plugins.cli.cautions import warn_of_aliases, warn_of_fields
from les_plugins.cli.spectra_report import Picture, write_report
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
MarkLabel = Annotated[str, typer.Option(help="What --mark marks, for the legend.")]
MARKED = "marked"
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Correction = Enum("Correction", {n: n for n in ("harmonic", "standard", "schofield")}, type=str)  # type: ignore[misc]
_HARMONIC = Correction("harmonic")
_SHOWN = (0.0, 4000.0)


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
    mark_label: MarkLabel = MARKED,
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
    shape = Picture(limits, overlay, tuple(mark or ()), mark_label, volume is None)
    write_report(found, groups, notes, output, shape, as_json)


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
    mark_label: MarkLabel = MARKED,
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
    shape = Picture(limits, overlay, tuple(mark or ()), mark_label)
    write_report([found], [samples], notes, output, shape, as_json)


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
    mark_label: MarkLabel = MARKED,
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
    shape = Picture(limits, overlay, tuple(mark or ()), mark_label)
    write_report([found], [samples], notes, output, shape, as_json)


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
    mark_label: MarkLabel = MARKED,
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
    shape = Picture(limits, overlay, tuple(mark or ()), mark_label, True, "density of states")
    write_report(parts, [samples], {"temperature_K": samples.temperature()}, output, shape, as_json)


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
