"""`les-plugins compile`: a checkpoint as one file of compiled code, by its host's compiler."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from les_plugins.cli.shared import Model, quiet_host
from les_plugins.errors import DataError, HostError, quoted
from les_plugins.io.files import unwritable


def compile_model(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.", show_default=False)],
    static_cell: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Longest lattice vectors to be covered, Å; default: the checkpoint's.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="Torch device that the file is to run on.")] = "cpu",
    target: Annotated[
        str | None, typer.Option(help="What to compile to: see `les-plugins hosts`.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Compile MODEL to OUTPUT, a file that runs where les-plugins is not installed."""
    from les_plugins import api
    from les_plugins.devices import check_device
    from les_plugins.hosting import registry as plugins
    from les_plugins.storage import checkpoint, zoo

    check_device(device)
    path = zoo.resolve(model)
    config = checkpoint.read_config(path)
    host = plugins.host(config["host"])
    (info,) = (info for info in plugins.hosts() if info.name == config["host"])
    if output.is_dir() or not output.parent.is_dir():
        raise DataError(f"{output}: cannot be written; allowed: a file in a folder that exists")
    facts = {
        "checkpoint": path.name,
        "weights_sha256": checkpoint.sha256(path / checkpoint.WEIGHTS),
        "susceptibility": config.get("susceptibility"),
    }
    if not host.offers("compile"):
        targets = ", ".join(info.compile_targets) or "none"
        raise HostError(
            f"{path}: this command compiles no models of {info.name} (targets of its own commands: {targets}); see "
            "docs/reference/compilers.md"
        )
    if target is not None and target not in info.compile_targets:
        raise HostError(f"--target is {quoted(target)}; allowed for {info.name}: {', '.join(info.compile_targets)}")
    choice = {} if target is None else {"target": target}
    with quiet_host():
        built, _ = api.load_model(path)
        with _in_another_folder(output) as begun:
            written = host.compile(built, begun, static_cell, device, facts, **choice)
    chosen = target or next(iter(info.compile_targets), None)  # a host may name none
    if as_json:
        made = output.with_name(written.name)
        report = {"model": facts, "output": {"path": str(made), "sha256": checkpoint.sha256(made)}, "device": device}
        typer.echo(json.dumps({**report, "host": info.name, "target": chosen}, indent=1))
        return
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        ", ".join(filter(None, [f"{output.with_name(written.name)}: {info.name}", chosen]))
    )


@contextmanager
def _in_another_folder(output: Path) -> Iterator[Path]:
    """A file of the same name, which comes to its place when the host has written the whole of it."""
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            begun = Path(folder) / output.name
            yield begun
            for file in Path(folder).iterdir():
                os.replace(file, output.with_name(file.name))
    except OSError as error:
        raise unwritable(output, error) from None
