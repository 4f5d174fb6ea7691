"""The pytest plugin (entry point pytest11): says host by host how the contract went, and why a test was skipped."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from les_plugins.hosting import registry as plugins
from les_plugins.version import __version__


@dataclass
class Outcome:
    """One test of the contract on one host.

    Attributes:
        host: name of the adapter.
        model: which of its models; the host's name where there is one only.
        test: name of the law's test function.
        case: its parameters, or an empty string.
        outcome: "passed", "failed" or "skipped".
        reason: why it was skipped, or how it failed.
        seconds: how long it took.
        notes: what the test measured, in words.
    """

    host: str
    model: str
    test: str
    case: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def law(self) -> str:
        """The test's name as a sentence."""
        return self.test.removeprefix("test_").replace("_", " ")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self) | {"law": self.law}


class ContractRecorder:
    """Collects the outcomes of all contract tests in a pytest run, in the order in which they ended."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.started = time.monotonic()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Keep what belongs to the contract."""
        result = yield
        report: pytest.TestReport = result.get_result()
        if (found := _outcome(item, report)) is not None:
            self.outcomes.append(found)


def pytest_addoption(parser: pytest.Parser) -> None:
    """One option, for the table of hosts and laws."""
    parser.addoption("--contract-json", metavar="FILE", help="write the outcomes of the adapter contract to FILE")


def pytest_configure(config: pytest.Config) -> None:
    """One recorder a run."""
    recorder = ContractRecorder()
    config.pluginmanager.register(recorder, RECORDER)


RECORDER = "les_plugins_contract_recorder"


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line a model, one more for each test that was skipped and each number that was measured."""
    recorder: Any = config.pluginmanager.get_plugin(RECORDER)
    if recorder is None or not recorder.outcomes:
        return
    terminalreporter.section("adapter contract")
    for line in summary(recorder.outcomes):
        terminalreporter.write_line(line)
    if (file := config.getoption("--contract-json")) is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(report(recorder.outcomes), indent=1, ensure_ascii=False), encoding="utf-8")


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """The report of a run in lines of text."""
    lines = []
    for host, model in sorted({(outcome.host, outcome.model) for outcome in outcomes}):
        mine = [outcome for outcome in outcomes if (outcome.host, outcome.model) == (host, model)]
        counts = {kind: sum(outcome.outcome == kind for outcome in mine) for kind in ("passed", "failed", "skipped")}
        name = host if model == host else f"{host}, {model}"
        lines.append(f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
        lines += [f"  skipped: {each.law}: {each.reason}" for each in mine if each.outcome == "skipped"]
        notes = {f"  {name}: {value}": None for each in mine for name, value in each.notes.items()}
        lines += list(notes)
    return lines


def report(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes in plain JSON types, with the versions that they were found with."""
    hosts = {info.name: f"{info.distribution} {info.version}" for info in plugins.hosts()}
    return {
        "les_plugins": __version__,
        "hosts": {name: hosts.get(name, "?") for name in sorted({outcome.host for outcome in outcomes})},
        "tests": [outcome.to_dict() for outcome in outcomes],
    }


def _outcome(item: pytest.Item, report: pytest.TestReport) -> Outcome | None:
    """What a report says of a contract test; None for other tests, and for setup and teardown that went well."""
    contract = getattr(item, "cls", None)
    if contract is None or not hasattr(contract, "laws") or not hasattr(contract, "refusals"):
        return None
    if report.when != "call" and report.outcome == "passed":
        return None
    name, _, case = item.name.partition("[")
    reason = ""
    if report.outcome == "skipped":
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
    elif report.outcome == "failed":
        reason = report.longreprtext
    notes = {str(key): str(value) for key, value in report.user_properties}
    model = contract.model_name or contract.host
    return Outcome(
        contract.host, model, name, case.rstrip("]"), report.outcome, reason, round(report.duration, 3), notes
    )
