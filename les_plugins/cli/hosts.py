"""`les-plugins hosts`: which adapters there are, which of them can be used, and why not."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def hosts(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the host adapters, their versions, why one cannot be used, and the parts that a section can name."""
    from les_plugins.hosting import registry as plugins

    found = plugins.hosts()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(info) | {"available": info.available} for info in found], indent=1))
        return
    table = Table("host", "package", "supported", "installed", "compiles to", "state")
    for info in found:
        state = "[green]available[/]" if info.available else "[yellow]not available[/]"
        targets = ", ".join(info.compile_targets) or "-"
        table.add_row(info.name, info.distribution, info.supported, info.version or "-", targets, state)
    console = Console(soft_wrap=True)
    console.print(table, soft_wrap=False)
    for info in found:  # below the table: a narrow terminal would cut what is to be typed
        if info.problem is not None:
            console.print(f"{info.name}: {escape(info.problem)}", highlight=False)
    for kind, offered in (
        ("heads", plugins.heads()),
        ("run.method", plugins.solvers()),
        ("response", plugins.responses()),
    ):
        names = [
            name if each.part.provider == plugins.OURS else f"{name} ({each.part.provider} {each.part.version})"
            for name, each in offered.items()
        ]
        console.print(f"{kind}: {', '.join(names)}", highlight=False)
