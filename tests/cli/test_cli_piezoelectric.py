"""`les-plugins piezoelectric`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from command_line import Done
from rigid_ions import RigidIons
from springs import CHARGE, LATTICE, Springs, zinc_blende

from les_plugins.units import COULOMB_PER_SQUARE_METRE


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    """Run `les-plugins piezoelectric ARGUMENTS` in this process with springs in the place of a checkpoint."""

    def run(*arguments: object, calculator: Any = None) -> Done:
        model = calculator or Springs()
        monkeypatch.setattr(
            "les_plugins.cli.piezoelectric.open_model", lambda *path, **_: (model, {"path": str(path[0])})
        )
        return les_plugins_command("piezoelectric", *arguments)

    return run


@pytest.fixture
def crystal(tmp_path: Path) -> Path:
    file = tmp_path / "zb.xyz"
    ase.io.write(file, zinc_blende())
    return file


def test_both_tensors_are_reported_in_both_units(command: Callable[..., Any], crystal: Path, tmp_path: Path) -> None:
    code, printed, _ = command("m.les", crystal, "-o", tmp_path / "e.json", "--json")
    assert code == 0
    report = json.loads(printed)
    assert report == json.loads((tmp_path / "e.json").read_text())
    names = {"clamped_proper", "clamped_improper", "relaxed_proper", "relaxed_improper", "internal_strain_term"}
    assert set(report["e/A2"]) == set(report["C/m2"]) == names
    assert report["e/A2"]["relaxed_proper"][0][3] == pytest.approx(-CHARGE / LATTICE**2, rel=1e-4)  # third order
    for name in names:
        np.testing.assert_allclose(report["C/m2"][name], COULOMB_PER_SQUARE_METRE * np.array(report["e/A2"][name]))
    code, printed, _ = command("m.les", crystal)
    assert f"{-COULOMB_PER_SQUARE_METRE * CHARGE / LATTICE**2:.4f}" in printed
    assert "modes of the zone centre" in printed
    assert "note:" not in printed


def test_clamped_needs_no_stable_structure(command: Callable[..., Any], crystal: Path) -> None:
    code, printed, _ = command("m.les", crystal, "--clamped", "--json", calculator=Springs(-1.0))
    assert code == 0
    assert set(json.loads(printed)["e/A2"]) == {"clamped_proper", "clamped_improper"}


def test_ions_are_relaxed_on_request(command: Callable[..., Any], tmp_path: Path) -> None:
    atoms, file = zinc_blende(), tmp_path / "moved.xyz"
    atoms.positions[1, 2] += 0.05
    ase.io.write(file, atoms)
    code, _, errors = command("m.les", file)
    assert code == 1
    assert "les-plugins piezoelectric --relax" in errors
    code, printed, _ = command("m.les", file, "--relax", "--json")
    assert code == 0
    placed = np.array(json.loads(printed)["relaxed_positions"])
    np.testing.assert_allclose(placed[1] - placed[0], LATTICE / 4.0, atol=1e-3)  # the force that is left


def test_refused_in_one_line(command: Callable[..., Any], crystal: Path, tmp_path: Path) -> None:
    def refused(*arguments: object, **named: Any) -> str:
        code, printed, errors = command(*arguments, **named)
        assert (code, printed) == (1, "")
        line: str = errors
        return line

    short = RigidIons(has_long_range=False)
    assert "it has no long-range part" in refused("m.les", crystal, calculator=short)
    assert "imaginary" in refused("m.les", crystal, calculator=Springs(-1.0))
    two, strange, open_one = tmp_path / "two.xyz", tmp_path / "strange.xyz", tmp_path / "open.xyz"
    ase.io.write(two, [zinc_blende(), zinc_blende()])
    assert "holds 2 frames; allowed: one" in refused("m.les", two)
    ase.io.write(strange, Atoms("KCl", [[0, 0, 0], [0, 0, 3]], cell=[6, 6, 6], pbc=True))
    assert "does not know K" in refused("m.les", strange, calculator=RigidIons())
    ase.io.write(open_one, Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]]))
    assert "three periodic directions" in refused("m.les", open_one)
    assert "cannot be written" in refused("m.les", crystal, "-o", tmp_path / "no" / "e.json")
