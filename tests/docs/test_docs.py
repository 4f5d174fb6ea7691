"""The documentation: every hook with its signature, every key with its default, the command that CI runs."""

from __future__ import annotations

import inspect
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

import les_plugins
from les_plugins import LongRangeConfig, cli
from les_plugins.config import ResponseConfig, RunConfig
from les_plugins.electrostatics.settings import DL_RANGE, MESH_TOLERANCE_RANGE, SIGMA_RANGE
from les_plugins.hosting import hookspecs
from les_plugins.hosting.types import METHODS, Host

ROOT = Path(__file__).parents[2]
#: Pages that are written by hand, from the root of the repository.
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs").rglob("*.md")
    if not {"_build", "auto_tutorials", "generated"} & set(path.parts)
)
HOOKS = {name: function for name, function in vars(hookspecs).items() if name.startswith("les_")}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def signature(name: str, function: Callable[..., Any]) -> str:
    return f"{name}{inspect.signature(function)}".replace("'", "")


def test_there_are_hooks_to_document() -> None:
    assert set(HOOKS) == {"les_hosts", "les_heads", "les_solvers", "les_responses"}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_exact_signature(name: str) -> None:
    expected = f"### `{signature(name, HOOKS[name])}`"
    assert expected in read("docs/reference/hooks.md").splitlines(), f"docs/reference/hooks.md has no line {expected}"


def test_no_hook_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^### `(\w+)\(", read("docs/reference/hooks.md"), re.MULTILINE)) == set(HOOKS)


def test_each_section_to_start_with_is_accepted() -> None:
    table = read("docs/how-to/choose-settings.md").split("## Start here")[1].split("\n\n")[1]
    before: dict[str, Any] = {}
    for row in table.splitlines()[2:]:
        found = dict(before) if " the same " in row else {}
        for setting in re.findall(r"`([^`]+)`", row):
            key, _, value = setting.partition(":")
            if value and key != "response_loss":
                found[key] = yaml.safe_load(value)
            elif key == "initial_charges":
                found[key] = {"Na": 1.0, "Cl": -1.0}
        assert found
        before = LongRangeConfig.parse(found, row).model_dump(include=set(found))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_a_host_is_documented_with_its_arguments(name: str) -> None:
    arguments = ", ".join(list(inspect.signature(getattr(Host, name)).parameters)[1:])
    assert f"| `{name}({arguments})` |" in read("docs/reference/hooks.md")


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_a_specification(name: str) -> None:
    assert hasattr(HOOKS[name], f"{hookspecs.PROJECT}_spec")


@pytest.fixture(scope="module")
def generated() -> dict[str, Any]:
    """What writes the reference of commands and keys when the site is built."""
    return runpy.run_path(str(ROOT / "docs" / "_ext" / "pages_from_code.py"))


@pytest.mark.parametrize("model", [LongRangeConfig, ResponseConfig, RunConfig])
def test_every_key_of_the_config_is_documented_with_its_default(model: Any, generated: dict[str, Any]) -> None:
    rows = [row.split(" | ") for row in generated["section"]().splitlines() if row.startswith("| `")]
    found = {row[0].strip("| `"): row[2].strip("`") for row in rows}
    for key, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            assert key in found
        else:
            assert yaml.safe_load(found[key]) == model().model_dump(mode="json")[key], key


def test_numbers_are_documented_with_their_limits(generated: dict[str, Any]) -> None:
    rows = [row.split(" | ") for row in generated["section"]().splitlines() if row.startswith("| `")]
    found = {row[0].strip("| `"): row[1] for row in rows}
    assert [key for key, values in found.items() if values in ("number", "integer")] == []
    for key, bounds in (("sigma", SIGMA_RANGE), ("dl", DL_RANGE), ("mesh_tolerance", MESH_TOLERANCE_RANGE)):
        assert all(f"{bound:g}" in found[key] for bound in bounds), found[key]


@pytest.mark.parametrize("page", ["README.md", "docs/reference/configuration.md"])
def test_the_sections_that_are_shown_can_be_used(page: str) -> None:
    blocks = re.findall(r"^    long_range:\n(?:      .*\n)+", read(page), re.MULTILINE)
    assert blocks
    for block in blocks:
        assert LongRangeConfig.parse(yaml.safe_load(block)["long_range"], page).dl == 1.2


def test_the_adapter_that_is_shown_is_the_one_that_is_tested() -> None:
    page = read("docs/how-to/write-an-adapter.md")
    adapter = "".join(
        read(f"examples/adapter_template/les_tiny_schnet/{name}.py") for name in ("adapter", "plugin", "contract")
    )
    starts = "les_hosts|def |class LongRange|class Calculator|class Training|class TinySchNetHost"
    blocks = re.findall(rf"^    (?:{starts})(?:.*\n|\n)+?(?=\S)", page, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    tested = {line.strip() for line in adapter.splitlines()}
    assert len(blocks) >= 6
    assert [line for line in lines if line not in tested] == []


def test_the_api_pages_have_every_public_name_and_every_module_that_the_templates_import() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference" / "api").glob("*.md"))
    assert [name for name in les_plugins.__all__ if not re.search(rf"\b{name}\b", pages)] == []
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*_template/les_*/*.py")]
    modules = set(re.findall(r"^from (les_plugins\.[\w.]+) import", "".join(sources), re.MULTILINE))
    assert len(modules) >= 10
    assert [name for name in modules if not re.search(rf":: {name}$", pages, re.MULTILINE)] == []


def test_every_law_of_the_contract_is_a_test_with_a_name_that_reads_as_a_sentence() -> None:
    from les_plugins.testing import AdapterContract

    laws = AdapterContract.laws()
    assert len(laws) >= 25
    assert [law for law in laws if law.count("_") < 3] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = re.findall(r"^    (python3 -m venv .*nox)$", read("README.md"), re.MULTILINE)
    assert command in [line.strip() for line in read(".ci/run").splitlines()]


def test_the_readme_opens_with_the_two_commands() -> None:
    opening = read("README.md").split("\n## ")[0]
    assert opening.count("    python3 -m venv") == 2


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_links_lead_to_files_that_exist(page: str) -> None:
    folder = (ROOT / page).parent
    targets = [target.split("#")[0] for target in re.findall(r"\]\((?!https?:)([^)]+)\)", read(page))]
    assert [target for target in targets if target and not source_of(folder / target).exists()] == []


def source_of(path: Path) -> Path:
    """The file, or what it is made of when the site is built."""
    if path.parent.name != "auto_tutorials":
        return path
    return path.parents[1] / "tutorials" / ("GALLERY_HEADER.rst" if path.stem == "index" else f"{path.stem}.py")


def test_every_command_and_option_is_documented(generated: dict[str, Any]) -> None:
    page = generated["command_line"]()
    root = typer.main.get_command(cli.app)
    found = list(commands(root, "les-plugins"))
    assert len(found) > 20
    for name, command in found:
        part = page.split(f"## {name}\n")[1].split("\n## ")[0]
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if f"`{option}`" not in part and option != "--help"] == [], name


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below this one that does something, with its full name."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from commands(inner, f"{name} {word}")


def test_the_readme_reads_right_where_relative_links_do_not_work() -> None:
    """A package index shows the page alone: no file beside it, no picture of the repository."""
    text = read("README.md")
    targets = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    assert [target for pair in targets for target in pair if target and not target.startswith("https://")] == []
    named = re.findall(r"`((?:docs|examples|benchmarks)/[^`*\s]*|[A-Z]+(?:\.md|\.cff)?)`", text)
    made = [path for path in named if "_build" in path]
    assert made
    assert [path for path in named if path not in made and path != "HOST" and not (ROOT / path).exists()] == []


def test_the_picture_of_the_readme_is_to_scale() -> None:
    bars = re.findall(r"^    .+?(\d+\.\d) +(█+)$", read("README.md"), re.MULTILINE)
    assert len(bars) == 5
    assert [len(bar) for _, bar in bars] == pytest.approx([float(value) / 59.0 * 30 for value, _ in bars], abs=0.5)
