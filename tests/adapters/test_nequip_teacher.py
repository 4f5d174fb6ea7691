"""NequIP as a teacher: its checkpoints and packages label as the model in them; wrong files are named."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

from before_rooms import FOLDER
from nequip_models import waters

from les_plugins.distillation.teachers import open_teacher
from les_plugins.errors import HostError


@pytest.mark.parametrize("file", ["nequip.ckpt", "nequip.nequip.zip"])
def test_a_file_of_nequip_labels_as_the_model_in_it(file):
    teacher = open_teacher(f"nequip:{FOLDER / file}")
    assert (teacher.name, teacher.licence) == (f"nequip:{file}", "not stated")
    assert teacher.elements == (1, 8)
    assert teacher.has_stress
    expected = json.loads((FOLDER / "nequip.json").read_text())["files"][file]
    # the same model in float64: equal but for the order of sums
    np.testing.assert_allclose(teacher.calculator.get_forces(waters(2)), expected["forces"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.nequip.zip", "missing.nequip.zip does not exist"),
        ("weights.pth.tar", r"weights.pth.tar is no file of NequIP; allowed: files \*.nequip.zip"),
        ("nonsense.ckpt", "nonsense.ckpt: NequIP cannot load it"),
        ("nonsense.nequip.zip", "nonsense.nequip.zip: NequIP cannot load it"),
        ("nonsense.nequip.pt2", "nonsense.nequip.pt2: NequIP cannot load it"),
    ],
)
def test_wrong_files_are_named(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name.startswith("nonsense"):
        (tmp_path / name).write_text("nothing", encoding="utf-8")
    with pytest.raises(HostError, match=said):
        open_teacher(f"nequip:{name}")


def test_there_is_no_modality():
    with pytest.raises(HostError, match="--modality is 'PBE', but models of nequip have one"):
        open_teacher("nequip:model.ckpt", modality="PBE")
