"""MACE as a student, by the file that `les-plugins distill` writes, and as a teacher, by a `.model` file."""

from __future__ import annotations

import ast

import ase.io
import numpy as np
import pytest
import torch
from distilled import check_taught, student_of

import les_plugins
from les_plugins.distillation.choice import student_features
from les_plugins.distillation.teachers import open_teacher
from les_plugins.errors import HostError


@pytest.mark.training
@pytest.mark.filterwarnings("ignore")
def test_a_student_trains_as_its_file_is_written_and_then_teaches(tmp_path, monkeypatch, les_plugins_command):
    path, config = student_of("mace", tmp_path, les_plugins_command, monkeypatch)
    assert (config["loss"], config["stress_weight"] > 0) == ("stress", True)
    done = les_plugins_command("train", "mace", "--config", path, "--max_num_epochs", 2)
    assert done.code == 0, done.errors
    assert "RMSE_stress" in done.output  # MACE validates stress where it trains it
    assert "checkpoint: student.les" in done.errors
    check_taught(tmp_path / "student.les")
    # E0s stand in the model as the file gives them
    student, _ = les_plugins.api.load_model(tmp_path / "student.les")
    given = torch.tensor([value for _, value in sorted(ast.literal_eval(config["E0s"]).items())])
    assert torch.allclose(student.atomic_energies_fn.atomic_energies.flatten().float(), given.float(), atol=1e-6)

    frames = [ase.io.read("data.xyz").copy() for _ in range(2)]
    turned = frames[0].copy()
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    frames[1].positions[1] += 0.1
    features = student_features([*frames, turned], les_plugins.load("student.les"))
    # scalars do not turn with the structure, up to float32, and tell a stretched bond from the one it was
    assert np.linalg.norm(features[0] - features[2]) < 1e-2 * np.linalg.norm(features[0] - features[1])

    taught = open_teacher("mace:student.model")
    assert taught.elements == (1, 8)
    assert taught.version.startswith("mace-torch 0.3")
    assert len(taught.sha256) == 64
    frame = ase.io.read("data.xyz")
    ours = les_plugins.load("student.les").get_property("forces", frame)
    # float32 sums in another order
    np.testing.assert_allclose(taught.calculator.get_property("forces", frame), ours, atol=1e-4)


def test_a_file_that_is_not_there_or_no_model_is_an_error(tmp_path):
    with pytest.raises(HostError, match=r"no\.model does not exist; expected a \.model file of MACE"):
        open_teacher("mace:no.model")
    torch.save({"not": "a model"}, tmp_path / "dict.model")
    with pytest.raises(HostError, match=r"dict\.model: holds a dict, no model of MACE"):
        open_teacher(f"mace:{tmp_path / 'dict.model'}")
