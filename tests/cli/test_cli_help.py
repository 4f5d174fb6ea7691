"""What a session's first line costs: neither `import les_plugins` nor any `--help` imports what computes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import les_plugins
from les_plugins.cli import evaluate
from les_plugins.data.evaluation import POLARIZABILITY_UNITS

HEAVY = {"torch", "ase", "numpy", "scipy", "h5py", "matplotlib"}
#: The help of the command and of every command below it; prints those that were asked.
ALL_HELP = """
import typer.main
from les_plugins import cli
cli._register()
def paths(command, before):
    yield before
    for name in command.list_commands(None) if hasattr(command, "commands") else ():
        found = command.get_command(None, name)
        yield from paths(found, [*before, name])
asked = list(paths(typer.main.get_command(cli.app), []))
for words in asked:
    cli.app([*words, "--help"], standalone_mode=False)
print(json.dumps([" ".join(words) for words in asked]))
"""


def run(code: str) -> tuple[list[str], set[str]]:
    """Lines that a new process prints, and the top-level modules that it has imported at the end."""
    last = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}\n{last}"], capture_output=True, text=True, check=True
    )
    *lines, modules = done.stdout.splitlines()
    return lines, set(json.loads(modules))


def test_importing_the_package_imports_nothing_that_computes():
    _, modules = run("import les_plugins")
    assert "les_plugins" in modules
    assert not modules & HEAVY


def test_help_of_no_command_imports_what_computes():
    lines, modules = run(ALL_HELP)
    assert {"", "md", "train", "train mace", "spectra ir", "zoo list"} <= set(json.loads(lines[-1]))
    assert sum("Usage: " in line for line in lines) == len(json.loads(lines[-1]))
    assert not modules & HEAVY


def test_units_of_polarizability_are_those_that_evaluation_knows():
    assert tuple(evaluate._UNITS) == tuple(POLARIZABILITY_UNITS)


@pytest.mark.parametrize("name", les_plugins.__all__)
def test_each_name_of_the_top_level_is_found_and_is_kept(name):
    found = getattr(les_plugins, name)
    assert found.__name__ == name
    assert vars(les_plugins)[name] is found
    assert name in dir(les_plugins)


def test_a_name_that_is_not_offered_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'les_plugins' has no attribute 'no_such_name'"):
        les_plugins.no_such_name  # noqa: B018


def test_import_of_the_package_alone_gives_its_modules():
    lines, _ = run("import les_plugins\nprint(les_plugins.config.LongRangeConfig.__name__)")
    assert lines == ["LongRangeConfig"]


def test_old_names_are_attributes_too_and_warn():
    with pytest.warns(DeprecationWarning, match="les_plugins.checkpoint is les_plugins.storage.checkpoint now"):
        assert les_plugins.checkpoint is importlib.import_module("les_plugins.storage.checkpoint")
