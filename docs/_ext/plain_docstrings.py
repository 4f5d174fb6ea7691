"""Docstrings are written for an editor: `code` in single backquotes, Z* and |k| as they are. Here they become RST."""

from __future__ import annotations

import re
from typing import Any


def plain(lines: list[str]) -> list[str]:
    """The lines with single backquotes doubled, and with stars and bars outside of code escaped."""
    return [_line(line) for line in lines]


def _line(line: str) -> str:
    parts = re.split(r"(``[^`]+``|:\w+:`[^`]+`|`[^`]+`)", line)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            parts[number] = re.sub(r"([*|])", r"\\\1", part)
        elif part.startswith("`") and not part.startswith("``"):
            parts[number] = f"`{part}`"
    return "".join(parts)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain(lines)


def setup(app: Any) -> dict[str, bool]:
    """Before napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True}
