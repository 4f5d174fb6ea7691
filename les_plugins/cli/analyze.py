"""`les-plugins analyze`: radial distribution, diffusion and energy drift of trajectories; `interface` beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.cautions import warn_of_fields
from les_plugins.cli.interface import interface
from les_plugins.cli.shared import beside
from les_plugins.cli.spectra import AsJson, Output, Skip, Trajectories
from les_plugins.errors import ConfigError, DataError

if TYPE_CHECKING:
    from les_plugins.plots.spectra import Curve

BlockCount = Annotated[int, typer.Option(help="Blocks of each trajectory, for error bars.")]


def register(app: typer.Typer) -> None:
    """Add the analyses to the group."""
    for function in (rdf, diffusion, drift, interface):
        app.command(function.__name__)(function)


def rdf(
    trajectories: Trajectories,
    pair: Annotated[str, typer.Option(help="Two elements, as O-O.")] = "O-O",
    output: Output = None,
    cutoff: Annotated[
        float | None, typer.Option(help="Å; default: half the smallest height of the cell.", show_default=False)
    ] = None,
    width: Annotated[float, typer.Option(help="Å, of a bin.")] = 0.05,
    every: Annotated[int, typer.Option(help="Use every so many frames.", min=1)] = 10,
    blocks: BlockCount = 5,
    skip: Skip = 0.0,
    overlay: Annotated[Path | None, typer.Option(help="CSV with a measured g(r).", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Radial distribution function of a pair of elements, with its first peak."""
    import numpy as np

    from les_plugins.spectra import Samples, radial_distribution

    samples = Samples.open(trajectories, skip)
    warn_of_fields(samples, "g(r) is that of the material in it")
    samples.volume()  # says what is missing
    numbers = _pair(pair)
    if cutoff is None:
        cell = samples.trajectories[0].part("cell", 0, 1)[0]
        cutoff = 0.5 / float(np.linalg.norm(np.linalg.inv(cell), axis=0).max())
    try:
        found = radial_distribution(samples.frames(every), numbers, cutoff, width, blocks * len(trajectories))
    except DataError as error:
        raise DataError(f"{trajectories[0]}: {error}") from None
    values = {
        "first_peak_A": found.peak,
        "first_peak_error_A": found.peak_error,
        "first_peak_height": found.height,
        "first_peak_height_error": found.height_error,
        "frames_used": found.frames,
        "blocks": found.blocks,
    }
    line = (
        f"g({pair}): first peak {with_error(found.height, found.height_error, '.3f')} at "
        f"{with_error(found.peak, found.peak_error, '.3f')} Å ({found.frames} frames)"
    )
    curve = (f"g {pair}", found.distance, found.value, found.error)
    _report(samples, values, line, curve, ("r (Å)", f"g(r), {pair}"), output, overlay, as_json)


def diffusion(
    trajectories: Trajectories,
    element: Annotated[str, typer.Option(help="The element that is followed.")] = "O",
    output: Output = None,
    shortest: Annotated[float, typer.Option(help="ps, start of the straight line.")] = 0.5,
    longest: Annotated[float, typer.Option(help="ps, its end.")] = 2.0,
    viscosity: Annotated[
        float | None,
        typer.Option(help="mPa·s: says the finite-size correction (water at 298 K: 0.89).", show_default=False),
    ] = None,
    blocks: BlockCount = 3,
    skip: Skip = 0.0,
    as_json: AsJson = False,
) -> None:
    """Self-diffusion coefficient from the mean squared displacement."""
    import numpy as np

    from les_plugins.spectra import Samples
    from les_plugins.spectra import diffusion as estimate

    samples = Samples.open(trajectories, skip)
    warn_of_fields(samples, f"the mean velocity of {element} is taken off, and D is of the motion about it")
    one, cell, kelvin = samples.trajectories[0], samples.cell(), samples.temperature()
    chosen = one.numbers == _number(element)
    if not chosen.any():
        raise DataError(f"{one.path}: has no {element}")
    positions = samples.positions()
    drift = True if samples.field.any() else None  # without a field: where it is beyond its scatter
    found = estimate(
        positions, one.masses, chosen, samples.interval, longest, shortest, blocks, cell, kelvin, viscosity, drift
    )
    values = {
        "diffusion_A2/ps": found.coefficient,
        "error_A2/ps": found.error,
        "time_averaged_A2/ps": found.time_averaged,
        "time_averaged_error_A2/ps": found.time_averaged_error,
        "finite_size_correction_A2/ps": found.correction,
        "from_ps": shortest,
        "to_ps": longest,
        "blocks": blocks * len(trajectories),
        "temperature_K": kelvin,
    }
    edges = " × ".join(f"{length:.2f}" for length in np.linalg.norm(cell, axis=1))
    line = (
        f"D({element}) = {with_error(found.coefficient, found.error, '.4f')} Å²/ps (1e-8 m²/s) in a cell of {edges} Å"
    )
    if found.correction is None:
        line += "; without the correction for the finite cell: give --viscosity"
    else:
        line += f"; {found.coefficient + found.correction:.4f} with the finite-size correction {found.correction:.4f}"
    line += f"; over all pairs of frames {with_error(found.time_averaged, found.time_averaged_error, '.4f')}"
    curve = (f"mean squared displacement of {element}", found.time, found.displacement, found.displacement_error)
    _report(samples, values, line, curve, ("t (ps)", "mean squared displacement (Å²)"), output, None, as_json)


def drift(
    trajectories: Trajectories,
    output: Output = None,
    blocks: BlockCount = 10,
    skip: Skip = 0.0,
    as_json: AsJson = False,
) -> None:
    """Drift of the conserved energy, in meV/atom/ps."""
    import numpy as np

    from les_plugins.plots.spectra import Curve, binned
    from les_plugins.spectra import Samples, energy_drift

    samples = Samples.open(trajectories, skip)
    energies = samples.series("conserved_energy")
    found = energy_drift(energies, samples.interval, samples.n_atoms, blocks)
    values = {
        "drift_meV/atom/ps": found["drift"],
        "error_meV/atom/ps": found["error"],
        "fluctuation_meV/atom": found["fluctuation"],
    }
    line = (
        f"drift {found['drift']:.4g} ± {found['error']:.2g} meV/atom/ps, fluctuation {found['fluctuation']:.3g} "
        "meV/atom about the line"
    )
    one = energies[0]
    time = samples.interval * np.arange(len(one)) / 1000.0
    curve: tuple[str, Any, Any, None] = ("conserved energy", time, 1000.0 * (one - one[0]) / samples.n_atoms, None)
    means = binned(Curve(*curve))  # thousands of points of noise would hide a drift
    _report(samples, values, line, curve, ("t (ps)", "conserved energy (meV/atom)"), output, None, as_json, means)


def _report(
    samples: Any,
    values: dict[str, Any],
    line: str,
    curve: tuple[str, Any, Any, Any],
    labels: tuple[str, str],
    output: Path | None,
    overlay: Path | None,
    as_json: bool,
    drawn: Curve | None = None,
) -> None:
    from les_plugins.plots.plotting import check_available
    from les_plugins.plots.spectra import Curve, plot, read_curve, write_csv

    shown, files = Curve(*curve), []
    reference = None if overlay is None else read_curve(overlay)
    if output is not None:
        check_available()
        table, picture = beside(output, "csv", "png")
        write_csv(table, labels[0], [shown], values)
        plot(picture, [drawn or shown], *labels, title=samples.title, reference=reference)
        files = [str(table), str(picture)]
    if as_json:
        report = {
            "samples": samples.facts(),
            "values": values,
            "curve": {
                "x": shown.x.tolist(),
                "y": shown.y.tolist(),
                "error": None if shown.error is None else shown.error.tolist(),
            },
            "files": files,
        }
        typer.echo(json.dumps(report, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{samples.duration:.3g} ps: {line}")
    for file in files:
        console.print(f"wrote {file}")


def with_error(value: float, error: float | None, form: str) -> str:
    """A value with its error bar, where it has one."""
    return f"{value:{form}}" + ("" if error is None else f" ± {error:{form}}")


def _pair(pair: str) -> tuple[int, int]:
    words = pair.split("-")
    if len(words) != 2:
        raise ConfigError(f"--pair is {pair!r}; allowed: two elements, as O-O or O-H")
    return _number(words[0]), _number(words[1])


def _number(element: str) -> int:
    from ase.data import atomic_numbers

    if element not in atomic_numbers:
        raise ConfigError(f"{element!r} is no chemical symbol")
    return int(atomic_numbers[element])
