"""Files and folders appear whole or not at all, and what the system refuses is said in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from les_plugins.errors import DataError
from les_plugins.io.files import whole_file, whole_folder


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with whole_file(path) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def _fail_halfway(path: Path, failure: BaseException) -> None:
    with whole_file(path) as file:
        file.write("half")
        raise failure


def _fill_the_disk(path: Path) -> None:
    with whole_folder(path) as begun:
        (begun / "weights").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "x"), ValueError("a bug"), KeyboardInterrupt()])
def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    expected: Any = DataError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected) as caught:
        _fail_halfway(path, failure)
    if isinstance(failure, OSError):
        assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("another's")
    link.symlink_to(target)
    with whole_file(link) as file:
        file.write("mine")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("another's", "mine", False)


def test_an_error_about_another_file_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input"), whole_file(tmp_path / "output") as file:
        file.write((tmp_path / "input").read_text())
    assert list(tmp_path.iterdir()) == []


def test_places_that_take_no_file_are_named(tmp_path: Path) -> None:
    for place, why in ((tmp_path, "it is a folder"), (tmp_path / "no" / "x", "there is no folder")):
        with pytest.raises(DataError, match=why), whole_file(place):
            pass


def test_a_device_is_written_directly() -> None:
    with whole_file("/dev/null") as file:
        file.write("gone")
    assert not Path("/dev/null").is_file()


def test_a_folder_that_failed_leaves_nothing_and_blocks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "above" / "model"
    with pytest.raises(DataError, match="No space left on device"):
        _fill_the_disk(path)
    assert list(tmp_path.iterdir()) == []
    with whole_folder(path) as begun:
        (begun / "weights").write_text("whole")
        assert not path.exists()
    assert [file.name for file in path.parent.rglob("*")] == ["model", "weights"]
    with pytest.raises(DataError, match="exists"), whole_folder(path):
        pass
