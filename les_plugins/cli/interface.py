"""`les-plugins analyze interface`: a slab along its normal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.cautions import warn_of_fields
from les_plugins.cli.shared import Head, beside, open_model, progress, quiet_host
from les_plugins.cli.spectra import AsJson, Skip, Trajectories
from les_plugins.errors import DataError

if TYPE_CHECKING:
    from les_plugins.spectra import Interface


def interface(
    trajectories: Trajectories,
    model: Annotated[
        Path | None,
        typer.Option(
            help="The model that says charges and dipoles, as that of the run; without it, densities only.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write NAME.csv, .h5 and .png.", metavar="NAME", show_default=False),
    ] = None,
    width: Annotated[float, typer.Option(help="Å, of a bin.")] = 0.25,
    every: Annotated[int, typer.Option(help="Use every so many frames.", min=1)] = 10,
    blocks: Annotated[int, typer.Option(help="Blocks of each trajectory, for error bars.")] = 5,
    skip: Skip = 0.0,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    head: Head = None,
    as_json: AsJson = False,
) -> None:
    """Density, orientation, dipoles and potential of slabs along their normal."""
    from les_plugins.plots.interface import curves, plot_interface, write_hdf5
    from les_plugins.plots.plotting import check_available
    from les_plugins.plots.spectra import write_csv
    from les_plugins.spectra import Samples, moments_of
    from les_plugins.spectra import interface as profiles

    samples = Samples.open(trajectories, skip)
    warn_of_fields(samples, "profiles are those in it, the potential that of the moments alone")
    if output is not None:
        check_available()
    total = sum(len(range(samples.first, each.frames, every)) for each in samples.trajectories)
    moments, facts = None, dict[str, Any]()
    with quiet_host():
        if model is not None:
            calculator, facts = open_model(model, device, head=head)
            moments = moments_of(calculator)
            facts["screening"] = _screening(calculator)
        frames = progress(samples.frames(every), total, "frames")
        try:
            found = profiles(frames, moments, width, blocks * len(trajectories))
        except DataError as error:
            raise DataError(f"{trajectories[0]}: {error}") from None
    values = _values(found, facts.get("screening"))
    files: list[str] = []
    if output is not None:
        table, storage, picture = beside(output, "csv", "h5", "png")
        columns = curves(found)
        write_csv(table, "height_A", columns, values)
        write_hdf5(storage, found, values)
        plot_interface(picture, found, samples.title)
        files = [str(table), str(storage), str(picture)]
    if as_json:
        shown = {
            name: {"unit": p.unit, "value": _numbers(p.value), "error": _numbers(p.error)}
            for name, p in found.profiles.items()
        }
        report = {"samples": samples.facts(), "model": facts, "values": values, "height_A": found.height.tolist()}
        typer.echo(json.dumps(report | {"profiles": shown, "files": files}, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(found, samples.duration, facts.get("screening")):
        console.print(line)
    for file in files:
        console.print(f"wrote {file}")


def _screening(calculator: Any) -> float | None:
    """ε_e = ε_∞/(1 + χ) of the model's material, where it says what that is."""
    epsilon, chi = calculator.epsilon_infinity, getattr(calculator, "reference_susceptibility", None)
    return None if epsilon <= 1.0 else float(epsilon / (1.0 + (chi or 0.0)))


def _values(found: Interface, screening: float | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "frames_used": found.frames,
        "blocks": found.blocks,
        "molecules": found.molecules,
        "thickness_A": found.thickness,
        "density_of_the_middle_g/cm3": found.density,
    }
    for name, (value, error) in found.values.items():
        values |= {f"{name}_V": value, f"{name}_error_V": error}
    if screening is not None:
        values["screening_of_the_material"] = screening
    return values


def _lines(found: Interface, duration: float, screening: float | None) -> list[str]:
    lines = [
        f"{duration:.3g} ps, {found.frames} frames in {found.blocks} blocks: {found.molecules} molecules, "
        f"{found.thickness:.2f} Å thick at the {found.density:.3f} g/cm³ of the middle half"
    ]
    words = {
        "potential_step": "potential above the slab less that below",
        "surface_potential": "potential of the middle less that of the vacuum",
        "surface_potential_of_molecules": "of this, molecules' own charges and dipoles",
    }
    for name, (value, error) in found.values.items():
        lines.append(f"{words[name]}: {value:.4f}" + ("" if error is None else f" ± {error:.4f}") + " V")
    if found.values and screening is not None:
        lines.append(
            f"latent (ε_e = 1); times 1/sqrt(ε_e) = {screening**-0.5:.3f} where the electrons of the material screen "
            f"along the normal, ε_e = {screening:.3f}"
        )
    return lines


def _numbers(values: Any) -> list[float | None] | None:
    """For JSON, which has no NaN."""
    return None if values is None else [float(v) if v == v else None for v in values]
