"""One run at a time on an output. `run` holds the lock from before its first step to after its last."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from les_plugins.errors import DataError, LesPluginsWarning
from les_plugins.io.files import check_place, reason, remove, unwritable

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Hold an output, whether it exists yet or not, against other runs on this and, where NFS locks, other machines.

    The lock is the system's, on a hidden file beside the output: it ends with the process, however that ends.

    Raises:
        DataError: another run holds it; the folder cannot be written.
    """
    check_place(output)
    path = output.with_name(f".{output.name}.lock")
    descriptor = _locked(path, output)
    try:
        yield
    finally:
        remove(path)  # before the lock is given back: who gets it then sees that the file is no longer the named one
        os.close(descriptor)


def _locked(path: Path, output: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise unwritable(output, error) from None
        try:
            lock(descriptor, output)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # its last holder has removed it in the meantime
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def lock(descriptor: int, output: Path) -> None:
    """Lock an open file against other runs; a file system without locks gives a warning.

    Raises:
        DataError: another run holds it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataError(f"{output}: another run is writing to it") from None
    except OSError as error:
        warnings.warn(
            f"{output}: this file system has no locks ({reason(error)}): see to it that no other run writes there",
            LesPluginsWarning,
            stacklevel=2,
        )
