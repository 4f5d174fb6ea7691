"""Writes the reference of commands and of our sections from the code, to docs/reference/generated/."""

from __future__ import annotations

import enum
import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from les_plugins import cli
from les_plugins.config import Checked, LongRangeConfig
from les_plugins.electrostatics.settings import check_setting
from les_plugins.errors import ConfigError
from les_plugins.model.response_config import ResponseLossConfig


def command_line() -> str:
    """Every command with its arguments and options, Markdown; headings of the second level."""
    if not cli.app.registered_commands:
        cli._register()
    root = typer.main.get_command(cli.app)
    return "\n".join(_commands(root, ["les-plugins"]))


def _commands(command: Any, names: list[str]) -> list[str]:
    if hasattr(command, "commands"):
        return [line for name, sub in command.commands.items() for line in _commands(sub, [*names, name])]
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option" and not item.hidden]
    usage = " ".join([*names, *(_argument(item) for item in arguments), *(["[OPTIONS]"] if options else [])])
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    lines = [f"## {' '.join(names)}", "", "```text", usage, "```", "", text, ""]
    if arguments or options:
        lines += ["| | default | |", "|---|---|---|"]
        lines += [f"| `{_argument(item)}` | | {_cell(item.help)} |" for item in arguments]
        lines += [f"| {_names(item)} | {_default(item)} | {_cell(item.help)} |" for item in options]
    return [*lines, ""]


def _argument(item: Any) -> str:
    name = (item.metavar or item.name).upper().strip("[].…")
    name = f"{name}..." if item.nargs == -1 else name
    return name if item.required else f"[{name}]"


def _names(item: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*item.opts, *item.secondary_opts])
    return names if item.is_flag else f"{names} {_cell(_kind(item))}"


def _kind(item: Any) -> str:
    if item.metavar:
        return str(item.metavar)
    described = getattr(item, "type_descriptor", None)
    kind = described.annotation if described is not None else item.type  # click's type, before typer 0.20 or so
    kind = get_args(kind)[0] if get_origin(kind) in (tuple, list) else kind
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    if getattr(kind, "choices", None):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    names = {float: "NUMBER", int: "INTEGER", str: "TEXT", Path: "FILE"}
    name = names.get(kind) or str(getattr(kind, "name", "VALUE")).upper()
    return " ".join([name] * item.nargs) if item.nargs > 1 else name


def _default(item: Any) -> str:
    if item.required:
        return "required"
    value = getattr(item.default, "value", item.default)
    if value is None or callable(value) or value in (False, (), []):
        return ""
    if value is True:
        return f"`{item.opts[0]}`"
    return f"`{' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def section() -> str:
    """The keys of `long_range:` with their values, defaults and meanings, Markdown."""
    return "\n".join(["## `long_range`", "", *_table(LongRangeConfig, "")])


def response_section() -> str:
    """The keys of `response_loss:`, Markdown."""
    return "\n".join(_table(ResponseLossConfig, ""))


def _table(model: type[BaseModel], prefix: str) -> list[str]:
    meanings = _attributes(model)
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    nested: list[str] = []
    for name, field in model.model_fields.items():
        meaning = meanings.get(name, field.description or "")
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            nested += ["", f"## `{prefix}{name}`", "", *_table(inner, f"{prefix}{name}.")]
            lines.append(f"| `{name}` | section | below | {_cell(meaning)} |")
            continue
        default = "required" if field.default is PydanticUndefined else f"`{_yaml(field.default)}`"
        values = _allowed(name) if Checked in field.metadata else _cell(_values(inner, list(field.metadata)))
        lines.append(f"| `{name}` | {values} | {default} | {_cell(meaning)} |")
    return lines + nested


def _allowed(name: str) -> str:
    """What the error of a setting of the sums says is allowed."""
    try:
        check_setting(name, object())
    except ConfigError as error:
        return _cell(str(error).partition("; allowed: ")[2].replace("None", "`null`"))
    raise ValueError(f"{name} can be anything")


def _values(kind: Any, limits: list[Any]) -> str:
    """A type in the words of a YAML file."""
    origin, inner = get_origin(kind), get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _values(kind.__origin__, list(kind.__metadata__))
    if str(origin).endswith("Literal"):
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return f"list of {_values(inner[0], [])}"
    if origin is dict:
        return f"map of {_values(inner[0], [])} to {_values(inner[1], [])}"
    if origin is not None:  # a union
        return " or ".join(_values(choice, limits) for choice in inner)
    names = {bool: "`true`, `false`", float: "number", int: "integer", str: "text", type(None): "`null`"}
    return names.get(kind, str(kind)) + (_limits(limits) if kind in (float, int) else "")


def _limits(metadata: list[Any]) -> str:
    found = [item for entry in metadata for item in getattr(entry, "metadata", [entry])]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    parts = [f"{sign} {getattr(item, key):g}" for item in found for key, sign in signs.items() if hasattr(item, key)]
    return " " + ", ".join(parts) if parts else ""


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring of a model says under "Attributes:", key by key."""
    text = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2].split("\n\n")[0]
    entries = re.split(r"^ {4}(\w+): ", text, flags=re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in zip(entries[1::2], entries[2::2], strict=True)}


def write(folder: Path) -> None:
    """The files, for pages to include; only what changed is written."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"command-line.md": command_line(), "long-range.md": section(), "response-loss.md": response_section()}
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference" / "generated"))
    return {"parallel_read_safe": True}
