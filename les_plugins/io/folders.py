"""A folder that appears whole or not at all: written beside its place, flushed to disk, then exchanged in one step."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from les_plugins.io.files import flush

#: Folders of writers that were killed are removed by the next one when nobody has touched them for so long, s.
_ABANDONED = 60.0
#: Linux: renameat2(AT_FDCWD, …, RENAME_EXCHANGE); macOS: renamex_np(…, RENAME_SWAP).
_AT_FDCWD, _EXCHANGE = -100, 2


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of `target` when the block ends without an exception.

    Whatever stood at `target` stays as it is until then and is removed afterwards; a link there is replaced, what it
    points to is not touched. Killed at any moment, the process leaves the old folder or the new one. (On a file system
    that cannot exchange two names, there is a moment between two renames when the old one stands under a hidden name.)

    Args:
        target: the folder to write; its parents are made.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    target = Path(os.path.abspath(target))  # the parent of "." too, and no link of the last part is followed
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    new = target.with_name(f".{target.name}.{secrets.token_hex(6)}.new")
    new.mkdir()
    lock = _locked(new)
    try:
        yield new
        for file in new.iterdir():
            flush(file)
        flush(new)
        _put_in_place(new, target)
        flush(target.parent)
    finally:
        with contextlib.suppress(OSError):
            _remove(new)  # what stood there before, or what was not finished
        if lock is not None:
            os.close(lock)


def _put_in_place(new: Path, target: Path) -> None:
    """Exchange the two names; afterwards `new` is what stood at `target`, or nothing."""
    if not os.path.lexists(target):
        new.rename(target)
        return
    if _exchanged(new, target):
        return
    aside = new.with_suffix(".old")
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(new)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the operating system exchanged two names in one step."""
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(first, second, _EXCHANGE)
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _EXCHANGE)
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _remove_abandoned(target: Path) -> None:
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.new"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < _ABANDONED:
                continue
            if (lock := _locked(folder)) is not None:
                _remove(folder)
                os.close(lock)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds a lock on a folder until it is closed or the process ends; None if another holds it."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
