"""The generated table of hosts and laws says what the reports say."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "contract_table.py"


def entry(host, model, law, outcome, reason=""):
    return {"host": host, "model": model, "law": law, "outcome": outcome, "reason": reason}


def test_rows_are_laws_columns_models_and_reasons_stand_below():
    table = runpy.run_path(str(SCRIPT))["table"]
    one = [
        entry("mace", "mace", "forces", "passed"),
        entry("mace", "mace", "forces", "passed"),
        entry("mace", "mace", "sums", "skipped", "no sums"),
    ]
    two = [entry("nequip", "allegro", "forces", "failed", "E\nlong"), entry("nequip", "nequip", "forces", "passed")]
    page = table(
        [{"hosts": {"mace": "mace-torch 1"}, "tests": one}, {"hosts": {"nequip": "nequip 2"}, "tests": two}]
    ).splitlines()
    assert "| law | mace | nequip, allegro | nequip |" in page
    assert "| forces | 2 | failed (1) | 1 |" in page
    assert "| sums | skipped (2) | – | – |" in page
    assert "| **passed** | **2** | **0** | **1** |" in page
    assert page[-4:] == [
        "Versions: mace: mace-torch 1; nequip: nequip 2.",
        "",
        "1. see the log of the session",
        "2. no sums",
    ]
