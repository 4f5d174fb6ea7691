"""`les-plugins train HOST`: the host's own trainer, its own config file, with a `long_range:` section in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from les_plugins import plugins

_CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """One subcommand for every adapter that can train, whether its host is installed or not."""
    for info in plugins.hosts():
        app.command(info.name, context_settings=_CONTEXT, help=f"Train with {info.distribution}.")(_command(info.name))


def _command(host: str) -> Callable[..., None]:
    def train(
        context: typer.Context,
        config: Annotated[
            Path, typer.Option("--config", help="The host's own config file, with a long_range: section.")
        ],
        data_licence: Annotated[
            str, typer.Option(help="Licence of the training data, kept in the checkpoint.")
        ] = "not stated",
    ) -> None:
        """Train; options that are not listed here go to the host as they are."""
        hooks = plugins.host(host)
        options = " ".join(context.args)
        metadata = {
            "command": f"les-plugins train {host} --config {config.name} {options}".strip(),
            "data_licence": data_licence,
        }
        path = hooks.les_train(config_file=config, arguments=tuple(context.args), metadata=metadata)
        if path is not None:
            Console(stderr=True).print(f"checkpoint: {path}")

    return train
