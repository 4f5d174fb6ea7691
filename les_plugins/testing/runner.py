"""Runs the contract of one installed host in pytest and collects the outcomes; called by `les-plugins check`."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from les_plugins.errors import HostError
from les_plugins.hosting import registry as plugins
from les_plugins.testing.contract import AdapterContract
from les_plugins.testing.plugin import ContractRecorder, Outcome

_MODULE = """
from les_plugins.testing.runner import contracts

for _contract in contracts({host!r}):
    globals()["Test" + _contract.__name__] = type("Test" + _contract.__name__, (_contract,), {{"__module__": __name__}})
del _contract
"""


def contracts(host: str) -> list[type[AdapterContract]]:
    """The contract's class for each kind of model of a host."""
    return list(plugins.host(host).contract())


def run_contract(host: str, select: str = "") -> list[Outcome]:
    """Outcomes of all tests of the contract on a host, in the order of the files.

    Args:
        host: name of the adapter.
        select: expression as for `pytest -k`, to run some tests only.

    Raises:
        HostError: no such host, it is not installed, its adapter has no contract, or no test could be run.
    """
    adapter = plugins.host(host)  # an error where the host is missing
    if not adapter.offers("contract"):
        adapter.contract()  # raises, without importing the host where it has one
    recorder, output = ContractRecorder(), io.StringIO()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # the caller's own settings stay out
        module = folder / f"test_{folder.name}.py"  # a name that no earlier run in this process has
        module.write_text(_MODULE.format(host=host), encoding="utf-8")
        arguments = ["-c", str(folder / "pytest.ini"), "--rootdir", name, "-p", "no:cacheprovider", "--noconftest"]
        arguments += ["--capture=sys", "--show-capture=no", "--tb=short", "-k", select, str(module)]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = pytest.main(arguments, plugins=[recorder])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not recorder.outcomes:
        raise HostError(f"{host}: the contract could not be run:\n{_end_of(output.getvalue())}")
    return recorder.outcomes


def _end_of(text: str, lines: int = 20) -> str:
    kept: Sequence[str] = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(kept)
