"""The command `les-plugins`: exit code 0 for success, 1 for an error, 2 for wrong usage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import Done
from toy_host import BareHost

import les_plugins
from les_plugins.errors import ConfigError, how_to_install
from les_plugins.hosting import registry as plugins
from les_plugins.hosting.hookspecs import hookimpl


@pytest.fixture
def command(les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    return les_plugins_command


class Trainer(BareHost):
    """A host that only says what it was called with."""

    distribution = "toy-potential"

    def __init__(self) -> None:
        self.calls: list[tuple[Path, Sequence[str], Mapping[str, Any]]] = []

    def train(self, config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
        self.calls.append((config_file, arguments, metadata))
        if config_file.name == "bad.yaml":
            raise ConfigError(f"{config_file}: unknown key 'sigme'; [allowed] keys: sigma")
        if config_file.name == "short.yaml":
            raise {"key": KeyError("epochs"), "shape": RuntimeError("shapes 3 and 4")}[arguments[0]]
        return None if "--dry_run" in arguments else Path("model.les")


def test_the_installed_command_and_python_m_answer_alike() -> None:
    runs = [
        subprocess.run([*start, "hosts", "--json"], capture_output=True, text=True, check=True).stdout
        for start in ([sys.executable, "-m", "les_plugins"], [str(Path(sys.executable).parent / "les-plugins")])
    ]
    assert runs[0] == runs[1]
    assert "mace" in {host["name"] for host in json.loads(runs[0])}


def test_hosts_as_json_says_for_each_host_what_was_found(command: Callable[..., Done]) -> None:
    done = command("hosts", "--json")
    assert (done.code, done.errors) == (0, "")
    listed = {host["name"]: host for host in json.loads(done.output)}
    facts = {"name", "distribution", "supported", "version", "problem", "extra", "compile_targets", "available"}
    assert set(listed["mace"]) == facts
    assert listed["mace"]["supported"] == ">=0.3.16,<0.4"
    assert listed["mace"]["available"] == (listed["mace"]["problem"] is None)


def test_hosts_as_a_table_gives_the_reason_where_one_is_missing(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise plugins.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(plugins.importlib.metadata, "version", version)
    done = command("hosts")
    assert done.code == 0
    assert how_to_install("mace") in done.output


def test_hosts_lists_the_parts_that_a_section_can_name(
    command: Callable[..., Done], with_plugins: Callable[..., None]
) -> None:
    class Brings:
        @hookimpl
        def les_solvers(self) -> Any:
            return {"wide": lambda config: None}

    with_plugins(solver=Brings())
    lines = command("hosts").output.splitlines()
    assert "heads: auto, equivariant, edge" in lines
    assert "run.method: auto, direct, mesh, nvalchemi, wide (les-solver 0.3)" in lines
    assert "response: one_shot, self_consistent" in lines


def test_the_version_is_printed(command: Callable[..., Done]) -> None:
    done = command("--version")
    assert (done.code, done.output.strip()) == (0, f"les-plugins {les_plugins.__version__}")


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("hosts", "--jsno"), ("train",), ("train", "no-such-host"), ("train", "mace"), ("hosts", "extra")],
)
def test_wrong_usage_exits_with_2(command: Callable[..., Done], arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.errors


def test_help_exits_with_0_and_names_the_commands(command: Callable[..., Done]) -> None:
    done = command("--help")
    assert done.code == 0
    assert all(name in done.output for name in ("hosts", "train", "predict", "evaluate"))


def test_training_hands_the_options_it_does_not_know_to_the_host(
    command: Callable[..., Done], with_plugins: Callable[..., None]
) -> None:
    toy = Trainer()
    with_plugins(toy=toy)
    done = command("train", "toy", "--config", "a.yaml", "--data-licence", "CC0", "--seed", "3", "--dry_run")
    ((config_file, arguments, metadata),) = toy.calls
    assert done.code == 0
    assert config_file == Path("a.yaml")
    assert list(arguments) == ["--seed", "3", "--dry_run"]
    assert metadata["data_licence"] == "CC0"
    assert metadata["command"].startswith("les-plugins train toy --config a.yaml")


def test_training_names_the_checkpoint_it_wrote(
    command: Callable[..., Done], with_plugins: Callable[..., None]
) -> None:
    with_plugins(toy=Trainer())
    done = command("train", "toy", "--config", "a.yaml")
    assert (done.code, "model.les" in done.errors) == (0, True)


@pytest.mark.parametrize(("what", "words"), [("key", "KeyError: 'epochs'"), ("shape", "RuntimeError: shapes 3 and 4")])
def test_whatever_an_adapter_raises_is_one_line_that_says_where(
    command: Callable[..., Done], with_plugins: Callable[..., None], what: str, words: str
) -> None:
    with_plugins(toy=Trainer())
    done = command("train", "toy", "--config", "short.yaml", what)
    assert done.code == 1
    assert done.errors.startswith(f"error: short.yaml: the trainer of toy stopped with {words} (test_cli.py, line ")
    assert done.errors.count("\n") == 1


def test_what_is_refused_ends_in_one_line_without_traceback_and_exit_code_1(
    command: Callable[..., Done], with_plugins: Callable[..., None]
) -> None:
    with_plugins(toy=Trainer())
    done = command("train", "toy", "--config", "bad.yaml")
    assert done.code == 1
    assert done.errors == "error: bad.yaml: unknown key 'sigme'; [allowed] keys: sigma\n"


def test_training_with_a_missing_host_says_what_to_install(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        raise plugins.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(plugins.importlib.metadata, "version", version)
    done = command("train", "mace", "--config", "a.yaml")
    assert done.code == 1
    assert done.errors == f"error: mace: mace-torch is not installed: {how_to_install('mace')}\n"


def test_training_with_a_host_without_a_trainer_is_an_error_that_says_so(
    command: Callable[..., Done], with_plugins: Callable[..., None]
) -> None:
    with_plugins(toy=BareHost())
    for more in ((), ("--json",)):
        done = command("train", "toy", "--config", "a.yaml", *more)
        assert (done.code, done.output) == (1, "")
        assert done.errors == (
            "error: toy has no trainer: its adapter does not implement train; it implements info, attach, calculator, "
            "state, rebuild\n"
        )
    done = command("check", "toy")
    assert done.code == 1
    assert "toy has no contract" in done.errors


def test_a_training_that_wrote_nothing_says_so(command: Callable[..., Done], with_plugins: Callable[..., None]) -> None:
    with_plugins(toy=Trainer())
    done = command("train", "toy", "--config", "a.yaml", "--dry_run")
    assert (done.code, done.errors) == (0, "no checkpoint was written by this process\n")


@pytest.mark.parametrize("name", ["\x1b[31mred", "\udc80", "\u202eback", "bell\x07", "[bold]"])
def test_a_message_holds_nothing_that_a_terminal_obeys_or_cannot_write(les_plugins_command, name):
    done = les_plugins_command("zoo", "info", name)
    assert done.code == 1
    assert done.errors.startswith("error: ")
    assert done.errors.rstrip("\n").isprintable()
