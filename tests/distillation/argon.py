"""A teacher for tests: argon by Lennard-Jones, which ASE has; small crystals of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones


class Argon(LennardJones):
    """Knows argon alone."""

    known_elements = (18,)


def teacher() -> Any:
    """What `argon:teacher` names on a command line."""
    return Argon(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True)


class Stopped(Argon):
    """Computes so many structures and is then interrupted, as by Ctrl-C."""

    left = 0

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        if not type(self).left:
            raise KeyboardInterrupt
        type(self).left -= 1
        super().calculate(*args, **kwargs)


def crystal(repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    return bulk("Ar", "fcc", 5.3, cubic=True).repeat(repeat)


def crystals(path: Path, count: int = 2) -> Path:
    ase.io.write(path, [crystal() for _ in range(count)])
    return path
