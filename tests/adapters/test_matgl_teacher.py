"""MatGL as a teacher: a folder that it saved labels as the model in it; wrong folders are named."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import matgl
from before_rooms import FOLDER
from matgl_models import tiny_model, waters

from les_plugins.adapters.matgl.calculator import LesMatGLCalculator
from les_plugins.distillation.teachers import open_teacher
from les_plugins.errors import HostError


def test_a_folder_of_matgl_labels_as_the_model_in_it():
    teacher = open_teacher(f"matgl:{FOLDER / 'matgl'}")
    assert (teacher.name, teacher.licence) == ("matgl:matgl", "not stated")
    assert teacher.has_stress
    expected = LesMatGLCalculator(matgl.load_model(FOLDER / "matgl")).get_forces(waters(2))
    # one model in one precision
    np.testing.assert_allclose(teacher.calculator.get_forces(waters(2)), expected, rtol=1e-6, atol=1e-7)


def test_a_folder_without_a_file_is_named_and_nothing_is_downloaded(tmp_path):
    with pytest.raises(HostError, match=r"TensorNet-MatPES is no folder; .*nothing is downloaded"):
        open_teacher("matgl:TensorNet-MatPES")
    copy = shutil.copytree(FOLDER / "matgl", tmp_path / "copy")
    (copy / "state.pt").unlink()
    with pytest.raises(HostError, match=r"copy has no state\.pt"):
        open_teacher(f"matgl:{copy}")


def test_broken_weights_and_other_models_are_named(tmp_path):
    copy = shutil.copytree(FOLDER / "matgl", tmp_path / "copy")
    (copy / "state.pt").write_bytes(b"nothing")
    with pytest.raises(HostError, match="copy: MatGL cannot load it"):
        open_teacher(f"matgl:{copy}")
    tiny_model().save(tmp_path / "bare")
    with pytest.raises(HostError, match=r"bare: holds a TensorNet; expected a Potential"):
        open_teacher(f"matgl:{tmp_path / 'bare'}")


def test_there_is_no_modality():
    with pytest.raises(HostError, match="--modality is 'PBE', but models of matgl have one"):
        open_teacher("matgl:folder", modality="PBE")
