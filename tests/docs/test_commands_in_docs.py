"""Every `les-plugins` command line that a page shows: the command exists, and so does each option that it is given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from les_plugins import cli

ROOT = Path(__file__).parents[2]
BUILT = {"_build", "auto_tutorials", "generated"}
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if not BUILT & set(path.parts))
PAGES = [ROOT / "README.md", *DOCS, *sorted((ROOT / "model_zoo").glob("*/*.md"))]
#: What takes the options of a host as they are.
OPEN = ("train",)


@pytest.fixture(scope="module")
def root() -> Any:
    if not cli.app.registered_commands:
        cli._register()
    return typer.main.get_command(cli.app)


def command_lines(text: str) -> list[str]:
    """Lines of code blocks, continued ones joined, and spans of code, from the name of the command on."""
    joined = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```\w*\n(.*?)^```$", joined, re.MULTILINE | re.DOTALL)
    blocks = [line for line in joined.splitlines() if line.startswith("    ")]
    blocks += [line for block in fenced for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", joined)
    found = []
    for line in (*blocks, *spans):
        for part in re.split(r"&&|;|\|", line):
            match = re.search(r"(?:^|[\s/(])les-plugins (?!.*…)(\S.*)", part.split(" #")[0])
            if match:
                found.append(match.group(1))
    return found


def problem(root: Any, line: str) -> str:
    """What is wrong with a command line, or nothing."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    command, used = root, []
    while hasattr(command, "commands") and used[:1] != list(OPEN):
        if not words or words[0].startswith("-") or not re.fullmatch(r"[a-z-]+", words[0]):
            break  # a group's own option, or a placeholder such as KIND
        name = words.pop(0).rstrip(",")
        if name not in command.commands:
            return f"no command {name!r} in {' '.join(['les-plugins', *used])}"
        command = command.commands[name]
        used.append(name)
    if hasattr(command, "commands") or used[:1] == list(OPEN):
        return ""
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    asked = {word.split("=")[0].strip("[].,") for word in words if re.match(r"\[?-{1,2}[a-z]", word)}
    unknown = sorted(asked - known - {"--help"})
    return f"{' '.join(used)} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists(root: Any, page: Path) -> None:
    lines = command_lines(page.read_text(encoding="utf-8"))
    assert [f"{line}: {wrong}" for line in lines if (wrong := problem(root, line))] == []


def test_the_pages_show_commands() -> None:
    assert sum(len(command_lines(page.read_text(encoding="utf-8"))) for page in PAGES) > 100


@pytest.mark.parametrize(
    ("line", "wrong"), [("predikt MODEL F", "no command"), ("predict M F --outptu x", "--outptu"), ("zoo list", "")]
)
def test_a_command_that_does_not_exist_is_found(root: Any, line: str, wrong: str) -> None:
    found = problem(root, line)
    assert wrong in found if wrong else found == ""
