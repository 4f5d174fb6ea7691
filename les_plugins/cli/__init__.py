"""The command `les-plugins`: one file a subcommand; errors of ours in one line, exit code 1; wrong usage, 2."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.failures import is_out_of_memory
from les_plugins.cli.interruption import Group, terminable
from les_plugins.errors import InterruptionError, LesPluginsError, LesPluginsWarning
from les_plugins.io.files import reason
from les_plugins.version import __version__

_formatted = warnings.formatwarning
#: Characters of a message that are printed.
_LONGEST = 4000

app = typer.Typer(
    name="les-plugins",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"les-plugins {__version__}")
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
        chemiscope,
        committee,
        compile,
        demo,
        distill,
        evaluate,
        hosts,
        lammps,
        md,
        phonons,
        piezoelectric,
        plot,
        polarization,
        predict,
        raman,
        relax,
        spectra,
        train,
        zoo,
    )

    app.command("demo")(demo.demo)
    app.command("hosts")(hosts.hosts)
    app.command("check")(check.check)
    train_app = typer.Typer(
        cls=train.Hosts, help="Train with a host's own trainer and a long-range part.", no_args_is_help=True
    )
    train_app.callback()(lambda: None)
    app.add_typer(train_app, name="train")
    app.command("distill")(distill.distill)
    app.command("compile")(compile.compile_model)
    app.command("predict")(predict.predict)
    app.command("evaluate")(evaluate.evaluate)
    app.command("chemiscope")(chemiscope.chemiscope)
    app.command("committee")(committee.committee)
    app.command("relax")(relax.relax)
    app.command("md")(md.md)
    app.command("lammps", context_settings=lammps.CONTEXT)(lammps.lammps)
    more: dict[str, Any] = {"spectra": raman, "analyze": polarization}
    for name, group, text in (
        ("spectra", spectra, "Spectra of trajectories, with error bars."),
        ("plot", plot, "Figures of what a model holds."),
        ("analyze", analyze, "Structure, diffusion, energy drift and polarization of trajectories."),
        ("zoo", zoo, "Pretrained models that come with the package."),
    ):
        sub = typer.Typer(help=text, no_args_is_help=True)
        group.register(sub)
        if name in more:
            more[name].register(sub)
        app.add_typer(sub, name=name)
    app.command("phonons")(phonons.phonons)
    app.command("piezoelectric")(piezoelectric.piezoelectric)


def main() -> None:
    """Run the command line; entry point of the console script."""
    warnings.formatwarning = _warning
    try:
        with terminable():
            _register()
            app()
    except InterruptionError as stop:
        _say(str(stop), "")
        sys.exit(stop.exit_code)
    except LesPluginsError as error:
        _say(str(error))
    except OSError as error:
        _say(_in_words(error))
    except MemoryError as error:
        _say(f"out of memory{f': {error}' if str(error) else ''}")
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        _say(f"out of memory: {str(error).splitlines()[0]}")
    else:
        return
    sys.exit(1)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Our own warnings without the line of code that gave them."""
    if issubclass(category, LesPluginsWarning):
        return f"warning: {message}\n"
    return _formatted(message, category, filename, lineno, line)


def _in_words(error: OSError) -> str:
    """What the system says, with the file or files that it is about."""
    files = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return ": ".join([*files, reason(error)])


def _say(message: str, mark: str = "[bold red]error:[/] ") -> None:
    """One line on standard error, never longer than anybody would read."""
    line = "".join(map(_visible, " ".join(message.splitlines())))
    shown = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}… ({len(line)} characters)"
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"{mark}{_escape(shown)}")


def _visible(character: str) -> str:
    """What a terminal would obey, or cannot write, by its code: names and values in messages come from files."""
    return character if character.isprintable() or character == "\xa0" else ascii(character)[1:-1]


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
