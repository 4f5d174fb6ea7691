"""Extended XYZ looked through before ASE reads it, which trusts counts, drops columns and stops at blank lines."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from les_plugins.errors import DataError, quoted

SUFFIXES = (".xyz", ".extxyz")
#: Suffixes of files that ASE decompresses.
_COMPRESSED: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
#: An atom's line has a symbol, three numbers and what separates them.
_SHORTEST_LINE = 8
#: Longest comment line, bytes.
_LONGEST_COMMENT = 2**20
_LATTICE = re.compile(r"""\bLattice\s*=\s*(?:"([^"]*)"|'([^']*)'|\{([^}]*)\}|\[([^\]]*)\])""")
_PBC = re.compile(r"""\bpbc\s*=\s*["'{\[]([^"'}\]]*)["'}\]]""")
_BARE_PBC = re.compile(r"""\bpbc\s*=\s*([^\s"'{\[]+(?:\s+(?:[TF01]|True|False)\b(?!\s*=))*)""", re.IGNORECASE)
_QUOTED = re.compile(r"""(=\s*)(?:"(?:\\.|[^"])*"|'(?:\\.|[^'])*'|\{[^}]*\}|\[[^=]*\])""")
_KEY = re.compile(r"([^\s=\"'{}\[\]]+)\s*=")
#: Keys that ASE knows in this spelling only.
_SPELT = {name.lower(): name for name in ("Lattice", "Properties", "pbc")}
_FLAGS = ("t", "f", "true", "false", "0", "1")
_PROPERTIES = re.compile(r"""\bProperties\s*=\s*["']?([^\s"']*)""")


def check_extended_xyz(path: Path) -> None:
    """Compare each count, lattice and list of columns of a file with its lines; other suffixes are left alone.

    Args:
        path: a file.

    Raises:
        DataError: a number of atoms that the file has no room for, lines that have more or fewer columns than the
            header names, a column or a key that is named twice, a key in another spelling than ASE's, a lattice that
            is not nine numbers, frames behind a blank line.
    """
    compressed = _COMPRESSED.get(path.suffix.lower())
    if (path if compressed is None else path.with_suffix("")).suffix.lower() not in SUFFIXES:
        return
    try:
        # how much a compressed file holds is not known before it is read
        size = path.stat().st_size if compressed is None else None
        with path.open("rb") if compressed is None else compressed(path, "rb") as file:
            for number, start in enumerate(_counts(file, path)):
                _check_frame(file, size, start, f"{path}, frame {number}")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _counts(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """First lines of frames; the caller reads the rest of each before the next."""
    while line := _after_vectors(file):
        if not line.strip():
            place = file.tell()
            if rest := next((text for text in file if text.strip()), b""):
                raise DataError(f"{path}: a blank line at byte {place}, and {quoted(_text(rest))} behind it")
            return
        yield line


def _after_vectors(file: IO[bytes]) -> bytes:
    """The next line that is no lattice vector of ADF, which may stand behind the atoms."""
    while (line := file.readline(_LONGEST_COMMENT)).startswith(b"VEC"):
        pass
    return line


def _check_frame(file: IO[bytes], size: int | None, first: bytes, where: str) -> None:
    try:
        count = int(first)
    except ValueError:
        raise DataError(f"{where}: begins with {quoted(_text(first))}; expected the number of atoms") from None
    comment = file.readline(_LONGEST_COMMENT)
    room = max(count, 0) if size is None else (size - file.tell() + 1) // _SHORTEST_LINE
    if not 0 <= count <= room:
        raise DataError(
            f"{where}: has {quoted(count)} atoms by its first line; the rest of the file has room for {room}"
        )
    if len(comment) == _LONGEST_COMMENT:
        raise DataError(f"{where}: its comment line is longer than {_LONGEST_COMMENT} bytes")
    text = _text(comment)
    _check_keys(text, where)
    _check_lattice(text, where)
    flags = _PBC.search(text)
    given = [] if flags is None else re.split(r"[\s,]+", flags[1].strip().lower())
    if flags is not None and (len(given) != 3 or not set(given) <= set(_FLAGS)):
        raise DataError(f"{where}: pbc is {quoted(flags[1])}; expected three of T and F")
    bare = _BARE_PBC.search(text)
    if bare is not None and bare[1].lower() not in _FLAGS:  # of which ASE reads the first only, or "TTF" as true
        raise DataError(f'{where}: pbc is {quoted(bare[1])}; expected three of T and F in quotes, as pbc="T T F"')
    columns = _columns(text, where)
    for atom in range(count):
        line = file.readline(_LONGEST_COMMENT)
        found = len(line.split())
        if found < (columns or 4) or (columns is not None and found > columns):
            expected = f"{columns} columns" if columns else "a symbol and three coordinates"
            raise DataError(f"{where}: atom {atom} of {count} is {quoted(_text(line))}; expected {expected}")


def _check_keys(comment: str, where: str) -> None:
    """Of a key that stands twice ASE takes one, and of Lattice, Properties and pbc it knows one spelling only."""
    names = _KEY.findall(_QUOTED.sub(r"\1", comment))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{where}: its second line has the key {quoted(twice[0])} twice")
    for name in names:
        if (right := _SPELT.get(name.lower(), name)) not in names:
            raise DataError(f"{where}: its second line has the key {quoted(name)}; expected {right}, in this spelling")


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
