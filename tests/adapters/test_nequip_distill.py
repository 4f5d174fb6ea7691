"""NequIP as a student, by the file that `les-plugins distill` writes."""

from __future__ import annotations

import pytest
from distilled import check_taught, student_of


@pytest.mark.training
@pytest.mark.filterwarnings("ignore")
def test_a_student_trains_as_its_file_is_written(tmp_path, monkeypatch, les_plugins_command):
    path, config = student_of("nequip", tmp_path, les_plugins_command, monkeypatch)
    assert config["training_module"]["loss"]["coeffs"]["stress"] > 0
    done = les_plugins_command(
        "train", "nequip", "--config", path, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert done.code == 0, done.errors
    check_taught(tmp_path / "run" / "student.les")
