"""What `les-plugins check` and the pytest plugin say: counts, failures, and the reason of every skipped test."""

import json
import subprocess
import sys

import pytest
from les_tiny_schnet.contract import TinySchNetContract
from les_tiny_schnet.plugin import TinySchNetHost

from les_plugins.errors import HostError
from les_plugins.testing.plugin import summary
from les_plugins.testing.runner import run_contract

REASON = "the integrator of this host has no stress"


class Skipping(TinySchNetContract):
    skips = {"test_forces_sum_to_zero": REASON}  # noqa: RUF012


class Failing(TinySchNetContract):
    def test_forces_sum_to_zero(self) -> None:
        assert 1 + 1 == 3, "the sum"


def outcomes(monkeypatch, contract):
    monkeypatch.setattr("les_tiny_schnet.contract.TinySchNetContract", contract)
    return run_contract("tiny_schnet", "forces_sum or atomic_energies_sum")


def test_a_skipped_test_is_reported_with_its_reason(monkeypatch) -> None:
    found = outcomes(monkeypatch, Skipping)
    assert sorted(each.outcome for each in found) == ["passed", "skipped"]
    assert summary(found)[:2] == [
        "tiny_schnet: 1 passed, 0 failed, 1 skipped",
        f"  skipped: forces sum to zero: {REASON}",
    ]


def test_a_failure_is_reported_with_what_was_asserted(monkeypatch) -> None:
    (failed,) = (each for each in outcomes(monkeypatch, Failing) if each.outcome == "failed")
    assert "the sum" in failed.reason


def test_an_adapter_without_the_hook_raises_an_error(monkeypatch) -> None:
    monkeypatch.setattr(TinySchNetHost, "parts", {"attach": "les_tiny_schnet.adapter:attach"})
    with pytest.raises(HostError, match="tiny_schnet has no contract"):
        run_contract("tiny_schnet")


def test_a_selection_that_matches_nothing_raises_an_error() -> None:
    with pytest.raises(HostError, match="could not be run"):
        run_contract("tiny_schnet", "no_such_law")


@pytest.mark.parametrize(("arguments", "code"), [(["tiny_schnet", "-k", "sum_to_zero"], 0), (["absent"], 1), ([], 2)])
def test_exit_codes_of_the_command(arguments, code) -> None:
    run = subprocess.run([sys.executable, "-m", "les_plugins", "check", *arguments, "--json"], capture_output=True)
    assert run.returncode == code, run.stderr.decode()
    if code == 0:
        report = json.loads(run.stdout)
        assert (report["passed"], report["failed"], report["skipped"]) == (1, 0, 0)
