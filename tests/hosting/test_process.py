"""A host's command in a process of its own: what reaches it, and what is said when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from les_plugins.errors import HostError, in_one_line, innermost
from les_plugins.hosting.process import run_module


def run(folder: Path, code: str, *arguments: str) -> None:
    (folder / "program.py").write_text(code, encoding="utf-8")
    variables = {"PYTHONPATH": str(folder), "WHERE": str(folder / "seen.json")}
    run_module("host-train", "program", arguments, variables, folder, "water.yaml", lambda: "nothing was kept")


def test_arguments_and_variables_reach_the_program(tmp_path):
    code = "import json, os, sys\nopen(os.environ['WHERE'], 'w').write(json.dumps([__name__, sys.argv[1:]]))\n"
    run(tmp_path, code, "a=b", "--c", "ü [x]")
    assert json.loads((tmp_path / "seen.json").read_text()) == ["__main__", ["a=b", "--c", "ü [x]"]]


def test_a_failure_is_the_innermost_reason_in_one_line_and_its_traceback_is_kept(tmp_path):
    code = "try:\n    {}['key of the data']\nexcept KeyError as error:\n    raise TypeError('all\\nof it') from error\n"
    with pytest.raises(HostError) as caught:
        run(tmp_path, code)
    kept = tmp_path / "host-train.traceback"
    expected = f"water.yaml: host-train ended with status 1: KeyError: 'key of the data' (its traceback: {kept}); "
    assert str(caught.value) == expected + "nothing was kept"
    assert kept.read_text().startswith("Traceback")


def test_a_status_without_a_python_error_is_said(tmp_path):
    with pytest.raises(HostError, match=r"^water\.yaml: host-train ended with status 3; nothing was kept$"):
        run(tmp_path, "raise SystemExit(3)\n")


def test_an_assertion_without_words_is_its_line_of_code():
    with pytest.raises(AssertionError) as caught:
        exec(compile("assert 1 == 2", "host.py", "exec"))
    assert "AssertionError" in in_one_line(caught.value)
    assert "host.py, line 1" in in_one_line(caught.value)
    assert innermost(caught.value) is caught.value
