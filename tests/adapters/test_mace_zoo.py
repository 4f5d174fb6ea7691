"""The models of the zoo for MACE, and the demo."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

from zoo_checks import ZooChecks, names, surface_energy


@pytest.mark.parametrize("name", names("mace"))
class TestZoo(ZooChecks):
    pass


@pytest.mark.slow
def test_the_demo_runs_in_an_empty_folder(tmp_path):
    call = [sys.executable, "-m", "les_plugins", "demo", "--steps", "32"]
    run = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "192 atoms: energy -938." in run.stdout
    assert "reproduction check, computed here against stored with the model (no error of the model)" in run.stdout
    written = {path.name: path.stat().st_size for path in (tmp_path / "les-demo").iterdir()}
    pictures = [name for name in written if name.endswith(".png")]
    assert sorted(pictures) == ["born_charges.png", "ir.png"]
    assert all(written[name] > 10_000 for name in pictures)  # a figure, not an empty canvas
    again = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "les-demo exists: give another --output" in again.stderr


def test_the_net_charge_that_bulk_training_left_is_no_part_of_a_surface():
    # as on the whole slab (docs/explanation/boundaries.md); with the charge left in it is 15.84. Energies are float32:
    # 6e-5 eV each over 308 Å²
    assert surface_energy("water-mace") == pytest.approx(12.37, abs=0.01)
