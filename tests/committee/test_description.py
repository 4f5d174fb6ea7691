"""The file of a committee: members by name and hash, moved together, refused when one was changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Done
from torch import nn
from toy_host import ToyHost

from les_plugins import api
from les_plugins.committee import Committee, description
from les_plugins.errors import CheckpointError, ConfigError, HostError, LesPluginsWarning
from les_plugins.storage import zoo


@pytest.fixture
def models(tmp_path: Path, with_plugins: Callable[..., None]) -> list[str]:
    with_plugins(toy=ToyHost())
    return [str(api.save(nn.Linear(3, 1), tmp_path / f"{name}.les", "toy")) for name in ("one", "two")]


def test_members_are_read_back(models: list[str], tmp_path: Path) -> None:
    written = description.write(tmp_path / "both.committee", models)
    found = description.read(tmp_path / "both.committee")
    assert [m.weights_sha256 for m in found] == [m.weights_sha256 for m in written]
    assert [m.folder.resolve() for m in found] == [Path(model).resolve() for model in models]


def test_committee_and_members_can_be_moved_together(models: list[str], tmp_path: Path) -> None:
    description.write(tmp_path / "both.committee", models)
    shutil.copytree(tmp_path, tmp_path.parent / "elsewhere")
    shutil.rmtree(models[0])
    found = description.read(tmp_path.parent / "elsewhere" / "both.committee")
    assert all(member.folder.is_dir() for member in found)


def test_members_of_the_zoo_go_by_their_names(tmp_path: Path) -> None:
    description.write(tmp_path / "water.committee", ["water-mace", "water-nequip"])
    listed = json.loads((tmp_path / "water.committee").read_text())["members"]
    assert [entry["model"] for entry in listed] == ["water-mace", "water-nequip"]
    assert [member.host for member in description.read(tmp_path / "water.committee")] == ["mace", "nequip"]


def test_a_changed_member_is_refused(models: list[str], tmp_path: Path) -> None:
    description.write(tmp_path / "both.committee", models)
    api.save(nn.Linear(3, 1), models[1], "toy")
    with pytest.raises(CheckpointError, match=r"members\[1\].*has been changed"):
        description.read(tmp_path / "both.committee")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "zip"}, "format is 'zip'"),
        ({"version": 2}, "version is 2"),
        ({"members": "all"}, "members"),
        ({"members": [{"model": "water-mace"}, {}]}, r"members\[0\]"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "water.committee"
    description.write(path, ["water-mace", "water-nequip"])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        description.read(path)


def test_what_is_no_committee_is_refused(models: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two"):
        description.write(tmp_path / "a.committee", models[:1])
    with pytest.raises(ConfigError, match="same model"):
        description.write(tmp_path / "a.committee", [models[0], models[0]])
    with pytest.raises(ConfigError, match=r"must end in \.committee"):
        description.write(tmp_path / "a.json", models)
    with pytest.raises(CheckpointError):
        description.write(tmp_path / "a.committee", [models[0], "no-such-model"])
    assert not list(tmp_path.glob("*.committee"))


def test_a_program_is_never_taken_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "water.committee"
    description.write(path, ["water-mace", "water-nequip"])
    document = json.loads(path.read_text())
    document["members"][0]["python"] = "/bin/true"
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"members\[0\]"):
        description.read(path)


def test_a_head_cannot_be_chosen(tmp_path: Path) -> None:
    description.write(tmp_path / "water.committee", ["water-mace", "water-nequip"])
    with pytest.raises(HostError, match="has no heads"):
        api.load(tmp_path / "water.committee", head="first")


def test_command_writes_the_file_and_keeps_what_is_there(
    tmp_path: Path, les_plugins_command: Callable[..., Done]
) -> None:
    path = tmp_path / "water.committee"
    done = les_plugins_command("committee", "water-mace", "water-nequip", "-o", path, "--json")
    assert done.code == 0
    assert [member["host"] for member in json.loads(done.output)["members"]] == ["mace", "nequip"]
    before = path.read_bytes()
    assert les_plugins_command("committee", "water-mace", "water-nequip", "-o", path).code == 1
    assert path.read_bytes() == before


def test_command_says_what_members_have_not_in_common(tmp_path: Path, les_plugins_command: Callable[..., Done]) -> None:
    members = ("water-mace-pairs", "mapbi3-mace")
    with pytest.warns(LesPluginsWarning) as caught:
        done = les_plugins_command("committee", *members, "-o", tmp_path / "both.committee")
    assert done.code == 0
    elements, screening = [str(each.message) for each in caught]
    assert "water-mace-pairs H, O; mapbi3-mace C, H, I, N, Pb): they have H in common" in elements
    epsilons = [zoo.entry(member).config["epsilon_infinity"] for member in members]
    assert f"water-mace-pairs {epsilons[0]:.4g}, mapbi3-mace {epsilons[1]:.4g}" in screening


def test_load_takes_the_file(models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_calculator import Toy

    description.write(tmp_path / "both.committee", models)
    monkeypatch.setattr(ToyHost, "calculator", lambda self, model, metadata, device: Toy())
    found = api.load(tmp_path / "both.committee")
    assert isinstance(found, Committee)
    assert found.names == ["one.les", "two.les"]
    assert len(api.load_committee(models).members) == 2
