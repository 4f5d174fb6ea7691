"""`les-plugins check HOST`: the adapter contract on an installed host, with a report that says what holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from les_plugins.version import __version__

if TYPE_CHECKING:
    from les_plugins.testing.plugin import Outcome

_COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def check(
    host: Annotated[str, typer.Argument(metavar="HOST", help="As listed by `les-plugins hosts`.", show_default=False)],
    select: Annotated[
        str, typer.Option("--select", "-k", help="Run only tests that match, as in `pytest -k`.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check that HOST, as installed here, keeps the adapter contract. Exit code 1 when a test fails."""
    from les_plugins.hosting import registry as plugins

    plugins.host(host)  # says in words what is missing
    (info,) = (info for info in plugins.hosts() if info.name == host)
    from les_plugins.testing.runner import run_contract  # pytest is optional

    stderr = Console(file=sys.stderr)
    with stderr.status(f"{host} {info.version}: running the adapter contract, a minute or so"):
        outcomes = run_contract(host, select)
    counts = {kind: sum(outcome.outcome == kind for outcome in outcomes) for kind in _COLOURS}
    if as_json:
        report = {
            "host": host,
            "distribution": info.distribution,
            "version": info.version,
            "les_plugins": __version__,
            **counts,
            "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
            "tests": [outcome.to_dict() for outcome in outcomes],
        }
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        for model in dict.fromkeys(outcome.model for outcome in outcomes):
            name = host if model == host else f"{host}, {model}"
            title = f"{name}: {info.distribution} {info.version}, les-plugins {__version__}"
            _print_report(title, [outcome for outcome in outcomes if outcome.model == model])
    if counts["failed"]:
        raise typer.Exit(1)


def _print_report(title: str, outcomes: Sequence[Outcome]) -> None:
    """One row a law, its cases counted; then what was measured, what was skipped and why, and how failures look."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table("law", "cases", "result", "s", title=escape(title), title_justify="left")
    for law in dict.fromkeys(outcome.law for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.law == law]
        worst = next(kind for kind in ("failed", "skipped", "passed") if any(each.outcome == kind for each in mine))
        seconds = sum(each.seconds for each in mine)
        table.add_row(escape(law), str(len(mine)), f"[{_COLOURS[worst]}]{worst}[/]", f"{seconds:.1f}")
    console.print(table, soft_wrap=False)
    for name, value in dict.fromkeys(item for outcome in outcomes for item in outcome.notes.items()):
        console.print(f"{escape(name)}: {escape(value)}")
    for outcome in outcomes:
        case = f" [{outcome.case}]" if outcome.case else ""
        if outcome.outcome == "skipped":
            console.print(f"[yellow]skipped[/]: {escape(outcome.law + case)}: {escape(outcome.reason)}")
        elif outcome.outcome == "failed":
            console.print(f"[bold red]failed[/]: {escape(outcome.law + case)}\n{escape(outcome.reason)}\n")
    counts = [f"{sum(each.outcome == kind for each in outcomes)} {kind}" for kind in _COLOURS]
    console.print(f"{', '.join(counts)} in {sum(each.seconds for each in outcomes):.0f} s")
