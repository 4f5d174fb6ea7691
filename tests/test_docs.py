"""The documentation: every hook with its signature, every key with its default, the command that CI runs."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from les_plugins import LongRangeConfig
from les_plugins.config import ResponseConfig, RunConfig
from les_plugins.hosting import hookspecs
from les_plugins.hosting.types import METHODS, Host

ROOT = Path(__file__).parent.parent
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


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_a_host_is_documented_with_its_arguments(name: str) -> None:
    arguments = ", ".join(list(inspect.signature(getattr(Host, name)).parameters)[1:])
    assert f"| `{name}({arguments})` |" in read("docs/reference/hooks.md")


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_a_specification(name: str) -> None:
    assert hasattr(HOOKS[name], f"{hookspecs.PROJECT}_spec")


@pytest.mark.parametrize(
    ("model", "nested"), [(LongRangeConfig, ("response", "run")), (ResponseConfig, ()), (RunConfig, ())]
)
def test_every_key_of_the_config_is_documented_with_its_default(model: Any, nested: tuple[str, ...]) -> None:
    text = read("docs/reference/configuration.md")
    for key, value in model().model_dump(mode="json").items():
        shown = json.dumps(value).replace('"', "")
        expected = f"| `{key}` | none |" if key in nested else f"| `{key}` | `{shown}` |"
        assert expected in text, f"docs/reference/configuration.md has no row {expected}"


@pytest.mark.parametrize("page", ["README.md", "docs/reference/configuration.md"])
def test_the_sections_that_are_shown_can_be_used(page: str) -> None:
    blocks = re.findall(r"^    long_range:\n(?:      .*\n)+", read(page), re.MULTILINE)
    assert blocks
    for block in blocks:
        assert LongRangeConfig.parse(yaml.safe_load(block)["long_range"], page).dl == 1.2


def test_the_adapter_that_is_shown_is_the_one_that_is_tested() -> None:
    page = read("docs/how-to/write-an-adapter.md")
    adapter = "".join(read(f"examples/adapter_template/les_tiny_schnet/{name}.py") for name in ("adapter", "plugin"))
    starts = "@hookimpl|def |class LongRange|class Calculator|class Training|class TinySchNetHost"
    blocks = re.findall(rf"^    (?:{starts})(?:.*\n|\n)+?(?=\S)", page, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    tested = {line.strip() for line in adapter.splitlines()}
    assert len(blocks) >= 6
    assert [line for line in lines if line not in tested] == []


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
    assert [target for target in targets if target and not (folder / target).exists()] == []


def test_every_option_of_md_spectra_figures_and_piezoelectric_is_documented() -> None:
    import typer

    from les_plugins.cli import analyze, md, piezoelectric, plot, spectra

    text, apps = read("docs/how-to/spectra.md"), typer.Typer()
    apps.command("md")(md.md)
    apps.command("piezoelectric")(piezoelectric.piezoelectric)
    for group in (spectra, analyze, plot):
        group.register(apps)
    commands = typer.main.get_command(apps).commands  # type: ignore[attr-defined]
    assert set(commands) >= {"md", "ir", "raman", "rdf", "drift"}
    for name, command in commands.items():
        assert f"`{name}`" in text or f"les-plugins {name}" in text, f"docs/how-to/spectra.md does not name {name}"
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        missing = [option for option in options if f"`{option}" not in text and option != "--help"]
        assert not missing, f"docs/how-to/spectra.md does not name {missing} of {name}"
