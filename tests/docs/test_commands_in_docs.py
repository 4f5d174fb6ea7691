"""Command lines that a page shows: commands, options, values and arguments are those that the command takes."""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer

from les_plugins import cli

ROOT = Path(__file__).parents[2]
BUILT = {"_build", "auto_tutorials", "generated"}
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if not BUILT & set(path.parts))
CARDS, EXAMPLES = (sorted((ROOT / folder).glob("*/*.md")) for folder in ("model_zoo", "examples"))
PAGES = [ROOT / "README.md", *DOCS, *CARDS, *EXAMPLES]
#: What takes the options of a host as they are.
OPEN = ("train",)


@pytest.fixture(scope="module")
def root() -> Any:
    if not cli.app.registered_commands:
        cli._register()
    return typer.main.get_command(cli.app)


def blocks_of(text: str) -> list[str]:
    """Lines of code blocks, continued ones joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```\w*\n(.*?)^```$", joined, re.MULTILINE | re.DOTALL)
    lines = [line for line in joined.splitlines() if line.startswith("    ")]
    return [*lines, *(line for block in fenced for line in block.splitlines())]


def command_lines(lines: list[str], program: str = "les-plugins") -> list[str]:
    """What stands behind the name of a program, up to a comment or the next command."""
    found = []
    for line in lines:
        for part in re.split(r"&&|;|\|", line):
            match = re.search(rf"(?:^|[\s/(]){program} (?!.*…)(\S.*)", part.split(" #")[0])
            if match:
                found.append(match.group(1))
    return found


def spans_of(text: str) -> list[str]:
    """Spans of code within a sentence, which may leave arguments out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"\\\n\s*", " ", text))


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


def refusal(root: Any, line: str) -> str:
    """What the command says to a line as it stands, or nothing; the command is not run."""
    words, command, name = shlex.split(line), root, "les-plugins"
    ours = [word for word in words if re.fullmatch(r"(benchmarks|examples|model_zoo)/[\w./-]+\.(yaml|yml|json)", word)]
    if missing := [word for word in ours if not (ROOT / word).is_file()]:
        return f"no file {missing[0]}"
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-") or words[0][0].isdigit():
            return ""  # the group's own help, or what `les-plugins --version` prints
        name = words.pop(0)
        command = command.get_command(None, name)
        if command is None:
            return f"no command {name}"
    try:
        with contextlib.redirect_stdout(None):
            command.make_context(name, words)
    except typer.Exit:  # --help
        return ""
    except Exception as error:  # click's, of which some versions of typer have one of their own
        if not hasattr(error, "format_message"):
            raise
        return error.format_message()
    return ""


class Parser(argparse.ArgumentParser):
    """Raises where argparse ends the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parsers(script: Path) -> Iterator[Parser]:
    """The parser that a script makes, read from its source: what it imports need not be installed.

    Nothing where the script reads sys.argv, or has commands of its own.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    if any(call.func.attr in ("add_subparsers", "add_parser") for call in calls):
        return
    arguments = sorted((call for call in calls if call.func.attr == "add_argument"), key=lambda call: call.lineno)
    parser = Parser()
    for call in arguments:
        names, given = [ast.literal_eval(name) for name in call.args], {}
        for keyword in call.keywords:
            if keyword.arg == "type" and isinstance(keyword.value, ast.Name) and keyword.value.id in ("int", "float"):
                given["type"] = {"int": int, "float": float}[keyword.value.id]
            elif keyword.arg in ("action", "nargs", "choices", "required"):
                with contextlib.suppress(ValueError):  # no literal: choices of a dictionary
                    given[keyword.arg] = ast.literal_eval(keyword.value)
        parser.add_argument(*names, **given)
    if arguments:
        yield parser


def refusal_of_script(line: str) -> str:
    """What is wrong with a line behind `python`, or nothing; scripts of the reader's own are no matter."""
    words = [re.sub(r"^\$\w+$", "1", word) for word in shlex.split(line)]  # a variable of a loop may be a number
    file = words.pop(0)
    if not re.match(r"(\.\./)*(benchmarks|examples|model_zoo)/", file):
        return ""
    script = ROOT / re.sub(r"^(\.\./)+", "", file)
    if not script.is_file():
        return "no such file"
    for parser in parsers(script):
        try:
            parser.parse_args(words)
        except ValueError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_page_shows_exists(root: Any, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = command_lines([*blocks_of(text), *spans_of(text)])
    assert [f"{line}: {wrong}" for line in lines if (wrong := problem(root, line))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_line_of_a_block_is_taken_as_it_stands(root: Any, page: Path) -> None:
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    found = [f"les-plugins {line}: {said}" for line in command_lines(blocks) if (said := refusal(root, line))]
    lines = command_lines(blocks, "python")
    found += [f"python {line}: {said}" for line in lines if line[0] != "-" and (said := refusal_of_script(line))]
    assert found == []


def test_the_pages_show_commands() -> None:
    blocks = [blocks_of(page.read_text(encoding="utf-8")) for page in PAGES]
    assert sum(len(command_lines(lines)) for lines in blocks) > 100
    assert sum(len(command_lines(lines, "python")) for lines in blocks) > 50


@pytest.mark.parametrize(
    ("line", "wrong"), [("predikt MODEL F", "no command"), ("predict M F --outptu x", "--outptu"), ("zoo list", "")]
)
def test_a_command_that_does_not_exist_is_found(root: Any, line: str, wrong: str) -> None:
    found = problem(root, line)
    assert wrong in found if wrong else found == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("md water-mace eq.h5 -o nve.h5 --every 6   (stopped at 25,400)", "unexpected extra argument"),
        ("md water-mace -o nve.h5", "Missing argument"),
        ("md water-mace eq.h5 -o nve.h5 --every often", "Invalid value for '--every'"),
        ("train mace", "Missing option"),
        ("train mace --config examples/no_such.yaml", "no file examples/no_such.yaml"),
        ("train mace --config mace.yaml --lr 0.1", ""),
        ("md --help", ""),
    ],
)
def test_a_line_that_cannot_be_copied_is_found(root: Any, line: str, said: str) -> None:
    found = refusal(root, line)
    assert said in found if said else found == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("benchmarks/no_such.py", "no such file"),
        ("../../benchmarks/md_speed.py water-mace --steps ten", "invalid int value: 'ten'"),
        ("benchmarks/md_speed.py water-mace --stepz 10", "unrecognized arguments: --stepz"),
        ("benchmarks/md_speed.py water-mace --steps 10", ""),
        ("my_script.py --anything", ""),
    ],
)
def test_a_script_that_does_not_take_its_line_is_found(line: str, said: str) -> None:
    found = refusal_of_script(line)
    assert said in found if said else found == ""
