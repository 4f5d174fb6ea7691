"""The command `les-plugins`: one file a subcommand; errors of ours in one line, exit code 1; wrong usage, 2."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

import les_plugins
from les_plugins.errors import LesPluginsError, LesPluginsWarning

_formatted = warnings.formatwarning

app = typer.Typer(
    name="les-plugins",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"les-plugins {les_plugins.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Long-range electrostatics for machine-learning interatomic potentials."""


def _register() -> None:
    from les_plugins.cli import (
        analyze,
        check,
        compile,
        demo,
        evaluate,
        hosts,
        md,
        phonons,
        piezoelectric,
        plot,
        predict,
        spectra,
        train,
        zoo,
    )

    app.command("demo")(demo.demo)
    app.command("hosts")(hosts.hosts)
    app.command("check")(check.check)
    train_app = typer.Typer(help="Train with a host's own trainer and a long-range part.", no_args_is_help=True)
    train.register(train_app)
    app.add_typer(train_app, name="train")
    app.command("compile")(compile.compile_model)
    app.command("predict")(predict.predict)
    app.command("evaluate")(evaluate.evaluate)
    app.command("md")(md.md)
    for name, group, text in (
        ("spectra", spectra, "Spectra of trajectories, with error bars."),
        ("plot", plot, "Figures of what a model holds."),
        ("analyze", analyze, "Structure, diffusion and energy drift of trajectories."),
        ("zoo", zoo, "Pretrained models that come with the package."),
    ):
        sub = typer.Typer(help=text, no_args_is_help=True)
        group.register(sub)
        app.add_typer(sub, name=name)
    app.command("phonons")(phonons.phonons)
    app.command("piezoelectric")(piezoelectric.piezoelectric)


def main() -> None:
    """Run the command line; entry point of the console script."""
    _register()
    warnings.formatwarning = _warning
    try:
        app()
    except LesPluginsError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {_escape(str(error))}")
        sys.exit(1)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Our own warnings without the line of code that gave them."""
    if issubclass(category, LesPluginsWarning):
        return f"warning: {message}\n"
    return _formatted(message, category, filename, lineno, line)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
