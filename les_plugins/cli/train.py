"""`les-plugins train HOST`: the host's own trainer, its own config file, with a `long_range:` section in it."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main
from rich.console import Console
from rich.markup import escape

from les_plugins.cli.failures import is_out_of_memory
from les_plugins.cli.interruption import command_line, says_what_was_kept
from les_plugins.cli.shared import quiet_host
from les_plugins.errors import HostError, LesPluginsError

_CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


class Hosts(typer.core.TyperGroup):
    """One subcommand for every adapter, whether its host is installed or not; adapters are looked for when asked."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the hosts."""
        self._find()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of one host, or None."""
        self._find()
        return super().get_command(ctx, cmd_name)

    def _find(self) -> None:
        from les_plugins.hosting import registry as plugins

        if self.commands:
            return
        found = typer.Typer()
        found.callback()(lambda: None)  # a group even where there is one host
        for info in plugins.hosts():
            help_line = f"Train with {info.distribution}."
            found.command(info.name, context_settings=_CONTEXT, help=help_line)(_command(info.name))
        self.commands.update(typer.main.get_group(found).commands)


def _command(host: str) -> Callable[..., None]:
    def train(
        context: typer.Context,
        config: Annotated[
            Path, typer.Option("--config", help="The host's own config file, with a long_range: section.")
        ],
        data_licence: Annotated[
            str | None,
            typer.Option(
                help="Licence of the frames that no teacher labelled, kept in the checkpoint.",
                show_default="not stated",
            ),
        ] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print a JSON summary on standard output, the host's log on the other.")
        ] = False,
    ) -> None:
        """Train; options that are not listed here go to the host as they are."""
        from les_plugins.data.teachers import NOT_STATED

        metadata = {
            "command": " ".join(
                ["les-plugins train", host, "--config", config.name, *map(_without_path, context.args)]
            ),
            "data_licence": data_licence or NOT_STATED,
        }
        with quiet_host(sys.stderr if as_json else sys.stdout):
            path = _trained(host, config, tuple(context.args), metadata)
        if as_json:
            typer.echo(json.dumps(_summary(path), indent=1))
        else:
            # None: the file asks for no training (a dry run, say), or another process of the run writes it
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                escape("no checkpoint was written by this process" if path is None else f"checkpoint: {path}")
            )

    return train


def _trained(host: str, config: Path, arguments: tuple[str, ...], metadata: dict[str, str]) -> Path | None:
    from les_plugins.hosting import registry as plugins

    def kept() -> str:
        return (
            "the checkpoints that the host has saved stay; to go on from the last one: "
            f"{command_line(*adapter.resume_options)}{adapter.resume_hint}"
        )

    adapter = plugins.host(host)
    with says_what_was_kept(kept):
        try:
            path = adapter.train(config, arguments, metadata)
        except (LesPluginsError, OSError, MemoryError):  # the command has lines of its own for them
            raise
        except Exception as error:  # an adapter passes on whatever its host makes of a strange value
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}, line {last.lineno}"
            reason = f"{type(error).__name__}: {error} ({place})"
            raise HostError(f"{config}: the trainer of {host} stopped with {reason}") from error
        return path


def _summary(path: Path | None) -> dict[str, object]:
    from les_plugins.storage import checkpoint

    if path is None:
        return {"checkpoint": None}
    config = checkpoint.read_config(path)
    return {
        "checkpoint": str(path),
        "sha256": checkpoint.sha256(path / checkpoint.WEIGHTS),
        "long_range": config["long_range"],
        **config["metadata"],
    }


def _without_path(argument: str) -> str:
    """Files by name only: a checkpoint tells nothing of the machine that it was made on."""
    return Path(argument).name if "/" in argument else argument
