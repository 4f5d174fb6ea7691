"""`les-plugins distill`: what it writes, what it prints, and what it says of wrong options."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ase.io
import pytest
import yaml
from ase.build import bulk

from les_plugins.errors import LesPluginsWarning

pytestmark = pytest.mark.filterwarnings("ignore:the licence of my_teacher:les_plugins.errors.LesPluginsWarning")

TEACHER = """
from ase.calculators.lj import LennardJones
class Argon(LennardJones):
    def calculate(self, atoms, *args, **kwargs):
        if len(atoms) == 1:
            raise ValueError("too few atoms")
        super().calculate(atoms, *args, **kwargs)
def argon():
    return Argon(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True)
"""
STUDENT = ["--write-config", "mace", "s.yaml"]


@pytest.fixture
def starts(tmp_path, monkeypatch):
    """A folder with a teacher's module and two crystals, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_teacher", raising=False)
    (tmp_path / "my_teacher.py").write_text(TEACHER, encoding="utf-8")
    ase.io.write("starts.xyz", [bulk("Ar", "fcc", a, cubic=True) for a in (5.3, 5.4)])
    return Path("starts.xyz")


def test_frames_sets_and_training_file_are_written_and_told(starts, les_plugins_command):
    done = les_plugins_command(
        *("distill", "my_teacher:argon", "--structures", starts, "-o", "data.xyz", "--licence", "MIT"),
        *("--grow", 8, "--temperature", 40, "--timestep", 4, "--warm-up", 4, "--interval", 2),
        *("--write-config", "mace", "student.yaml", "--epsilon-infinity", 1.7),
    )
    assert done.code == 0, done.errors
    assert "data.xyz: 8 frames of 24 candidates, 32 atoms, with energy, forces, stress" in done.output
    assert "labelled by my_teacher:argon, my_teacher (no version), licence MIT" in done.output
    assert "data-train.xyz (7 frames), validates on data-valid.xyz (1)" in done.output
    assert "next: les-plugins train mace --config student.yaml" in done.output
    config = yaml.safe_load(Path("student.yaml").read_text(encoding="utf-8"))
    assert (config["train_file"], config["long_range"]["epsilon_infinity"]) == ("data-train.xyz", 1.7)
    assert {a.info["teacher_licence"] for a in ase.io.read("data-train.xyz", ":")} == {"MIT"}


def test_the_summary_is_one_object(starts, les_plugins_command):
    asked = ("distill", "my_teacher:argon", "--structures", starts, "-o", "data.xyz", "--json")
    with pytest.warns(LesPluginsWarning, match="licence of my_teacher:argon, .* is not stated: --licence states it"):
        done = les_plugins_command(*asked)
    found = json.loads(done.output)
    assert (found["frames"], found["labels"], found["config"]) == (2, ["energy", "forces", "stress"], None)
    assert found["teacher"]["teacher_licence"] == "not stated"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["-o", "data.txt"], 2, "must end in .xyz or .extxyz"),
        (["-o", "d.xyz", "--grow", 4, "--choose", 2], 1, "--choose and --grow both say"),
        (["-o", "d.xyz", "--committee", "water-mace", "--choose", 1], 1, "one model disagrees with nobody"),
        (["-o", "d.xyz", "--driver", "water-mace"], 1, "nothing is simulated; allowed: with --grow"),
        (["-o", "d.xyz", "--features", "water-mace"], 1, "--features chooses among structures"),
        (["-o", "d.xyz", "--choose", 0], 1, "--choose is 0; allowed: 1 or more"),
        (["-o", "d.xyz", "--write-config", "nequp", "s.yaml"], 1, "did you mean 'nequip'?"),
        (["-o", "d.xyz", "--grow", 4, "--strain", 3], 1, "--strain is 3"),
        (["-o", "no/d.xyz"], 1, "no/d.xyz: cannot be written"),
        (["-o", "d.xyz", "--largest-force", "nan"], 1, "--largest-force is nan; allowed: above 0"),
        (["-o", "d.xyz", "--licence", "MIT\nof them"], 1, "allowed: one line"),
        (["-o", "d.xyz", "--choose", 1, "--features", "my_teacher:argon"], 1, "no long-range part"),
        (["-o", "d.xyz", *STUDENT, "--valid-fraction", 0], 1, "--valid-fraction is 0"),
        (["-o", "d.xyz", *STUDENT, "--epsilon-infinity", 0.5], 1, "--epsilon-infinity is 0.5"),
        (["-o", "d.xyz", "--write-config", "mace", "nodir/s.yaml"], 1, "nodir/s.yaml: cannot be written"),
        (["-o", "d.xyz", *STUDENT, "--choose", 1], 1, "there is 1 frame; two sets need at least two"),
        (["-o", "d.xyz", *STUDENT, "--zero-of-energy", "isolated"], 1, "an atom of Ar alone: ValueError: too few"),
        (["-o", "d.xyz", "--choose", 1, "--committee", "my_teacher:argon"] * 2, 1, "are the same model"),
    ],
)
def test_wrong_options_are_errors_before_anything_is_computed(starts, les_plugins_command, options, code, said):
    done = les_plugins_command("distill", "my_teacher:argon", "--structures", starts, *options)
    assert done.code == code
    assert said in " ".join(done.errors.split())
    assert sorted(path.name for path in Path().iterdir() if path.name != "__pycache__") == [
        "my_teacher.py",
        "starts.xyz",
    ]


def test_frames_that_are_fewer_than_asked_for_or_there_twice_are_told(starts, les_plugins_command):
    ase.io.write("twice.xyz", [bulk("Ar", "fcc", a, cubic=True) for a in (5.3, 5.4, 5.3)])
    done = les_plugins_command(
        "distill", "my_teacher:argon", "--structures", "twice.xyz", "-o", "data.xyz", "--choose", 50
    )
    assert "data.xyz: 2 frames of 2 candidates" in done.output
    assert "structures that were there more than once: 1 left out" in done.output
    assert "note: 50 frames were asked for, and there are no more than 2" in done.output


def test_a_student_that_was_written_before_is_kept(starts, les_plugins_command):
    command = ["distill", "my_teacher:argon", "--structures", starts, *STUDENT]
    assert les_plugins_command(*command, "-o", "data.xyz").code == 0
    Path("s.yaml").write_text("edited", encoding="utf-8")
    done = les_plugins_command(*command, "-o", "more.xyz")
    assert (done.code, Path("s.yaml").read_text(encoding="utf-8")) == (1, "edited")
    assert "s.yaml: exists" in done.errors
