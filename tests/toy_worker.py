"""The process of a committee's member, with the toy in the place of a checkpoint: `python -m toy_worker`."""

from __future__ import annotations

import os
import warnings
from typing import Any

from ase import Atoms
from charged_toys import ChargedToy
from toy_calculator import Toy

from les_plugins import api
from les_plugins.engines import worker
from les_plugins.errors import CheckpointError, LesPluginsWarning


class RemoteToy(Toy):
    """A toy that dies when it sees three atoms fewer than it can bear, and warns of a pair."""

    has_long_range, takes_total_charge, epsilon_infinity = True, False, 1.0
    always: tuple[str, ...] = ()

    def calculate(self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
        assert atoms is not None
        print("what a host prints")  # noqa: T201 (on stdout, which carries the messages)
        if len(atoms) == 1:
            os._exit(3)
        if len(atoms) == 2:
            warnings.warn("a pair", LesPluginsWarning, 1)
        super().calculate(atoms, properties, system_changes)

    def current(self, velocities: Any, atoms: Atoms | None = None) -> Any:
        return self.results["charges"] @ velocities


class RemoteIons(ChargedToy):
    """A toy that reads charges and says what it does not read."""

    def calculate(self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
        assert atoms is not None
        self.caution(atoms)
        super().calculate(atoms, properties, system_changes)


def load(path: str, device: str = "cpu", head: str | None = None, dtype: str | None = None) -> Any:
    """A toy whose spring is the name of its checkpoint, one that reads charges with that word before it."""
    try:
        kind = RemoteIons if path.startswith("charged ") else RemoteToy
        return kind(spring=float(path.removeprefix("charged ")))
    except ValueError:
        raise CheckpointError(f"{path} is not a checkpoint") from None


if __name__ == "__main__":
    api.load = load
    worker.main()
