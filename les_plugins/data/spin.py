"""Spins that structures bring. No model of les-plugins reads one, so all but the lowest are refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import numpy as np
from ase import Atoms

from les_plugins.data.given_charge import NAMES, number_in
from les_plugins.errors import DataError, LesPluginsWarning

#: Names under which files and programs keep the spin of a structure, and its values there for a closed shell; `spin` is
#: 2S + 1 in some programs and 2S in others.
CLOSED_SHELL = {"spin": (0.0, 1.0), "total_spin": (0.0, 1.0), "multiplicity": (1.0,), "spin_multiplicity": (1.0,)}
#: The values for one unpaired electron, the fewest that an odd number of electrons has; S itself is among them.
ONE_UNPAIRED = {
    "spin": (0.5, 1.0, 2.0),
    "total_spin": (0.5, 1.0, 2.0),
    "multiplicity": (2.0,),
    "spin_multiplicity": (2.0,),
}


def spins_of(atoms: Atoms) -> Iterator[tuple[str, float]]:
    """The names in `info` that hold a spin, each with its value."""
    for name in CLOSED_SHELL:
        if (value := number_in(atoms.info.get(name))) is not None:
            yield name, value


def open_shell(atoms: Atoms) -> str | None:
    """What in a structure says that its spin is not that of a closed shell; None where nothing does."""
    for name, value in spins_of(atoms):
        if value not in CLOSED_SHELL[name]:
            return f"info[{name!r}] = {value:g}"
    return None


def higher_spin(atoms: Atoms) -> str | None:
    """What in a structure says that its spin is not the lowest that its electrons allow; None where nothing does.

    The lowest is a closed shell, or one unpaired electron for an odd number of electrons: that of the elements less the
    total charge which the structure brings. With a broken charge both are taken for lowest.
    """
    for name, value in spins_of(atoms):
        if value not in CLOSED_SHELL[name] and not (value in ONE_UNPAIRED[name] and _may_be_odd(atoms)):
            return f"info[{name!r}] = {value:g}"
    return None


def refuse_higher_spin(atoms: Atoms, where: str = "structure") -> None:
    """For models that read no spin: a triplet would get the energy of whatever the model was trained on.

    Args:
        atoms: the structure.
        where: its name in messages.

    Raises:
        DataError: a spin other than the lowest that its electrons allow.
    """
    if (spin := higher_spin(atoms)) is not None:
        raise DataError(
            f"{where}: has {spin}, a spin, which this model does not read; allowed: the lowest multiplicity of its "
            "electrons, or none in info, where every frame that the model was trained on had this one"
        )


def check_spins(frames: Iterable[tuple[str, Atoms]]) -> None:
    """Look at the spins of training data: the model cannot tell two of one composition and charge apart.

    Args:
        frames: with the place of each, such as `ions.xyz, frame 3`.

    Raises:
        DataError: two frames of the same elements and charge with two values under one name.

    Warns:
        LesPluginsWarning: spins other than the lowest.
    """
    seen: dict[tuple[object, ...], tuple[str, float]] = {}
    count, higher = 0, []
    for place, atoms in frames:
        count += 1
        higher += [f"{place}: {spin}" for spin in [higher_spin(atoms)] if spin is not None]
        for name, value in spins_of(atoms):
            first, other = seen.setdefault((name, _charge(atoms), np.sort(atoms.numbers).tobytes()), (place, value))
            if other != value:
                raise DataError(
                    f"{place}: has info[{name!r}] = {value:g}, and {first} of the same elements and charge {other:g}; "
                    "no model of les-plugins reads a spin, so none can learn both; allowed: one of them"
                )
    if higher:
        text = f"{len(higher)} of {count} frames have a spin, which the model does not read ({higher[0]})"
        warnings.warn(text, LesPluginsWarning, stacklevel=3)


def _charge(atoms: Atoms) -> float:
    """The total charge as far as `info` has a number for it, which a model that reads none does not insist on."""
    return next((charge for name in NAMES if (charge := number_in(atoms.info.get(name))) is not None), 0.0)


def _may_be_odd(atoms: Atoms) -> bool:
    electrons = float(np.sum(atoms.numbers)) - _charge(atoms)
    return not electrons.is_integer() or electrons % 2 == 1
