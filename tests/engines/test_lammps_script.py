"""A LAMMPS input with `pair_style les`: what LAMMPS is given to read, and where the model comes in."""

from pathlib import Path

import pytest

from les_plugins.engines.ranks.script import pieces, run_script
from les_plugins.errors import ConfigError, DataError


def written(folder: Path, text: str, name: str = "in.test") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def found(path: Path) -> list[tuple[tuple[str, ...], str | None]]:
    return [(piece.lines, piece.elements) for piece in pieces(path, 4.5)]


def test_the_model_comes_in_after_its_pair_coeff(tmp_path):
    path = written(tmp_path, "units metal\npair_style les # the model\npair_coeff * * &\n H O\nrun 5\njump SELF here\n")
    assert found(path) == [
        (("units metal", "pair_style zero 4.5", "pair_coeff * *"), "H O"),
        (("run 5", "jump SELF here"), None),
    ]


def test_other_pair_styles_are_added_by_hybrid_overlay(tmp_path):
    path = written(
        tmp_path, "pair_style hybrid/overlay les lj/cut 6\npair_coeff 1 2 lj/cut 1 1\npair_coeff * * les H O\nrun 0"
    )
    (first, elements), (rest, _) = found(path)
    assert first == (
        "pair_style hybrid/overlay zero 4.5 lj/cut 6",
        "pair_coeff 1 2 lj/cut 1 1",
        "pair_coeff * * zero",
    )
    assert (elements, rest) == ("H O", ("run 0",))


def test_a_model_may_come_in_twice(tmp_path):
    path = written(tmp_path, "pair_style les\npair_coeff * * H\nclear\npair_style les\npair_coeff * * O\nrun 1\n")
    assert [elements for _, elements in found(path)] == ["H", "O", None]


def test_included_files_are_read_where_they_name_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "pair_style les\npair_coeff * * H O\n", "model.in")
    written(tmp_path, "mass 1 1.0\n", "masses.in")
    path = written(tmp_path, "include masses.in\ninclude model.in\nrun 0\n")
    assert found(path) == [(("include masses.in", "pair_style zero 4.5", "pair_coeff * *"), "H O"), (("run 0",), None)]


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("pair_style lj/cut 3\n", DataError, "has no pair_style les"),
        ("pair_style les model.pt\n", ConfigError, "line 1: pair_style les takes no arguments"),
        ("pair_style les\npair_coeff 1 2 H O\n", ConfigError, r"line 2: pair_coeff 1 2; allowed with les: \* \*"),
        ("pair_style hybrid les lj/cut 3\n", ConfigError, "line 1: hybrid; allowed with les: hybrid/overlay"),
    ],
)
def test_what_is_not_a_model_is_refused(text, kind, words, tmp_path):
    with pytest.raises(kind, match=words):
        found(written(tmp_path, text))


class Recorded:
    """LAMMPS as far as a script sees it."""

    def __init__(self):
        self.read = []

    def file(self, path):
        self.read.append(Path(path).read_text())

    def expand(self, line):
        return line.replace("${types}", "H O")


def test_lammps_reads_the_pieces_and_variables_are_expanded(tmp_path):
    lmp, attached = Recorded(), []
    path = written(tmp_path, "units real\npair_style les\npair_coeff * * ${types}\nrun 3\n")
    run_script(lmp, path, 3.0, attached.append)
    assert lmp.read == ["units real\npair_style zero 3.0\npair_coeff * *\n", "run 3\n"]
    assert attached == [["H", "O"]]


def test_a_pair_coeff_without_elements_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"line 2: pair_coeff names no element; allowed: pair_coeff \* \* H O"):
        run_script(Recorded(), written(tmp_path, "pair_style les\npair_coeff * *\n"), 3.0, print)
