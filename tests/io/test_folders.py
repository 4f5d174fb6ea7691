"""A folder that is replaced as a whole: it is the old one or the new one, whenever the writer is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from les_plugins.io import folders
from les_plugins.io.folders import replacing

OLD, NEW = {"a": "old a", "b": "old b"}, {"a": "new a", "b": "new b", "c": "new c"}
#: What CPython announces before it touches a file system.
TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "ctypes.call_function")


def write(target: Path, files: dict[str, str]) -> None:
    with replacing(target) as new:
        for name, text in files.items():
            (new / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {item.name: item.read_text() for item in folder.iterdir()}


def killed_at(operation: int, run: Callable[[], object]) -> bool:
    """Whether a process that does something was killed before its n-th operation on files, rather than at its end."""
    child = os.fork()
    if child == 0:
        left = operation

        def watch(event: str, _: object) -> None:
            nonlocal left
            if event in TOUCHES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_folder_is_made_with_its_parents_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model.les"
    write(target, OLD)
    assert content(target) == OLD
    write(target, NEW)
    assert content(target) == NEW
    assert os.listdir(target.parent) == ["model.les"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "model.les", OLD)
    for target in (tmp_path / "model.les", tmp_path / "other.les"):
        with pytest.raises(FileNotFoundError):
            write(target, {"a": "half", "no such folder/b": ""})
    assert os.listdir(tmp_path) == ["model.les"]
    assert content(tmp_path / "model.les") == OLD


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("exists", [True, False])
def test_a_kill_at_any_operation_leaves_the_old_or_the_new_folder(tmp_path: Path, exists: bool) -> None:
    seen, operation = set(), 0
    while True:
        place = tmp_path / str(operation)
        target = place / "model.les"
        if exists:
            write(target, OLD)
        killed = killed_at(operation, lambda target=target: write(target, NEW))
        found = content(target) if target.exists() else None
        assert found in ([OLD, NEW] if exists else [None, NEW]), operation
        seen.add("new" if found == NEW else "old")
        write(target, OLD)  # the next writer is not in anybody's way
        if not killed:
            break
        operation += 1
    assert seen == {"old", "new"}
    assert operation > 10


@pytest.mark.parametrize("exchange", [True, False])
def test_links_are_replaced_and_never_written_through(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "a").symlink_to(tmp_path / "mine" / "a")
    for name in ("link", "dangling", "inside"):
        write(tmp_path / name, NEW)
        assert not (tmp_path / name).is_symlink()
        assert content(tmp_path / name) == NEW
    assert content(tmp_path / "mine") == {"a": "precious"}
    assert sorted(os.listdir(tmp_path)) == ["dangling", "inside", "link", "mine"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    target = tmp_path / "model [1].les"
    left = tmp_path / ".model [1].les.0123.new"
    left.mkdir()
    (left / "a").write_text("half")
    long_ago = time.time() - 1000.0
    os.utime(left, (long_ago, long_ago))
    with replacing(target) as new:
        assert not left.exists()
        os.utime(new, (long_ago, long_ago))
        write(target, OLD)  # another one, meanwhile
        assert new.exists()
        (new / "a").write_text("last")
    assert content(target) == {"a": "last"}
