"""`les-plugins zoo`: the pretrained models that come with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model, as `zoo list` prints.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add list, info, verify, copy and structures to the group."""
    app.command("list")(list_models)
    for function in (info, verify, copy, structures):
        app.command(function.__name__)(function)


def list_models(as_json: AsJson = False) -> None:
    """List the models, what they were trained on and how good they are."""
    from les_plugins.hosting import registry as plugins
    from les_plugins.storage import zoo
    from les_plugins.storage.licences import is_restricted

    hosts = {info.name: info for info in plugins.hosts()}
    rows = []
    for found in zoo.entries():
        metrics, host = found.metrics, found.config["host"]
        problem = hosts[host].problem if host in hosts else "no adapter"
        rows.append({"name": found.name, "host": host, "usable": problem is None, "problem": problem, **metrics})
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = Table()
    for column in ("name", "host", "terms", "forces\nmeV/Å", "energy\nmeV/atom", "Z*\ne", "Z*\nR²"):
        table.add_column(column, no_wrap=True, justify="right" if "\n" in column else "left")
    for row in rows:
        errors = row["summary"]
        numbers = (
            _number(errors["forces_rmse_meV_per_A"], 1),
            _number(errors["energy_rmse_meV_per_atom"], 2),
            _number(errors.get("born_rmse_e"), 3),
            _number(errors.get("born_diagonal_r2_within_elements"), 3),
        )
        mark = "*" if is_restricted(row["data"]["licence"]) else ""
        table.add_row(row["name"] + mark, row["host"], row["terms"], *numbers)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table, soft_wrap=False)
    console.print("RMSE on validation frames; R²: diagonal Z* against the mean of each element")
    if taught := [row["name"] for row in rows if "first_principles_forces_rmse_meV_per_A" in row["summary"]]:
        console.print(f"forces and energies of {', '.join(taught)}: against the labels of the teacher", markup=False)
    console.print("* trained on data under a licence that may restrict its use", markup=False)
    for licence in sorted({row["data"]["licence"] for row in rows}):  # below: a narrow terminal would cut them
        of = ", ".join(row["name"] for row in rows if row["data"]["licence"] == licence)
        console.print(f"licence of the data of {of}: {licence}", markup=False)
    for problem in sorted({row["problem"] for row in rows if row["problem"]}):
        console.print(problem, markup=False)


def info(name: Name, as_json: AsJson = False) -> None:
    """Print the card of a model: data and their licence, errors, validity, how it was trained."""
    from les_plugins.storage import zoo

    found = zoo.entry(name)
    found.verify()
    if as_json:
        typer.echo(json.dumps(found.metrics, indent=1, ensure_ascii=False))
        return
    console = Console()
    console.print(Markdown(found.card) if console.is_terminal else found.card, soft_wrap=not console.is_terminal)


def verify(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A model; all when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of a model, or of all, with the SHA-256 of the zoo's manifest."""
    from les_plugins.storage import zoo

    checked = []
    for found in [zoo.entry(name)] if name else zoo.entries():
        found.verify()
        checked.append({"name": found.name, "files": len(found.sha256)})
    if as_json:
        typer.echo(json.dumps(checked, indent=1))
        return
    for row in checked:
        typer.echo(f"{row['name']}: {row['files']} files as the manifest says")


def copy(
    name: Name,
    destination: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make.", show_default=False)],
) -> None:
    """Copy a model, to look at it or to train on from it."""
    from les_plugins.storage import zoo

    typer.echo(str(zoo.entry(name).copy(destination)))


def structures(
    name: Annotated[
        str | None, typer.Option("--copy", metavar="NAME", help="Copy this one to a file.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default: NAME.xyz.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the structures that come with the package, or copy one to a file that other commands take."""
    from les_plugins.data.frames import read_frames
    from les_plugins.storage import zoo

    if output is not None and name is None:
        raise typer.BadParameter("give the structure with --copy NAME", param_hint="--output")
    if name is not None:
        typer.echo(str(zoo.copy_structure(name, output or Path(f"{name}.xyz"))))
        return
    rows = []
    for found in zoo.structures():
        atoms = read_frames(zoo.structure(found))[0]
        rows.append(
            {
                "name": found,
                "formula": atoms.get_chemical_formula(),
                "atoms": len(atoms),
                "pbc": atoms.pbc.tolist(),
                "cell_A": atoms.cell.lengths().tolist(),
                "velocities": atoms.has("momenta"),
                "path": str(zoo.structure(found)),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for row in rows:
        flags = " ".join("T" if flag else "F" for flag in row["pbc"])
        lengths = " × ".join(f"{length:.3f}" for length in row["cell_A"])
        with_velocities = ", with velocities" if row["velocities"] else ""
        typer.echo(f"{row['name']}: {row['formula']}, {row['atoms']} atoms, pbc {flags}, {lengths} Å{with_velocities}")
        typer.echo(f"  {row['path']}")
    typer.echo("copy one: les-plugins zoo structures --copy NAME -o FILE.xyz")


def _number(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
