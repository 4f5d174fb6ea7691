"""What the documentation site makes from the code: command line, keys of the config, docstrings."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

from les_plugins import LongRangeConfig, cli
from les_plugins.config import RunConfig

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of docs/_ext by its name."""
    monkeypatch.syspath_prepend(EXTENSIONS)

    def load(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return __import__(name)

    return load


def leaves(command, names):
    if not hasattr(command, "commands"):
        return {" ".join(names): command}
    found = {}
    for name, sub in command.commands.items():
        found |= leaves(sub, [*names, name])
    return found


def test_the_page_of_commands_has_every_command_with_every_option(extension):
    text = extension("pages_from_code").command_line()
    if not cli.app.registered_commands:
        cli._register()
    commands = leaves(typer.main.get_command(cli.app), ["les-plugins"])
    assert len(commands) > 20
    sections = {part.split("\n")[0]: part for part in text.split("## ")[1:]}
    assert set(sections) == set(commands)
    for name, command in commands.items():
        options = [name for item in command.params for name in item.opts if name.startswith("--")]
        assert [option for option in options if f"`{option}`" not in sections[name]] == []


def test_the_page_of_commands_shows_choices_and_defaults(extension):
    text = extension("pages_from_code").command_line()
    assert "| `--ensemble` `nve`, `nvt`, `npt` | `nve` | Ensemble. |" in text
    assert "| `--current`, `--no-current` | `--current` |" in text
    assert "| `--output`, `-o` FILE | required | Trajectory to write (.h5). |" in text


def test_the_page_of_keys_has_every_key_with_values_default_and_meaning(extension):
    text = extension("pages_from_code").section()
    rows = {line.split("`")[1]: line.split(" | ") for line in text.splitlines() if line.startswith("| `")}
    assert set(LongRangeConfig.model_fields) <= set(rows)
    assert [key for key, cells in rows.items() if len(cells) != 4 or len(cells[3].strip(" |")) < 5] == []
    assert rows["hidden"][1:3] == ["integer ≥ 1, ≤ 4096", "`32`"]
    assert set(RunConfig.model_fields) <= set(rows)
    assert rows["multipoles"][2] == "`[charge, dipole, quadrupole]`"
    assert rows["dipole"][1] == "`none`, `isotropic`, `anisotropic`"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("the key `sigma` of Z*", r"the key ``sigma`` of Z\*"),
        ("|k| and ``q`` stay", r"\|k\| and ``q`` stay"),
        (":doc:`index` is a role", ":doc:`index` is a role"),
        ("`a*b|c`", "``a*b|c``"),
    ],
)
def test_docstrings_become_restructured_text(extension, written, expected):
    assert extension("plain_docstrings").plain([written]) == [expected]


def test_every_formula_of_the_pages_becomes_mathml_without_letters_that_browsers_ignore(extension):
    pytest.importorskip("latex2mathml")
    formulas = extension("formulas")
    pages = [path for path in (EXTENSIONS.parent).rglob("*.md") if "_build" not in path.parts]
    found = [latex for page in pages for latex in re.findall(r"\$\$(.+?)\$\$", page.read_text("utf-8"), re.DOTALL)]
    assert len(found) > 30
    for latex in found:
        assert latex.count(r"\qquad") >= len(formulas.parts(latex)) - 1
        for part in formulas.parts(latex):
            text = formulas.mathml(part, "block")
            assert set(re.findall(r'mathvariant="(.*?)"', text)) <= {"normal"}, part
            assert "\\" not in re.sub(r"<annotation.*?</annotation>", "", text), part


def test_bold_and_sans_serif_letters_are_letters_of_their_own(extension):
    pytest.importorskip("latex2mathml")
    mathml = extension("formulas").mathml
    for latex, letter in ((r"\mathbf k", "𝐤"), (r"\mathbf{k}", "𝐤"), (r"\boldsymbol{\mu}", "𝝁"), (r"\mathsf Q", "𝖰")):
        assert letter in html.unescape(mathml(latex, "inline")), latex


def test_what_a_page_loads_from_elsewhere_is_found_and_links_are_not(extension):
    pytest.importorskip("sphinx")
    foreign = extension("self_contained").foreign
    page = '<a href="https://a.org"></a><link rel="canonical" href="https://a.org">'
    page += '<link rel="stylesheet" href="//c.org/y">'
    page += '<script async src="https://b.org/x.js"></script>'
    assert foreign(page) == ["//c.org/y", "https://b.org/x.js"]
    assert foreign('<script src="_static/x.js"></script><img src="../_images/a.png">') == []
