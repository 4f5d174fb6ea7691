"""Names of a host's modules that stand for ours while its trainer runs: for hosts without a plugin point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def substituted(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Within it, a name of a module is bound to another value; afterwards to its own again, whatever happens.

    A module is one for all threads: a caller that substitutes for longer than one call holds a lock of its own.

    Raises:
        AttributeError: the module has no such name.
    """
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
