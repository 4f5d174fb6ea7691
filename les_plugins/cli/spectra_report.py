"""What the spectra commands print and write: CSV, picture, JSON or lines."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from les_plugins.cli.shared import beside as named
from les_plugins.errors import ConfigError, DataError


@dataclass(frozen=True)
class Picture:
    """What is shown of spectra that share an axis.

    Attributes:
        limits: of the wavenumbers, cm⁻¹.
        overlay: CSV with a measured curve, or None.
        marks: cm⁻¹, dotted lines.
        marked: what these are, for the legend; their wavenumbers are added.
        scaled: the measured curve takes the height of the first one.
        quantity: of several curves together, on the axis.
    """

    limits: tuple[float, float]
    overlay: Path | None = None
    marks: tuple[float, ...] = ()
    marked: str = ""
    scaled: bool = False
    quantity: str = "intensity"

    def check(self, output: Path | None) -> None:
        """ConfigError for limits that are no interval or marks that are no numbers, DataError for no name."""
        low, high = self.limits
        if not -float("inf") < low < high < float("inf"):
            raise ConfigError(f"--limits are {low:g} and {high:g} cm⁻¹; allowed: two numbers, the smaller one first")
        if output is not None and not output.name:
            raise DataError(f"{output}: has no name that .csv and .png could be added to; give --output NAME")
        if strange := [mark for mark in self.marks if not math.isfinite(mark)]:
            raise ConfigError(f"--mark is {strange[0]} cm⁻¹; allowed: a finite number")

    @property
    def legend(self) -> str:
        """What the marks are, and where."""
        return f"{self.marked}: {', '.join(f'{mark:g}' for mark in self.marks)} cm⁻¹"


def write_report(
    found: list[Any],
    groups: list[Any],
    notes: dict[str, Any],
    output: Path | None,
    shape: Picture,
    as_json: bool,
    beside: Sequence[Any] = (),
) -> None:
    """Print or write spectra that share an axis: `found` with their picture, `beside` in CSV and JSON alone."""
    import numpy as np

    from les_plugins.plots.plotting import check_available
    from les_plugins.plots.spectra import Curve, plot, read_curve, write_csv

    shape.check(output)
    if output is not None:
        check_available()
    reference = None if shape.overlay is None else read_curve(shape.overlay)
    shown = [part.between(*shape.limits) for part in found]
    for part in shown:
        finite = np.isfinite(part.value + (0.0 if part.error is None else part.error))
        if not finite.all():
            place = part.wavenumber[int(np.argmin(finite))]
            raise DataError(f"{part.name} is not finite at {place:.0f} cm⁻¹: what was given is too large or too small")
    if not len(shown[0].wavenumber):
        raise DataError(f"no point of the spectrum lies between {shape.limits[0]:g} and {shape.limits[1]:g} cm⁻¹")
    curves = [Curve(part.name, part.wavenumber, part.value, part.error, part.model_error) for part in shown]
    others = [part.between(*shape.limits) for part in beside]
    columns = [Curve(part.name, part.wavenumber, part.value, part.error, part.model_error) for part in others]
    notes = {**found[0].notes, **notes}
    files = []
    if output is not None:
        table, picture = named(output, "csv", "png")
        described = {**notes, "unit": found[0].unit, "error": _error_in_words(found[0])}
        write_csv(table, "wavenumber_cm-1", curves + columns, described)
        label = f"{found[0].name if len(found) == 1 else shape.quantity} ({found[0].unit})"
        plot(
            picture,
            curves,
            "wavenumber (cm⁻¹)",
            label,
            shape.limits,
            _title(groups),
            reference,
            shape.scaled,
            shape.marks,
            shape.legend,
        )
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
        top = int(part.value.argmax())
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


def _error_in_words(found: Any) -> str:
    if found.error is None:
        return "none, there is one block: simulate longer, or give a coarser --resolution or more trajectories"
    return f"68 % interval over {found.blocks} blocks (Student's t)"
