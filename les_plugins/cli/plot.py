"""`les-plugins plot`: charges by element, and the parts of the energy along a dissociation curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from les_plugins.cli.shared import open_model, progress, quiet_host
from les_plugins.frames import iterate_frames
from les_plugins.plotting import check_available

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint folder of les-plugins.", show_default=False)]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Structures, read by ASE.", show_default=False)]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Write NAME.png and NAME.csv.", metavar="NAME", show_default=False)
]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")]
Epsilon = Annotated[
    float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the figures to the group."""
    for function in (charges, dissociation):
        app.command(function.__name__)(function)


def charges(
    model: Model,
    file: File,
    output: Output,
    device: Device = "cpu",
    epsilon_infinity: Epsilon = None,
    as_json: AsJson = False,
) -> None:
    """Distribution of the charges of each element over the structures of FILE."""
    check_available()
    with quiet_host():
        calculator, _ = open_model(model, device, epsilon_infinity)
        from les_plugins.figures import charges_by_element, plot_charges

        found = charges_by_element(calculator, progress(iterate_frames(file), None, "charges"), str(file))
    picture, table = (output.with_name(f"{output.name}.{suffix}") for suffix in ("png", "csv"))
    plot_charges(picture, found)
    lines = ["element,charge_e", *(f"{element},{q:.8g}" for element, values in found.items() for q in values)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = {
        element: {"mean": float(q.mean()), "deviation": float(q.std()), "atoms": len(q)} for element, q in found.items()
    }
    if as_json:
        typer.echo(json.dumps({"charges": summary, "files": [str(picture), str(table)]}, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for element, q in summary.items():
        console.print(f"{element}: {q['mean']:+.4f} ± {q['deviation']:.4f} e ({q['atoms']} atoms)")
    console.print(f"wrote {picture}\nwrote {table}")


def dissociation(
    model: Model,
    file: File,
    output: Output,
    first: Annotated[
        int, typer.Option(help="How many atoms of each frame are the first fragment.", show_default=False)
    ],
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Total, short-range and long-range energy of two fragments against the distance of their centres of mass."""
    check_available()
    with quiet_host():
        calculator, _ = open_model(model, device)
        from les_plugins.figures import energy_parts
        from les_plugins.spectra.output import plot, write_csv

        frames = progress(iterate_frames(file), None, "energies")
        distance, curves = energy_parts(calculator, frames, first, str(file))
    picture, table = (output.with_name(f"{output.name}.{suffix}") for suffix in ("png", "csv"))
    plot(picture, curves, "distance (Å)", "energy from the largest distance (eV)")
    write_csv(table, "distance_A", curves, {"energies": "eV, from their values at the largest distance"})
    if as_json:
        parts = {curve.label: curve.y.tolist() for curve in curves}
        files = [str(picture), str(table)]
        typer.echo(json.dumps({"distance": distance.tolist(), "energies": parts, "files": files}, indent=1))
        return
    Console(highlight=False, soft_wrap=True).print(f"{len(distance)} structures\nwrote {picture}\nwrote {table}")
