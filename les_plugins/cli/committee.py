"""`les-plugins committee`: several models as one, whose results carry the spread between them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from les_plugins.errors import DataError, LesPluginsWarning


def committee(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Checkpoint folders or names of the zoo, two or more.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, NAME.committee.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name several models a committee: predict, evaluate, md, relax and les_plugins.load take its file as a MODEL."""
    from les_plugins.committee import description
    from les_plugins.committee.shared_base import shared_bases

    if output.exists():
        raise DataError(f"{output} exists: give another --output")
    members = description.write(output, models)
    for line in description.cautions(members):
        warnings.warn(line, LesPluginsWarning, 2)
    shared = [[member.model for member in group] for group in shared_bases(members)]
    if as_json:
        listed = [{"model": m.model, "host": m.host, "weights_sha256": m.weights_sha256} for m in members]
        document = {"committee": str(output), "members": listed, "shared_base": shared}
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    for member in members:
        console.print(f"{member.model}: {member.host}, weights {member.weights_sha256[:12]}", markup=False)
    for names in shared:
        console.print(
            f"{', '.join(names)} have one base: what they share, errors of the base included, is not in their spread",
            markup=False,
        )
    console.print(f"wrote {output}", markup=False)
