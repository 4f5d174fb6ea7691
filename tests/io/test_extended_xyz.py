"""Extended XYZ files that do not fit their own counts and columns: one error that names the frame, in bounded time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from les_plugins.data.frames import iterate_frames, read_frames
from les_plugins.data.labels import shaped
from les_plugins.errors import DataError

LATTICE = 'Lattice="9 0 0 0 9 0 0 0 9"'
PROPERTIES = "Properties=species:S:1:pos:R:3"
GOOD = f"2\n{LATTICE} {PROPERTIES}\nO 0.0 0.0 0.0\nH 1.0 0.0 0.0\n"


def first(count: str) -> str:
    return GOOD.replace("2\n", f"{count}\n", 1)


@pytest.mark.parametrize(
    "text",
    [
        first("1000000000"),
        first("9" * 30),
        first("-1"),
        first("1"),
        first("3"),
        first("two"),
        first("2.0"),
        first("9" * 5000),
        GOOD.replace("H 1.0 0.0 0.0", "H 1.0 0.0"),
        GOOD.replace("H 1.0 0.0 0.0", "H 1.0 0.0 0.0 7.0"),
        GOOD.replace("H 1.0 0.0 0.0", "H 1.0 zero 0.0"),
        GOOD.replace("H 1.0 0.0 0.0", "H nan 0.0 0.0"),
        GOOD.replace("H 1.0 0.0 0.0", "H inf 0.0 0.0"),
        GOOD.replace("H 1.0 0.0 0.0", "H 1e308 0.0 0.0"),
        GOOD.replace("H 1.0 0.0 0.0", "H 1e999 0.0 0.0"),
        GOOD.replace("H 1.0 0.0 0.0", "Xq 1.0 0.0 0.0"),
        GOOD.replace("9 0 0 0 9 0 0 0 9", "9 0 0 0 9 0 0 0"),
        GOOD.replace("9 0 0 0 9 0 0 0 9", "9 0 0 0 9 0 0 0 9 9"),
        GOOD.replace("9 0 0 0 9 0 0 0 9", "9 8 7"),
        GOOD.replace("9 0 0 0 9 0 0 0 9", "1e300 0 0 0 9 0 0 0 9"),
        GOOD.replace("9 0 0 0 9 0 0 0 9", "nan 0 0 0 9 0 0 0 9"),
        GOOD.replace("9 0 0 0 9 0 0 0 9", "a b c d e f g h i"),
        GOOD.replace("pos:R:3", "pos:R:2"),
        GOOD.replace("pos:R:3", "pos:R:3:pos:R:3"),
        GOOD.replace("pos:R:3", "pos:R:999999999"),
        GOOD.replace("pos:R:3", "pos:R:-3"),
        GOOD.replace("pos:R:3", "pos:R"),
        GOOD.replace("pos:R:3", "pos:Q:3"),
        GOOD.replace("pos:R:3", "force:R:3"),
        GOOD.replace("pos:R:3", "pos:R:3:forces:R:3"),
        GOOD.replace(LATTICE, f'{LATTICE} pbc="T T"'),
        GOOD.replace(LATTICE, f'{LATTICE} pbc="5 x 2"'),
        GOOD.replace(LATTICE, "x" * 2**21),
        GOOD + "\n" + GOOD,
        GOOD + "5",
        "\n" + GOOD,
        "\x00" * 100,
        "",
    ],
    ids=range(38),
)
@pytest.mark.parametrize("read", [read_frames, lambda path: list(iterate_frames(path))])
def test_a_file_that_does_not_fit_itself_is_refused_by_name(
    tmp_path: Path, text: str, read: Callable[[Path], list[Atoms]]
) -> None:
    path = tmp_path / "water.xyz"
    path.write_text(text)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        read(path)
    assert time.monotonic() - start < 5.0
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("suffix", [".xyz", ".xyz.gz", ".extxyz.bz2", ".xyz.xz"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\n" + GOOD, "a blank line at byte"),
        (first("1000000000"), "frame 0: "),
        (GOOD.replace("H 1.0 0.0 0.0", "H 1.0 0.0 0.0 7.0"), "expected 4 columns"),
        (GOOD.replace(LATTICE, f"{LATTICE} pbc=T T F"), "pbc is 'T T F'; expected three of T and F in quotes"),
        (GOOD.replace(LATTICE, f"{LATTICE} pbc=TTF"), "pbc is 'TTF'; expected three of T and F in quotes"),
        (GOOD.replace(LATTICE, f'{LATTICE} PBC="F F F"'), "the key 'PBC'; expected pbc"),
        (GOOD.replace("Lattice", "lattice"), "the key 'lattice'; expected Lattice"),
        (GOOD.replace("Properties", "properties"), "the key 'properties'; expected Properties"),
        (GOOD.replace(LATTICE, f"{LATTICE} {LATTICE}"), "the key 'Lattice' twice"),
        (GOOD.replace(LATTICE, f"{LATTICE} energy=-1 energy=-2"), "the key 'energy' twice"),
    ],
)
def test_what_ase_would_drop_is_named_in_compressed_files_too(
    tmp_path: Path, suffix: str, text: str, message: str
) -> None:
    path = tmp_path / f"water{suffix}"
    with {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)(path, "wb") as file:
        file.write(text.encode())
    with pytest.raises(DataError, match=message):
        read_frames(path)


def test_a_compressed_file_is_read_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz.gz"
    path.write_bytes(gzip.compress((GOOD + GOOD).encode()))
    assert [len(atoms) for atoms in read_frames(path)] == [2, 2]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"water\.xyz\.gz: cannot be read"):
        read_frames(path)


@pytest.mark.parametrize(
    "addition",
    ["pbc=F", "pbc=T n=1", 'pbc="F F F"', 'pbc="true true true"', 'config="a=1 a=2"', "lattice=fcc", "a=[[1,2],[3,4]]"],
)
def test_what_ase_understands_is_read(tmp_path: Path, addition: str) -> None:
    path = tmp_path / "water.xyz"
    path.write_text(GOOD.replace(LATTICE, f"{LATTICE} {addition}"))
    (atoms,) = read_frames(path)
    assert atoms.pbc.tolist() == [not addition.lower().startswith(("pbc=f", 'pbc="f'))] * 3


def test_what_other_programs_write_is_read(tmp_path: Path) -> None:
    """Trailing blank lines, further columns of a plain file, no newline at the end, ADF's vectors."""
    path = tmp_path / "water.xyz"
    for text, frames in (
        (GOOD + GOOD + "\n\n", 2),
        (GOOD.rstrip("\n"), 1),
        ("2\n\nO 0.0 0.0 0.0 0.1\nH 1.0 0.0 0.0 0.2\n", 1),
        ("2\ncomment\nO 0 0 0\nH 1 0 0\nVEC1 9 0 0\nVEC2 0 9 0\nVEC3 0 0 9\n", 1),
    ):
        path.write_text(text)
        assert [len(atoms) for atoms in read_frames(path)] == [2] * frames
        assert len(list(iterate_frames(path))) == frames


def test_what_ase_writes_is_read_back(tmp_path: Path) -> None:
    atoms = Atoms("H2O", np.random.default_rng(0).normal(size=(3, 3)), cell=[9.0, 9.0, 9.0], pbc=[True, False, True])
    atoms.info.update(energy=-1.0, note='a "quoted" word, Properties=x', table=np.eye(3))
    atoms.set_array("tags_of_mine", np.arange(3))
    atoms.set_velocities(np.ones((3, 3)))
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, [atoms, atoms])
    assert all(np.allclose(found.positions, atoms.positions) for found in read_frames(path))


@pytest.mark.parametrize("value", [1e308, -1e16, float("nan"), float("inf")])
def test_a_label_that_no_structure_has_is_refused_with_the_frame(value: float) -> None:
    with pytest.raises(DataError, match=r"^train.xyz, frame 3: energy holds"):
        shaped("energy", value, 2, "train.xyz, frame 3: energy")
