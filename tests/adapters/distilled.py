"""A student that learns from a teacher by the file that `les-plugins distill` writes, for tests of MACE and NequIP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ase.io
import yaml
from ase.build import molecule

from les_plugins.storage.checkpoint import read_config

#: Water by springs, so that nothing of the test depends on a model: energies are sums over pairs of neighbours.
TEACHER = """
from ase.calculators.lj import LennardJones

class Springs(LennardJones):
    known_elements = (1, 8)

def springs():
    return Springs(sigma=1.3, epsilon=0.05, rc=4.0, smooth=True)
"""


def student_of(host: str, folder: Path, command: Any, monkeypatch: Any) -> tuple[Path, dict[str, Any]]:
    """Distil twelve frames and write the file of a student of `host`; the file, and what it says."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "spring_teacher", raising=False)
    (folder / "spring_teacher.py").write_text(TEACHER, encoding="utf-8")
    box = molecule("H2O", cell=[4.0, 4.1, 4.2], pbc=True)
    ase.io.write("start.xyz", box)
    done = command(
        *("distill", "spring_teacher:springs", "--structures", "start.xyz", "-o", "data.xyz", "--licence", "MIT"),
        *("--grow", 12, "--candidates", 1, "--temperature", 20, "--interval", 2, "--warm-up", 2, "--strain", 0.05),
        *("--write-config", host, "student.yaml", "--epsilon-infinity", 1.8),
    )
    assert done.code == 0, done.errors
    return folder / "student.yaml", yaml.safe_load((folder / "student.yaml").read_text(encoding="utf-8"))


def check_taught(checkpoint: Path) -> None:
    """The checkpoint says who taught it, under what licence."""
    metadata = read_config(checkpoint)["metadata"]
    (teacher,) = metadata["training"]["teachers"]
    assert (teacher["teacher"], teacher["teacher_licence"]) == ("spring_teacher:springs", "MIT")
    assert metadata["data_licence"] == "MIT"
