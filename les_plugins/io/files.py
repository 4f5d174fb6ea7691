"""Files and folders that are there whole or not at all, and the words where the system cannot write them.

Every command writes through here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from les_plugins.errors import DataError


@contextmanager
def whole_file(
    path: str | Path, mode: str = "w", newline: str | None = None, durable: bool = True, partial: Path | None = None
) -> Iterator[Any]:
    """A file that takes its name when the block ends without an error; until then an older one of that name stays.

    Args:
        path: the file; a link is replaced, not written through. Devices and pipes are written directly.
        mode: w or wb.
        newline: as of `open`.
        durable: wait for the disk itself, which outlives a power cut too.
        partial: what the file is called until it is whole; a hidden file beside it, of this process, when None.

    Yields:
        The open file.

    Raises:
        DataError: the file cannot be written; names it and says why.
    """
    place = Path(path)
    check_place(place)
    direct = place.exists() and not place.is_file()
    begun = place if direct else partial or place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        with begun.open(mode, encoding=None if "b" in mode else "utf-8", newline=newline) as file:
            yield file
            file.flush()
            if durable and not direct:
                os.fsync(file.fileno())
        if not direct:
            os.replace(begun, place)
            if durable:
                sync_folder(place.parent)
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (begun, place):
            raise  # of another file, which the block read
        raise unwritable(place, error) from None
    finally:
        if not direct:
            remove(begun)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes its name when the block ends without an error; what was begun is removed otherwise.

    Args:
        path: the folder, which must not exist; folders above it are made.

    Yields:
        The folder to write to, beside `path`.

    Raises:
        DataError: it exists or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise DataError(f"{path}: exists; choose another place")
    above = [folder for folder in path.parents if not folder.exists()]
    begun = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        begun.mkdir(parents=True)
        yield begun
        os.rename(begun, path)
        sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(begun, ignore_errors=True)
        for folder in above:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise unwritable(path, error) from None
        raise


def check_place(path: Path) -> None:
    """Raise DataError where no file can be made under that name: a folder, or no folder to put it in."""
    if path.is_dir():
        raise DataError(f"{path}: cannot be written: it is a folder")
    if not path.parent.is_dir():
        raise DataError(f"{path}: cannot be written: there is no folder {path.parent}")


def make_folder(path: Path, option: str = "") -> Path:
    """The folder, made where it is not there; DataError in words where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{option} {path}: cannot be made: {reason(error)}".lstrip()) from None
    return path


def unwritable(path: Path, error: Exception) -> DataError:
    """The error of a file that cannot be written, in words."""
    return DataError(f"{path}: cannot be written: {reason(error)}")


def reason(error: Exception) -> str:
    """What the system says of an error, without the insides of the library that it comes through."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"errno = (\d+)", str(error))):  # HDF5 hides it in its text
        number = int(found[1])
    if number is not None:
        return os.strerror(number)
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can say so."""
    with contextlib.suppress(OSError):
        flush(folder)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file that may not be there, or may not be removed."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
