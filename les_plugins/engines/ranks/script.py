"""A LAMMPS input with `pair_style les`, cut where the model comes in: LAMMPS reads the pieces one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from les_plugins.errors import ConfigError, DataError

#: The word that stands for a model in `pair_style`.
STYLE = "les"


class Piece(NamedTuple):
    """Lines for LAMMPS, and what comes after them.

    Attributes:
        lines: of the input.
        elements: arguments of the `pair_coeff` that the piece ends with, variables not expanded; None at the end.
        where: file and line of it, for messages.
    """

    lines: tuple[str, ...]
    elements: str | None
    where: str


def run_script(lmp: Any, path: Path, cutoff: float, attach: Callable[[Sequence[str]], None]) -> None:
    """Run an input on all ranks; called by all of them.

    Args:
        lmp: LAMMPS without commands so far.
        path: the input; read on every rank.
        cutoff: Å, of the model: what `pair_style les` makes LAMMPS' ghosts reach to.
        attach: called with the chemical symbols of the types where `pair_coeff * * SYMBOLS` stands.

    Raises:
        DataError, ConfigError: see `pieces`.
        Exception: what LAMMPS says.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, piece in enumerate(pieces(path, cutoff)):
            file = Path(folder) / f"{path.name}.{number}"
            file.write_text("\n".join(piece.lines) + "\n", encoding="utf-8")
            lmp.file(str(file))
            if piece.elements is not None:
                symbols = str(lmp.expand(piece.elements)).split()
                if not symbols:
                    raise ConfigError(f"{piece.where}: pair_coeff names no element; allowed: pair_coeff * * H O")
                attach(symbols)


def pieces(path: Path, cutoff: float) -> Iterator[Piece]:
    """The input in pieces, each up to a `pair_coeff` of ours.

    `pair_style les` becomes `pair_style zero CUTOFF`, also within hybrid/overlay; its `pair_coeff * * SYMBOLS`, there
    `pair_coeff * * les SYMBOLS`, becomes that of zero. Included files with a `pair_style les` are read too.

    Raises:
        DataError: no such file; a file without `pair_style les`.
        ConfigError: arguments of `pair_style les`, `pair_coeff` other than `* *`.
    """
    if not _has_style(path):
        raise DataError(
            f"{path}: has no pair_style {STYLE}; it stands for the model: pair_style {STYLE}, then pair_coeff * * with "
            "the chemical symbol of every atom type"
        )
    lines: list[str] = []
    hybrid = active = False
    for where, line in _lines(path, 0):
        words = line.split("#")[0].split()
        kind = words[0] if words else ""
        if kind == "pair_style":
            active, hybrid = STYLE in words[1:], len(words) > 1 and words[1].startswith("hybrid")
            if active and hybrid and words[1] != "hybrid/overlay":
                raise ConfigError(f"{where}: {words[1]}; allowed with {STYLE}: hybrid/overlay, which adds all forces")
            if active and not hybrid and len(words) > 2:
                raise ConfigError(
                    f"{where}: pair_style {STYLE} takes no arguments: the model is named on the command line"
                )
            zero = f"zero {cutoff!r}"
            lines.append(" ".join(zero if active and word == STYLE else word for word in words))
        elif active and kind == "pair_coeff" and (not hybrid or words[3:4] == [STYLE]):
            if words[1:3] != ["*", "*"]:
                raise ConfigError(f"{where}: pair_coeff {' '.join(words[1:3])}; allowed with {STYLE}: * *")
            lines.append("pair_coeff * * zero" if hybrid else "pair_coeff * *")
            yield Piece(tuple(lines), " ".join(words[4 if hybrid else 3 :]), where)
            lines = []
        else:
            lines.append(line)
    yield Piece(tuple(lines), None, str(path))


def _has_style(path: Path) -> bool:
    return any(
        words[0] == "pair_style" and STYLE in words[1:] for _, line in _lines(path, 0) if (words := line.split())
    )


def _lines(path: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Where each line is, and the line, continued ones joined, included files that name our style in their place."""
    if depth > 20:
        raise DataError(f"{path}: files include each other")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    begun = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.rstrip().endswith("&"):
            begun += line.rstrip()[:-1] + " "
            continue
        whole, begun = begun + line, ""
        words = whole.split()
        if words[:1] == ["include"] and len(words) == 2 and (file := Path(words[1])).is_file() and _mentions(file):
            yield from _lines(file, depth + 1)
            continue
        yield f"{path}, line {number}", whole


def _mentions(path: Path) -> bool:
    try:
        return f"{STYLE}" in path.read_text(encoding="utf-8", errors="replace") and _has_style(path)
    except OSError:
        return False
