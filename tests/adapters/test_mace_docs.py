"""What README says is true: its snippets run, and the quickstart finds the charges that made its data."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import ase.io
from mace_models import amplify, tiny_mace, waters

import les_plugins
from les_plugins.adapters.mace.model import LongRangeMACE

ROOT = Path(__file__).parents[2]


def snippet(containing: str) -> str:
    """The indented block of README that has a text in it."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    (found,) = (block for block in blocks if containing in block)
    return textwrap.dedent(found)


def test_the_snippet_that_attaches_runs() -> None:
    names = {"mace_model": tiny_mace()}
    exec(snippet("les_plugins.attach"), names)
    assert isinstance(names["model"], LongRangeMACE)


def test_the_snippet_that_loads_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = {"response": {"charge": True, "dipole": "isotropic"}, "epsilon_infinity": 1.78}
    les_plugins.save(amplify(les_plugins.attach(tiny_mace(), section)), "water-lr.les", "mace")
    ase.io.write("water.xyz", waters(2), format="extxyz")
    names: dict[str, object] = {}
    exec(snippet('les_plugins.load("water-lr.les")'), names)
    calculator, atoms = names["calc"], names["atoms"]
    further = re.search(r"Further properties: (.*?)\. Units", (ROOT / "README.md").read_text(), re.DOTALL)
    assert further is not None
    for name in re.findall(r"`(\w+)`", further[1]):
        assert np.isfinite(calculator.get_property(name, atoms)).all(), name


@pytest.mark.training
def test_the_quickstart_finds_the_charges_that_made_its_data(tmp_path: Path) -> None:
    examples = ROOT / "examples" / "quickstart"
    for command in (
        [str(examples / "make_data.py")],
        ["-m", "les_plugins", "train", "mace", "--config", str(examples / "config.yaml")],
    ):
        subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, capture_output=True)
    calculator = les_plugins.load(tmp_path / "runs/quickstart/ions.les")
    predicted, exact = [], []
    for atoms in ase.io.read(tmp_path / "runs/quickstart/data/test.xyz", ":"):
        predicted.append(calculator.get_property("born_effective_charges", atoms))
        exact.append(np.where(atoms.numbers == 11, 1.0, -1.0)[:, None, None] * np.eye(3))
    # 0.05 e RMSE was found; 0.1 leaves room for another machine's rounding, no charges at all would give 0.58
    assert np.sqrt(np.mean((np.array(predicted) - np.array(exact)) ** 2)) < 0.1
