"""Members that share a base are named when a committee is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Done
from safetensors.torch import save_file

from les_plugins.committee.description import Member
from les_plugins.committee.shared_base import shared_bases
from les_plugins.errors import CheckpointError


def member(folder: Path, base: float, head: float, host: str = "toy", dtype: torch.dtype = torch.float64) -> Member:
    """A checkpoint of which the weights alone are read."""
    folder.mkdir()
    tensors = {
        "base.weight": torch.tensor([base, 1.0], dtype=dtype),
        "part.0.gauge": torch.ones(()),
        "part.0.heads.weight": torch.tensor([head]),
    }
    save_file(tensors, folder / "weights.safetensors")
    return Member(folder.name, folder, host, "", "")


def test_members_that_differ_in_the_long_range_part_alone_have_one_base(tmp_path: Path) -> None:
    one, two = (member(tmp_path / name, 0.5, head) for name, head in (("one", 1.0), ("two", 2.0)))
    other = member(tmp_path / "other", 0.5000001, 1.0)
    assert shared_bases([one, other, two]) == [[one, two]]


def test_equal_numbers_of_another_host_or_type_are_another_base(tmp_path: Path) -> None:
    members = [
        member(tmp_path / "one", 0.5, 1.0),
        member(tmp_path / "host", 0.5, 1.0, host="other"),
        member(tmp_path / "single", 0.5, 1.0, dtype=torch.float32),
    ]
    assert shared_bases(members) == []


def test_models_without_a_long_range_part_have_no_base(tmp_path: Path) -> None:
    members = [member(tmp_path / name, 0.5, 1.0) for name in ("one", "two")]
    for each in members:
        save_file({"base.weight": torch.ones(2)}, each.folder / "weights.safetensors")
    assert shared_bases(members) == []


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = member(tmp_path / "broken", 0.5, 1.0)
    (broken.folder / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"broken.weights\.safetensors cannot be read"):
        shared_bases([broken])


def test_the_command_says_which_models_share_one(
    tmp_path: Path, les_plugins_command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("les_plugins.committee.shared_base.shared_bases", lambda members: [list(members)])
    done = les_plugins_command("committee", "water-mace", "water-nequip", "-o", tmp_path / "both.committee")
    assert "water-mace, water-nequip have one base" in done.output
    done = les_plugins_command("committee", "water-mace", "water-nequip", "-o", tmp_path / "json.committee", "--json")
    assert json.loads(done.output)["shared_base"] == [["water-mace", "water-nequip"]]
