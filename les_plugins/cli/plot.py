"""`les-plugins plot`: parity, charges by element and on a map, parts of the energy along a dissociation curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from les_plugins.cli import evaluate
from les_plugins.cli.shared import (
    Head,
    Model,
    beside,
    one_frame,
    open_model,
    progress,
    quiet_host,
    say_boundaries,
    without_suffix,
)
from les_plugins.errors import ConfigError
from les_plugins.io.files import whole_file

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
    for function in (parity, charges, dissociation):
        app.command(function.__name__)(function)
    app.command("map")(charge_map)


def parity(
    model: Model,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Labelled structures, read by ASE.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Write NAME_<quantity>.png.", metavar="NAME", show_default=False),
    ],
    born: Annotated[
        bool | None, typer.Option("--born/--no-born", help="Born charges; default: when the file has them.")
    ] = None,
    device: Device = "cpu",
    epsilon_infinity: Epsilon = None,
    head: Head = None,
    as_json: AsJson = False,
) -> None:
    """Predicted against reference values of everything FILE has labels of; `evaluate --plots` prints the errors too."""
    from les_plugins.plots.plotting import check_available, parity_plots

    check_available()
    with quiet_host():
        result, _, _ = evaluate.compare(model, file, device, epsilon_infinity, born=born, head=head)
        pictures = parity_plots(result, output.parent, f"{without_suffix(output, 'png')}_", model.name)
    if as_json:
        typer.echo(json.dumps({"metrics": result.metrics(), "files": [str(path) for path in pictures]}, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for path in pictures:
        console.print(f"wrote {path}")


def charges(
    model: Model,
    file: File,
    output: Output,
    device: Device = "cpu",
    epsilon_infinity: Epsilon = None,
    as_json: AsJson = False,
) -> None:
    """Distribution of the charges of each element over the structures of FILE."""
    from les_plugins.data.frames import Boundaries, iterate_frames
    from les_plugins.plots.plotting import check_available

    check_available()
    with quiet_host():
        calculator, _ = open_model(model, device, epsilon_infinity)
        from les_plugins.plots.figures import charges_by_element, plot_charges

        boundaries = Boundaries()
        frames = boundaries.watch(progress(iterate_frames(file), None, "charges"))
        found = charges_by_element(calculator, frames, str(file))
    say_boundaries(file, boundaries)
    picture, table = beside(output, "png", "csv")
    plot_charges(picture, found, model.name)
    lines = ["element,charge_e", *(f"{element},{q:.8g}" for element, values in found.items() for q in values)]
    with whole_file(table) as file_of_charges:
        file_of_charges.write("\n".join(lines) + "\n")
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


def charge_map(
    model: Model,
    file: File,
    output: Output,
    index: Annotated[int, typer.Option(help="Which frame of FILE.")] = -1,
    axis: Annotated[str, typer.Option(help="x, y or z: the axis that points at the reader.")] = "z",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Map of the latent charges of one structure, a panel for each element."""
    from les_plugins.plots import charge_map as lib
    from les_plugins.plots.plotting import check_available

    if axis not in lib.AXES:
        raise ConfigError(f"--axis is {axis!r}; allowed: {', '.join(lib.AXES)}")
    check_available()
    with quiet_host():
        atoms = one_frame(file, index)
        calculator, _ = open_model(model, device)
        found = lib.charge_map(calculator, atoms, f"{file}, frame {index}")
    picture, table = beside(output, "png", "csv")
    lib.plot_map(picture, found, axis, f"{model.name}, {len(atoms):,} atoms")
    lib.write_map(table, found)
    summary = {
        element: {"mean": float(q.mean()), "deviation": float(q.std()), "atoms": len(q)}
        for element, q in found.by_element().items()
    }
    if as_json:
        typer.echo(json.dumps({"latent_charges": summary, "files": [str(picture), str(table)]}, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for element, part in summary.items():
        console.print(f"{element}: {part['mean']:+.4f} ± {part['deviation']:.4f} e ({part['atoms']} atoms)")
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
    from les_plugins.data.frames import iterate_frames
    from les_plugins.plots.plotting import check_available

    check_available()
    with quiet_host():
        calculator, _ = open_model(model, device)
        from les_plugins.plots.figures import energy_parts, plot_energy_parts
        from les_plugins.plots.spectra import write_csv

        frames = progress(iterate_frames(file), None, "energies")
        distance, curves = energy_parts(calculator, frames, first, str(file))
    picture, table = beside(output, "png", "csv")
    plot_energy_parts(picture, curves, f"{model.name}, {len(distance):,} structures")
    write_csv(table, "distance_A", curves, {"energies": "eV, from their values at the largest distance"})
    if as_json:
        parts = {curve.label: curve.y.tolist() for curve in curves}
        files = [str(picture), str(table)]
        typer.echo(json.dumps({"distance": distance.tolist(), "energies": parts, "files": files}, indent=1))
        return
    Console(highlight=False, soft_wrap=True).print(f"{len(distance)} structures\nwrote {picture}\nwrote {table}")
