"""`les-plugins train HOST`: the host's own trainer, its own config file, with a `long_range:` section in it."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from les_plugins import plugins

_CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """One subcommand for every adapter that can train, whether its host is installed or not."""
    for info in plugins.hosts():
        app.command(info.name, context_settings=_CONTEXT, help=f"Train with {info.distribution}.")(_command(info.name))


def _command(host: str):  # type: ignore[no-untyped-def]
    def train(
        context: typer.Context,
        config: Path = typer.Option(..., "--config", help="The host's own config file, with a long_range: section."),
        data_licence: str = typer.Option("not stated", help="Licence of the training data, kept in the checkpoint."),
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
