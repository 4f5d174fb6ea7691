"""Teachers are opened by what the user types, and say what labelled a frame; whatever else is typed is an error."""

from __future__ import annotations

import hashlib
import sys

import argon
import ase.io
import numpy as np
import pytest
from toy_host import BareHost

from les_plugins.data.teachers import infos_of_files, licences_of, teachers_of
from les_plugins.distillation.labelling import labelled, text_of
from les_plugins.distillation.teachers import Teacher, open_teacher
from les_plugins.errors import CheckpointError, ConfigError, HostError
from les_plugins.hosting.pretrained import Pretrained


@pytest.fixture
def weights(tmp_path, with_plugins):
    """The weights of a model of a host, whose package states its licence."""
    path = tmp_path / "toy.weights"
    path.write_bytes(b"weights")

    class WithModels(BareHost):
        def pretrained(self, name, device, modality=None):
            if name != "big":
                raise HostError(f"toy has no model {name!r}; allowed: big")
            return Pretrained(argon.teacher(), path, "BSD")

    with_plugins(toy=WithModels())
    return path


def test_a_model_of_a_host_brings_version_hash_and_licence(weights):
    found = open_teacher("toy:big")
    assert found.provenance() == {
        "teacher": "toy:big",
        "teacher_version": "toy 1.0",
        "teacher_sha256": hashlib.sha256(b"weights").hexdigest(),
        "teacher_licence": "BSD",
    }
    assert found.elements == (18,)
    assert open_teacher("toy:big", licence="mine").licence == "mine"


def test_a_function_is_called_and_has_no_hash():
    found = open_teacher("argon:teacher")
    assert found.provenance() == {
        "teacher": "argon:teacher",
        "teacher_version": "argon (no version)",
        "teacher_licence": "not stated",
    }


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("toy:bigger", HostError, "no model 'bigger'; allowed: big"),
        ("tyo:big", ConfigError, r"did you mean 'toy:'\?.*HOST:MODEL with .*toy"),
        ("argon:techer", ConfigError, "no attribute 'techer'"),
        ("argon:crystal", HostError, "gives a Atoms; expected an ASE calculator"),
        ("json:loads", HostError, "the function stopped with TypeError"),
        ("water-mac", CheckpointError, r"water-mac does not exist \(did you mean 'water-mace'\?\)"),
    ],
)
def test_wrong_names_say_what_is_allowed(weights, name, kind, said):
    with pytest.raises(kind, match=said):
        open_teacher(name)


def test_a_modality_is_for_models_of_hosts():
    with pytest.raises(ConfigError, match="--modality is 'PBE', but TEACHER argon:teacher is no model of a host"):
        open_teacher("argon:teacher", modality="PBE")


def test_a_host_without_models_says_what_it_has(with_plugins):
    with_plugins(toy=BareHost())
    with pytest.raises(HostError, match="toy has no models to learn from"):
        open_teacher("toy:big")


def test_provenance_of_frames_is_read_back_by_teacher(weights):
    first, second = open_teacher("toy:big"), open_teacher("argon:teacher", licence="MIT")
    frames = [labelled(argon.crystal(), {}, teacher) for teacher in (first, second, first)]
    infos = [atoms.info for atoms in frames]
    assert teachers_of(infos) == [
        {**second.provenance(), "frames": 1},
        {**first.provenance(), "frames": 2},
    ]
    assert licences_of([*infos, {}]) == ["BSD", "MIT"]
    unknown = labelled(argon.crystal(), {}, open_teacher("argon:teacher"))
    assert licences_of([unknown.info, {}]) == ["not stated (argon:teacher)"]
    assert teachers_of([{}]) == []


def test_provenance_is_read_from_files_without_their_frames(tmp_path):
    frames = [labelled(argon.crystal(), {"energy": np.float64(1.0)}, open_teacher("argon:teacher")) for _ in range(3)]
    (tmp_path / "three.xyz").write_text(text_of(frames), encoding="utf-8")
    found = infos_of_files([tmp_path / "three.xyz", tmp_path / "three.xyz"])
    assert teachers_of(found) == [{**open_teacher("argon:teacher").provenance(), "frames": 6}]
    (tmp_path / "other.xyz").write_bytes(b"\x89HDF\xff\n")
    assert infos_of_files([tmp_path / "three.xyz", tmp_path / "other.xyz"]) is None
    assert infos_of_files([tmp_path / "none.xyz"]) is None


def test_a_licence_of_several_lines_is_an_error_and_no_frame_is_unreadable(tmp_path):
    with pytest.raises(ConfigError, match=r"--licence is 'MIT\\nsee file'; allowed: one line"):
        open_teacher("argon:teacher", licence="MIT\nsee file")
    of_weights = Teacher("t", argon.teacher(), "1", None, 'MIT\nof "weights"')
    (tmp_path / "one.xyz").write_text(text_of([labelled(argon.crystal(), {}, of_weights)]), encoding="utf-8")
    assert ase.io.read(tmp_path / "one.xyz").info["teacher_licence"] == 'MIT of "weights"'


def test_a_module_of_this_folder_that_is_not_found_is_told_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    (tmp_path / "only_here.py").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"No module named 'only_here'; PYTHONPATH=\. before the command finds"):
        open_teacher("only_here:teacher")
