"""`les-plugins analyze polarization`: mean polarization against static fields, and the dielectric constant from it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.analyze import with_error
from les_plugins.cli.shared import beside
from les_plugins.cli.spectra import AsJson, Output, Skip, Trajectories
from les_plugins.errors import DataError


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("polarization")(polarization)


def polarization(
    trajectories: Trajectories,
    output: Output = None,
    blocks: Annotated[int, typer.Option(help="Blocks of each trajectory, for error bars.")] = 5,
    skip: Skip = 0.0,
    from_zero_field: Annotated[
        bool,
        typer.Option(
            "--from-zero-field",
            help="Take the mean of the trajectories without field off: for crystals, and molecules that START cuts.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mean polarization of trajectories in static fields, the dielectric constant from it and from fluctuations."""
    from les_plugins.spectra.field_response import polarization_in_fields, saturation
    from les_plugins.units import VACUUM_PERMITTIVITY

    points = polarization_in_fields(trajectories, skip, blocks)
    electronic = points[0].samples.epsilon_infinity
    if electronic is None:
        raise DataError(f"{trajectories[0]}: does not say with which ε_∞ it was made: give --epsilon-infinity to md")
    zero = next((point for point in points if point.field == 0.0), None)
    if from_zero_field and zero is None:
        raise DataError("--from-zero-field: none of the trajectories ran without a field")
    origin = zero.polarization if from_zero_field and zero is not None else 0.0
    rows = []
    for point in points:
        value = point.polarization - origin
        row: dict[str, Any] = {
            "field_V/A": point.field,
            "polarization_e/A2": value,
            "error_e/A2": point.error,
            "blocks": point.blocks,
            "duration_ps": point.samples.duration,
            "temperature_K": point.samples.temperature(),
        }
        if point.field:
            scale = 1.0 / (VACUUM_PERMITTIVITY * abs(point.field))
            row["epsilon"] = electronic + value / (VACUUM_PERMITTIVITY * point.field)
            row["epsilon_error"] = None if point.error is None else scale * point.error
            row["work_not_booked_meV/atom"] = point.booked
        rows.append(row)
    fit = saturation(points, origin)
    fluctuation = "no trajectory without a field" if zero is None else _of_fluctuations(zero.samples, electronic)
    values: dict[str, Any] = {
        "epsilon_infinity": electronic,
        "epsilon_0_of_fit": None if fit is None else electronic + fit.susceptibility,
        "epsilon_0_of_fit_error": None if fit is None else fit.susceptibility_error,
        "saturation_e/A2": None if fit is None else fit.limit,
        "saturation_error_e/A2": None if fit is None else fit.limit_error,
        "epsilon_0_of_fluctuations": None if isinstance(fluctuation, str) else fluctuation[0],
        "epsilon_0_of_fluctuations_error": None if isinstance(fluctuation, str) else fluctuation[1],
        "no_fluctuations": fluctuation if isinstance(fluctuation, str) else None,
        "polarization_taken_off_e/A2": origin,
    }
    files = [] if output is None else _write(output, points, rows, values, fit)
    if as_json:
        facts = {point.field: point.samples.facts() for point in points}
        typer.echo(json.dumps({"samples": facts, "points": rows, "values": values, "files": files}, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        line = f"{row['field_V/A']:g} V/Å: P = {with_error(row['polarization_e/A2'], row['error_e/A2'], '.5f')} e/Å²"
        if "epsilon" in row:
            line += f", ε_∞ + P/(ε0 E) = {with_error(row['epsilon'], row['epsilon_error'], '.2f')}"
        line += f" ({row['duration_ps']:.3g} ps, {row['temperature_K']:.0f} K)"
        if "epsilon" in row:
            line += f"; work of the field less change of E·V·P: at most {row['work_not_booked_meV/atom']:.2g} meV/atom"
        console.print(line)
    if fit is not None:
        limit = with_error(electronic + fit.susceptibility, fit.susceptibility_error, ".2f")
        console.print(
            f"fit of P_s L(3 ε0 χ E/P_s), L(y) = coth y − 1/y: ε_0 = ε_∞ + χ = {limit}, "
            f"P_s = {with_error(fit.limit, fit.limit_error, '.5f')} e/Å²"
        )
    if isinstance(fluctuation, str):
        console.print(f"fluctuations without a field: none: {fluctuation}")
    else:
        console.print(f"fluctuations without a field: ε_0 = {with_error(*fluctuation, '.2f')}")
    for file in files:
        console.print(f"wrote {file}")


def _of_fluctuations(samples: Any, electronic: float) -> tuple[float, float] | str:
    """ε_0 of trajectories without a field and its error, or why there is none."""
    from les_plugins.spectra import dipole_from_current, static_dielectric_constant

    try:
        dipoles = [dipole_from_current(current, samples.interval) for current in samples.currents()]
        return static_dielectric_constant(dipoles, samples.temperatures(), samples.volumes(), electronic)
    except DataError as error:
        return str(error)


def _write(output: Any, points: Any, rows: list[dict[str, Any]], values: dict[str, Any], fit: Any) -> list[str]:
    import numpy as np

    from les_plugins.plots.field import plot_polarization
    from les_plugins.plots.plotting import check_available
    from les_plugins.plots.spectra import Curve, write_csv

    check_available()
    table, picture = beside(output, "csv", "png")
    field, found, error = (
        np.array([np.nan if row[name] is None else row[name] for row in rows], dtype=float)
        for name in ("field_V/A", "polarization_e/A2", "error_e/A2")
    )
    measured = Curve("P (e/Å²)", field, found, error)
    write_csv(table, "field_V/A", [measured], values)
    line = values["epsilon_0_of_fluctuations"]
    slope = None if line is None else line - values["epsilon_infinity"]
    plot_polarization(picture, measured, fit, slope, str(points[0].samples.title).split(",")[0])
    return [str(table), str(picture)]
