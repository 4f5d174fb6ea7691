"""The table of docs/reference/compilers.md: tests find a column each, and compare it with the page or write it.

With LES_PLUGINS_WRITE_DOCS=1 in the environment a test writes what it found; without, the page must say the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "compilers.md"
WRITE = "LES_PLUGINS_WRITE_DOCS"
BEGIN, END = "<!-- what the tests found -->", "<!-- end -->"
#: The order of columns and rows.
MODES = (
    "eager",
    "TorchScript",
    "torch.export",
    "torch.compile (inductor)",
    "MACE, TorchScript",
    "NequIP, AOTInductor",
)
FEATURES = (
    "charge",
    "charge, dipole; induced charge; isotropic induced dipole",
    "charge, dipole, quadrupole; induced charge; anisotropic induced dipole",
    "charge, dipole; charge over pairs; isotropic induced dipole",
    "charge channels",
    "forces and virial",
    "Born effective charges",
    "second derivatives (training on forces)",
    "triclinic and left-handed cells in one batch",
    "other numbers of atoms and structures, other cells",
    "a cell beyond static_cell",
    "open structure",
    "open and periodic in one batch",
    "slab",
    "without static_cell",
    "neutralize: shift",
    "neutralize: refuse",
    "external field",
    "method: mesh (compiled: direct)",
    "response: self_consistent",
    "process group",
)
#: Of whole models, whose section has no such setting and whose compiled code no such input.
LAYER_ALONE = {"charge channels": "layer alone", "external field": "no input", "process group": "layer alone"}
Table = dict[tuple[str, str], str]


def check_column(mode: str, found: Mapping[str, str]) -> None:
    """Assert that the page has this column, or put it there.

    Args:
        mode: one of `MODES`.
        found: what became of each feature: "same", "NaN", "error: why"; a feature that was not tried is left out.
    """
    assert mode in MODES
    assert [feature for feature in found if feature not in FEATURES] == []
    text = PAGE.read_text(encoding="utf-8")
    table = _read(text)
    if os.environ.get(WRITE):
        table = {place: cell for place, cell in table.items() if place[1] != mode}
        table |= {(feature, mode): cell for feature, cell in found.items()}
        PAGE.write_text(_write(text, table), encoding="utf-8")
        return
    written = {feature: cell for (feature, column), cell in table.items() if column == mode}
    assert dict(found) == written, f"docs/reference/compilers.md is stale: run the tests of {mode} with {WRITE}=1"


def refusal(error: BaseException) -> str:
    """The cell of what raises an error: the first clause of its message."""
    said = str(error).strip().splitlines()[-1]
    said = re.sub(r"^raised exception \w+\(\[?(['\"])(.*)\1\]?\)$", r"\2", said)  # dynamo quotes what was raised
    said = re.sub(r"^(torch\.jit\.Error|ValueError|builtins\.ValueError): ", "", said)
    return "error: " + said.split(";")[0]


def _read(text: str) -> Table:
    section = text.split(BEGIN)[1].split(END)[0]
    notes = dict(re.findall(r"^(\d+)\. (.*)$", section, re.MULTILINE))
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    table: Table = {}
    if not rows:
        return table
    modes = [cell.strip() for cell in rows[0][1:]]
    for row in rows[2:]:
        for mode, cell in zip(modes, (cell.strip() for cell in row[1:]), strict=True):
            number = re.fullmatch(r"error \((\d+)\)", cell)
            if cell != "–":
                table[row[0].strip(), mode] = f"error: {notes[number[1]]}" if number else cell
    return table


def _write(text: str, table: Table) -> str:
    modes = [mode for mode in MODES if any(column == mode for _, column in table)]
    notes: list[str] = []
    lines = ["| feature | " + " | ".join(modes) + " |", "|---|" + "---|" * len(modes)]
    for feature in FEATURES:
        cells = []
        for mode in modes:
            cell = table.get((feature, mode), "–")
            if cell.startswith("error: "):
                reason = cell.removeprefix("error: ")
                if reason not in notes:
                    notes.append(reason)
                cell = f"error ({notes.index(reason) + 1})"
            cells.append(cell)
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + after
