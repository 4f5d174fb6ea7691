"""`les-plugins analyze interface` from the command line, on a slab of charges that springs hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from command_line import Done
from toy_calculator import CHARGES, Toy, molecule

from les_plugins.cli import interface as module
from les_plugins.dynamics import Settings, run
from les_plugins.units import VACUUM_PERMITTIVITY


class Still(Calculator):
    """Charges by element and no forces, in slabs too."""

    implemented_properties = ["energy", "forces", "charges", "dipole"]  # noqa: RUF012
    known_elements = (1, 8)
    has_long_range = True
    epsilon_infinity = 1.78
    reference_susceptibility = 0.25

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = tuple(all_changes)) -> None:
        super().calculate(atoms, properties, system_changes)
        charges = np.array([CHARGES[z] for z in atoms.numbers])
        self.results = {
            "energy": 0.0,
            "forces": np.zeros((len(atoms), 3)),
            "charges": charges,
            "dipole": charges @ atoms.positions,
        }


@pytest.fixture(scope="module")
def slab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two molecules that point up and rest."""
    water = np.array([[3.0, 3.0, 0.0], [3.76, 3.0, 0.59], [2.24, 3.0, 0.59]])
    other = water + np.array([5.0, 5.0, 3.0])
    atoms = Atoms("OHHOHH", np.concatenate([water, other]), cell=[10, 10, 20], pbc=[1, 1, 0])
    atoms.set_velocities(1e-9 * np.ones((6, 3)) * np.array([[1], [0], [0], [-1], [0], [0]]))
    output = tmp_path_factory.mktemp("slab") / "slab.h5"
    run(Still(), atoms, output, Settings.of(steps=40, every=1, current=False, velocities="keep"), {})
    return output


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, les_plugins_command: Callable[..., Done]) -> Callable[..., Done]:
    monkeypatch.setattr(module, "open_model", lambda *given, **named: (Still(), {"host": "still"}))
    return les_plugins_command


def test_table_storage_picture_and_lines_say_the_same(command: Callable[..., Done], slab: Path, tmp_path: Path) -> None:
    done = command("analyze", "interface", slab, "--model", "still", "-o", tmp_path / "surface", "--every", 5)
    assert done.code == 0, done.errors
    step = 2 * 0.8 * 0.59 / (VACUUM_PERMITTIVITY * 100.0)
    assert f"potential above the slab less that below: {step:.4f} ± 0.0000 V" in done.output
    assert "times 1/sqrt(ε_e) = 0.838" in done.output  # 1.78/1.25
    with (tmp_path / "surface.csv").open(encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    with h5py.File(tmp_path / "surface.h5") as h5:
        assert h5.attrs["potential_step_V"] == pytest.approx(step)
        np.testing.assert_allclose([float(row["potential (V)"]) for row in rows], h5["potential/value"], atol=1e-7)
        assert h5["potential"].attrs["unit"] == "V"
    assert (tmp_path / "surface.png").stat().st_size > 1000


def test_json_has_numbers_or_null_and_without_a_model_there_are_densities(
    command: Callable[..., Done], slab: Path
) -> None:
    done = command("analyze", "interface", slab, "--model", "still", "--json", "--blocks", 1)
    found = json.loads(done.output)
    assert found["values"]["potential_step_error_V"] is None
    assert None in found["profiles"]["cosine"]["value"]
    assert 1.0 in [round(v, 9) for v in found["profiles"]["cosine"]["value"] if v is not None]
    done = command("analyze", "interface", slab, "--json")
    assert set(json.loads(done.output)["profiles"]) == {"mass density", "density of H", "density of O"}


def test_what_is_no_slab_is_named_with_its_file(command: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "bulk.h5"
    run(Toy(), molecule(1, periodic=True), path, Settings.of(steps=4, every=1, temperature=300.0), {})
    done = command("analyze", "interface", path, "--every", 1)
    assert done.code == 1
    assert "bulk.h5: frame 0: pbc is [True, True, True]; a slab has two periodic directions" in done.errors
