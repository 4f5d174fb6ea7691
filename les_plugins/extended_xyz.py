"""Extended XYZ looked through before ASE reads it, which trusts counts, drops columns and stops at blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from les_plugins.errors import DataError, quoted

SUFFIXES = (".xyz", ".extxyz")
#: An atom's line has a symbol, three numbers and what separates them.
_SHORTEST_LINE = 8
#: Longest comment line, bytes.
_LONGEST_COMMENT = 2**20
_LATTICE = re.compile(r"""\bLattice\s*=\s*(?:"([^"]*)"|'([^']*)'|\{([^}]*)\}|\[([^\]]*)\])""")
_PBC = re.compile(r"""\bpbc\s*=\s*["'{\[]([^"'}\]]*)["'}\]]""")
_FLAGS = ("t", "f", "true", "false", "0", "1")
_PROPERTIES = re.compile(r"""\bProperties\s*=\s*["']?([^\s"']*)""")


def check_extended_xyz(path: Path) -> None:
    """Compare each count, lattice and list of columns of a file with its lines; other suffixes are left alone.

    Args:
        path: a file.

    Raises:
        DataError: a number of atoms that the file has no room for, lines that have more or fewer columns than the
            header names, a column that is named twice, a lattice that is not nine numbers, frames behind a blank line.
    """
    if path.suffix.lower() not in SUFFIXES:
        return
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for number, start in enumerate(_counts(file)):
                _check_frame(file, size, start, f"{path}, frame {number}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _counts(file: BinaryIO) -> Iterator[bytes]:
    """First lines of frames; the caller reads the rest of each before the next."""
    while line := _after_vectors(file):
        if not line.strip():
            place = file.tell()
            if rest := next((text for text in file if text.strip()), b""):
                raise DataError(f"{file.name}: a blank line at byte {place}, and {quoted(_text(rest))} behind it")
            return
        yield line


def _after_vectors(file: BinaryIO) -> bytes:
    """The next line that is no lattice vector of ADF, which may stand behind the atoms."""
    while (line := file.readline(_LONGEST_COMMENT)).startswith(b"VEC"):
        pass
    return line


def _check_frame(file: BinaryIO, size: int, first: bytes, where: str) -> None:
    try:
        count = int(first)
    except ValueError:
        raise DataError(f"{where}: begins with {quoted(_text(first))}; expected the number of atoms") from None
    comment = file.readline(_LONGEST_COMMENT)
    room = (size - file.tell() + 1) // _SHORTEST_LINE
    if not 0 <= count <= room:
        raise DataError(
            f"{where}: has {quoted(count)} atoms by its first line; the rest of the file has room for {room}"
        )
    if len(comment) == _LONGEST_COMMENT:
        raise DataError(f"{where}: its comment line is longer than {_LONGEST_COMMENT} bytes")
    text = _text(comment)
    _check_lattice(text, where)
    flags = _PBC.search(text)
    given = [] if flags is None else re.split(r"[\s,]+", flags[1].strip().lower())
    if flags is not None and (len(given) != 3 or not set(given) <= set(_FLAGS)):
        raise DataError(f"{where}: pbc is {quoted(flags[1])}; expected three of T and F")
    columns = _columns(text, where)
    for atom in range(count):
        line = file.readline(_LONGEST_COMMENT)
        found = len(line.split())
        if found < (columns or 4) or (columns is not None and found > columns):
            expected = f"{columns} columns" if columns else "a symbol and three coordinates"
            raise DataError(f"{where}: atom {atom} of {count} is {quoted(_text(line))}; expected {expected}")


def _check_lattice(comment: str, where: str) -> None:
    given = _LATTICE.search(comment)
    if given is None:
        return
    text = next(group for group in given.groups() if group is not None)
    if len(re.split(r"[\s,]+", text.strip("[] \t"))) != 9:
        raise DataError(f"{where}: Lattice is {quoted(text)}; expected nine numbers")


def _columns(comment: str, where: str) -> int | None:
    """How many columns the header names; None where it names none."""
    given = _PROPERTIES.search(comment)
    if given is None:
        return None
    fields = given[1].split(":")
    names, kinds, numbers = fields[::3], fields[1::3], fields[2::3]
    sound = len(fields) % 3 == 0 and all(kind in ("S", "R", "I", "L") for kind in kinds)
    if not sound or not all(re.fullmatch("[1-9][0-9]{0,3}", number) for number in numbers):
        raise DataError(f"{where}: Properties is {quoted(given[1])}; expected name:type:number, such as pos:R:3")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: Properties names the column {quoted(twice[0])} twice")
    if dict(zip(names, zip(kinds, numbers, strict=True), strict=True)).get("pos") != ("R", "3"):
        raise DataError(f"{where}: Properties is {quoted(given[1])}; expected pos:R:3 among the columns")
    return sum(map(int, numbers))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip()
