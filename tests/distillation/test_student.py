"""A student's training file: sets without overlap, a section that is allowed, the zero of energy as it was found."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import argon
import ase.io
import pytest
import yaml

from les_plugins.distillation.energies import ZeroOfEnergy, zero_of_energy
from les_plugins.distillation.labelling import label_frames
from les_plugins.distillation.student import HOSTS, Student
from les_plugins.distillation.teachers import open_teacher
from les_plugins.distillation.training_file import TrainingFile, split
from les_plugins.errors import ConfigError, DataError
from les_plugins.hosting.build import parse_section


@pytest.fixture
def frames(tmp_path):
    found = [argon.crystal() for _ in range(10)]
    for number, atoms in enumerate(found):
        atoms.rattle(0.05, seed=number)
    return label_frames(open_teacher("argon:teacher"), found, tmp_path, "frames")


def section_of(config):
    return config.get("long_range") or config["training_module"]["model"]["long_range"]


def test_the_sets_share_no_frame_and_lose_none(frames, tmp_path):
    asked = TrainingFile("mace", tmp_path / "s.yaml", valid_fraction=0.2, seed=3)
    texts, written = asked.files(frames, tmp_path / "data.xyz", open_teacher("argon:teacher"))
    (train, first), (valid, second) = written.train, written.valid
    assert (train.name, valid.name) == ("data-train.xyz", "data-valid.xyz")
    assert (first, second) == (8, 2)
    energies = [a.get_potential_energy() for path in (train, valid) for a in read(texts[path])]
    assert sorted(energies) == pytest.approx(sorted(a.get_potential_energy() for a in frames), abs=1e-9)


def read(text):
    return ase.io.read(io.StringIO(text), ":", format="extxyz")


def test_every_element_is_in_the_training_set(frames):
    for seed in range(20):
        some = [atoms.copy() for atoms in frames]
        for number, z in ((3, 10), (6, 36), (7, 36)):  # one frame with neon, two with krypton
            some[number].numbers[0] = z
        train, valid = split(some, 0.4, seed)
        assert len(valid) == 4
        assert {z for atoms in train for z in atoms.numbers} == {10, 18, 36}


def test_frames_of_which_each_has_its_own_element_cannot_be_split(frames):
    frames[0].numbers[0], frames[1].numbers[0] = 10, 36
    with pytest.raises(DataError, match="every frame has an element that no other has"):
        split(frames[:2], 0.5, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.99, float("nan")])
def test_a_part_that_leaves_nothing_is_an_error(frames, fraction):
    with pytest.raises(ConfigError, match=f"--valid-fraction is {fraction}"):
        split(frames, fraction, 0)


def test_one_frame_cannot_be_split(frames):
    with pytest.raises(DataError, match="there is 1 frame; two sets need at least two"):
        split(frames[:1], 0.5, 0)


@pytest.mark.parametrize("host", HOSTS)
def test_the_file_has_a_section_that_is_allowed_and_the_zero_of_energy(frames, tmp_path, host):
    student = Student("student", tmp_path / "t.xyz", tmp_path / "v.xyz", frames, zero_of_energy(frames), True)
    student = replace(student, epsilon_infinity=2.5)
    text = student.text(host, ["a line\nin two"])
    config = yaml.safe_load(text)
    section = parse_section(section_of(config), "student.yaml: long_range")
    assert (section.epsilon_infinity, section.total_charge) == (2.5, "conserved")
    assert text.startswith("# a line in two\n")
    assert "stress" in text
    assert f"{student.zero.energies['Ar']:.6f}" in text
    assert "restart_latest" not in config  # a second round under this name would go on with the first


def test_without_stress_labels_nothing_is_said_of_stress(frames):
    student = Student("s", Path("t"), Path("v"), frames, ZeroOfEnergy({"Ar": 0.0}, "isolated", 0.0), False)
    for host in HOSTS:
        assert "stress" not in student.text(host).lower()


def of_host(host, frames, tmp_path):
    """The training file of a host and the frames of its sets."""
    path = tmp_path / "s.yaml"
    texts, written = TrainingFile(host, path).files(frames, tmp_path / "d.xyz", open_teacher("argon:teacher"))
    return yaml.safe_load(texts[path]), [a for s in (written.train, written.valid) for a in read(texts[s[0]])], written


def test_frames_without_stress_are_masked_or_told(tmp_path):
    some = [argon.crystal() for _ in range(6)]
    for number, atoms in enumerate(some):
        atoms.rattle(0.05, seed=number)
        atoms.pbc = [True, True, number % 2 == 0]
    frames = label_frames(open_teacher("argon:teacher"), some, tmp_path, "frames")
    config, sets, written = of_host("mace", frames, tmp_path)
    assert config["loss"] == "stress"
    weights = [(bool(atoms.pbc.all()), atoms.info.get("config_stress_weight")) for atoms in sets]
    assert sorted(weights, key=str) == [(False, 0.0)] * 3 + [(True, None)] * 3
    assert written.notes == ("3 of 6 frames, open or slabs, have no stress: its loss is of the others",)
    config, _, written = of_host("nequip", frames, tmp_path)
    assert set(config["training_module"]["loss"]["coeffs"]) == {"total_energy", "forces"}
    assert config["data"]["exclude_keys"] == ["stress"]
    assert written.notes[0].endswith("have no stress: nequip cannot leave them out, and trains on none")


@pytest.mark.parametrize("host", HOSTS)
def test_charged_frames_give_a_student_that_reads_total_charges(frames, tmp_path, host):
    frames[4].info["charge"] = -1.0
    config, sets, _ = of_host(host, frames, tmp_path)
    section = parse_section(section_of(config), "s.yaml: long_range")
    assert section.total_charge == "given"
    assert sorted(atoms.info["charge"] for atoms in sets) == [-1.0] + [0.0] * 9
    if host == "nequip":
        assert config["data"]["include_keys"] == ["charge"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "mce"}, r"'mce' \(did you mean 'mace'\?\); allowed: mace, nequip"),
        ({"valid_fraction": 0.0}, "--valid-fraction is 0.0"),
        ({"epsilon_infinity": 0.5}, "--epsilon-infinity is 0.5"),
        ({"epsilon_infinity": float("nan")}, "--epsilon-infinity is nan"),
        ({"seed": -1}, "--seed is -1; allowed: 0 or more"),
    ],
)
def test_what_cannot_be_is_an_error_before_there_are_frames(changes, said):
    with pytest.raises(ConfigError, match=said):
        TrainingFile(**{"host": "mace", "path": Path("s.yaml"), **changes})


def test_a_training_file_is_no_file_of_frames(tmp_path):
    with pytest.raises(ConfigError, match=r"d-train\.xyz is a file of frames"):
        TrainingFile("mace", tmp_path / "d-train.xyz").places(tmp_path / "d.xyz")


def test_the_header_gives_the_command_as_it_is_run_where_the_file_was_written(frames):
    texts, written = TrainingFile("mace", Path("cfg/my file.yaml")).files(
        frames, Path("out/d.xyz"), open_teacher("argon:teacher")
    )
    text = texts[Path("cfg/my file.yaml")]
    assert "# train: les-plugins train mace --config 'cfg/my file.yaml'\n# in the folder where" in text
    assert yaml.safe_load(text)["train_file"] == "out/d-train.xyz"
    assert written.command == "les-plugins train mace --config 'cfg/my file.yaml'"
