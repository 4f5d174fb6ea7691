"""A student's training file: sets without overlap, a section that is allowed, the zero of energy as it was found."""

from __future__ import annotations

from pathlib import Path

import argon
import ase.io
import pytest
import yaml

from les_plugins.distillation.energies import ZeroOfEnergy, zero_of_energy
from les_plugins.distillation.labelling import label_frames
from les_plugins.distillation.student import HOSTS, Student, split, write_config
from les_plugins.distillation.teachers import open_teacher
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
    (train, first), (valid, second) = split(frames, tmp_path / "data.xyz", 0.2, 3)
    assert (train.name, valid.name) == ("data-train.xyz", "data-valid.xyz")
    assert (len(first), len(second)) == (8, 2)
    energies = [a.get_potential_energy() for path in (train, valid) for a in ase.io.read(path, ":")]
    assert sorted(energies) == pytest.approx(sorted(a.get_potential_energy() for a in frames), abs=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.99])
def test_a_part_that_leaves_nothing_is_an_error(frames, tmp_path, fraction):
    with pytest.raises(ConfigError, match=f"--valid-fraction is {fraction}"):
        split(frames, tmp_path / "data.xyz", fraction, 0)


def test_one_frame_cannot_be_split(frames, tmp_path):
    with pytest.raises(DataError, match="has 1 frame; two sets need at least two"):
        split(frames[:1], tmp_path / "data.xyz", 0.5, 0)


@pytest.mark.parametrize("host", HOSTS)
def test_the_file_has_a_section_that_is_allowed_and_the_zero_of_energy(frames, tmp_path, host):
    student = Student(
        "student", tmp_path / "t.xyz", tmp_path / "v.xyz", frames, zero_of_energy(frames, "least-squares"), True, 2.5
    )
    write_config(host, tmp_path / "student.yaml", student, ["a line"])
    text = (tmp_path / "student.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    section = parse_section(section_of(config), "student.yaml: long_range")
    assert (section.epsilon_infinity, section.total_charge) == (2.5, "conserved")
    assert text.startswith("# a line\n")
    assert "stress" in text
    assert f"{student.zero.energies['Ar']:.6f}" in text


def test_without_stress_labels_nothing_is_said_of_stress(frames, tmp_path):
    student = Student("s", Path("t"), Path("v"), frames, ZeroOfEnergy({"Ar": 0.0}, "isolated", 0.0), False)
    for host in HOSTS:
        write_config(host, tmp_path / "s.yaml", student)
        assert "stress" not in (tmp_path / "s.yaml").read_text(encoding="utf-8").lower()


def test_an_unknown_host_is_an_error(frames, tmp_path):
    student = Student("s", Path("t"), Path("v"), frames, ZeroOfEnergy({"Ar": 0.0}, "isolated", 0.0), False)
    with pytest.raises(ConfigError, match=r"'mce' \(did you mean 'mace'\?\); allowed: mace, nequip"):
        write_config("mce", tmp_path / "s.yaml", student)
