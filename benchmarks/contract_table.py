"""Writes the table of hosts and laws: contract_table.py REPORT.json... > docs/reference/contract.md

The reports are what `pytest --contract-json FILE` leaves; `nox` makes one in each host's environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HEAD = """# The contract, host by host

Made by `nox` (session contract-table) from what each host's tests found; do not edit. The laws and their tolerances
are in [Write an adapter](../how-to/write-an-adapter.md#7-pass-the-contract). A number counts the cases that passed.
"""


def table(reports: Sequence[dict[str, Any]]) -> str:
    """The page, from the reports of all hosts."""
    tests = [test for report in reports for test in report["tests"]]
    versions = {host: text for report in reports for host, text in report["hosts"].items()}
    columns = sorted({(test["host"], test["model"]) for test in tests})
    notes: list[str] = []
    rows = []
    for law in dict.fromkeys(test["law"] for test in tests):
        cells = [
            _cell([test for test in tests if test["law"] == law and (test["host"], test["model"]) == column], notes)
            for column in columns
        ]
        rows.append(f"| {law} | " + " | ".join(cells) + " |")
    total = [
        sum(test["outcome"] == "passed" for test in tests if (test["host"], test["model"]) == column)
        for column in columns
    ]
    names = [host if model == host else f"{host}, {model}" for host, model in columns]
    lines = [HEAD, "| law | " + " | ".join(names) + " |", "|---|" + "---|" * len(columns), *rows]
    lines.append("| **passed** | " + " | ".join(f"**{number}**" for number in total) + " |")
    lines += ["", "Versions: " + "; ".join(f"{host}: {text}" for host, text in sorted(versions.items())) + "."]
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines).rstrip() + "\n"


def _cell(tests: Sequence[dict[str, Any]], notes: list[str]) -> str:
    if not tests:
        return "–"
    parts = []
    passed = sum(test["outcome"] == "passed" for test in tests)
    if passed:
        parts.append(str(passed))
    for outcome in ("failed", "skipped"):
        for test in tests:
            if test["outcome"] == outcome:
                reason = test["reason"] if outcome == "skipped" else "see the log of the session"
                if reason not in notes:
                    notes.append(reason)
                parts.append(f"{outcome} ({notes.index(reason) + 1})")
    return ", ".join(parts)


if __name__ == "__main__":
    found = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sorted(sys.argv[1:])]
    sys.stdout.write(table(found))
