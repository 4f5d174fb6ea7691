"""What every test shares: one thread; files test_<host>*.py are left out, in words, where their host is absent."""

from __future__ import annotations

import gc
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from command_line import Done
from toy_host import BringsHosts, Distribution

from les_plugins import cli
from les_plugins.hosting import registry as plugins
from les_plugins.hosting.types import Host

torch.set_num_threads(1)  # tensors are tiny: more threads only wait for each other

#: Import names of the hosts; tests/adapters/test_<host>*.py need them.
HOSTS = ("mace", "nequip", "matgl", "sevenn", "metatrain", "chgnet")
_MISSING = [host for host in HOSTS if find_spec(host) is None]

collect_ignore_glob = [f"adapters/test_{host}*.py" for host in _MISSING]


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    return [f"{host} is not installed: tests/adapters/test_{host}*.py are left out" for host in _MISSING]


def pytest_collection_finish() -> None:
    """What is imported now stays: no later collection of garbage looks through it."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def les_plugins_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run `les-plugins ARGUMENTS` in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["les-plugins", *map(str, arguments)])
        monkeypatch.setattr(cli.app, "registered_commands", [])
        monkeypatch.setattr(cli.app, "registered_groups", [])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return Done(int(end.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def o3(monkeypatch: pytest.MonkeyPatch) -> Any:
    """e3nn.o3; the constants of e3nn 0.4.4, which MACE asks for, hold slices, and torch.load takes only tensors."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    return pytest.importorskip("e3nn.o3")


class EntryPoint:
    """As importlib.metadata's, but for an object at hand, or for an import that fails with the exception at hand."""

    def __init__(self, name: str, plugin: object) -> None:
        self.name, self.value, self._plugin = name, f"third_party.{name}", plugin
        self.dist = Distribution(f"les-{name}", "0.3")

    def load(self) -> object:
        if isinstance(self._plugin, Exception):
            raise self._plugin
        return self._plugin


@pytest.fixture
def with_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that makes plugins, or hosts, given by name, be found beside the installed ones in this test."""
    installed = list(importlib.metadata.entry_points(group=plugins.GROUP))

    def found(**third_party: object) -> None:
        brought = {name: BringsHosts(each) if isinstance(each, Host) else each for name, each in third_party.items()}
        entries = [*installed, *(EntryPoint(name, plugin) for name, plugin in brought.items())]
        monkeypatch.setattr(plugins.importlib.metadata, "entry_points", lambda group: entries)
        plugins.forget()

    yield found
    monkeypatch.undo()
    plugins.forget()
