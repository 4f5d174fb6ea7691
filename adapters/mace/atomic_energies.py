"""Energies of isolated atoms, the zero of MACE's energies: from frames or from E0s, for every element. For data.py."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import chemical_symbols

from les_plugins.adapters.mace.heads import Head, literal, replays
from les_plugins.data import frames
from les_plugins.data.labels import shaped
from les_plugins.data.training import TrainedLabel
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning

#: `config_type` of the frames that MACE takes the energies of isolated atoms from.
ISOLATED = "IsolatedAtom"
#: Energies of one element are equal within, eV.
_SAME = 1e-6


def check_zero_of_energy(
    head: Head, isolated: Mapping[str, Atoms], trained: Mapping[str, Atoms], needed: set[int]
) -> None:
    """Energies of isolated atoms, from frames where there are any, otherwise from E0s, for every element.

    Args:
        head: its options.
        isolated: frames of isolated atoms, by their place in the files.
        trained: frames that are trained on, by their place.
        needed: atomic numbers of the model.

    Raises:
        DataError: frames of isolated atoms that lack an energy or an element, or disagree.
        ConfigError: E0s that MACE cannot use.
    """
    given, where = head.option("E0s"), f"{head.where}E0s"
    if isolated:
        elements = _elements_with_energy(head.energy(), isolated)
        first = next(iter(isolated))
        if missing := needed - elements:
            raise DataError(
                f"{first}: is an isolated atom (config_type={ISOLATED}), but there is none of {_symbols(missing)}: "
                "MACE takes the energies of all elements from such frames as soon as there is one"
            )
        _check_surplus(elements - needed, head.args, f"{first}: config_type={ISOLATED}")
        if given is not None and not replays(head.args):
            text = f"{where} is {given!r}, but there are isolated atoms ({first}), from which MACE takes them"
            warnings.warn(text, LesPluginsWarning, 4)
    elif given is None:
        if head.option("statistics_file") is None:
            raise ConfigError(
                f"{where} is missing; allowed: average, a mapping from atomic numbers to eV, the name of a .json "
                f"file, or frames of isolated atoms (config_type={ISOLATED}) in the training file"
            )
    elif str(given).lower() == "average":
        _check_average(head, trained, where)
    elif str(given).lower() in ("foundation", "estimated"):
        if head.args.foundation_model is None:
            raise ConfigError(f"{where} is {given!r}, which takes them from a foundation_model; none is given")
    else:
        known = _listed(given, where)
        if missing := needed - known:
            raise ConfigError(f"{where} is {given!r}: has no energy of {_symbols(missing)}")
        _check_surplus(known - needed, head.args, where)


def _elements_with_energy(energy: TrainedLabel, isolated: Mapping[str, Atoms]) -> set[int]:
    """MACE takes zero where there is no energy, and the last one of several."""
    found: dict[int, tuple[float, str]] = {}
    for place, atoms in isolated.items():
        element, isolated_atom = str(atoms.symbols), f"{place}: is an isolated atom (config_type={ISOLATED})"
        if (value := energy.read(atoms)) is None:
            raise DataError(
                f"{isolated_atom} without {energy.key!r} (energy_key): MACE would take 0 eV for all {element}; "
                f"it holds: {', '.join(sorted(frames.label_names(atoms)))}"
            )
        here = float(shaped("energy", value, 1, f"{place}: {energy.key}"))
        other, first = found.setdefault(int(atoms.numbers[0]), (here, place))
        if abs(here - other) > _SAME:
            raise DataError(
                f"{isolated_atom} of {element} with {here:g} eV, the one of {first} has {other:g} eV: "
                "MACE would take the last one; leave one for each element"
            )
    return set(found)


def _check_average(head: Head, trained: Mapping[str, Atoms], where: str) -> None:
    """An average over frames takes a missing energy for zero."""
    if replays(head.args):
        raise ConfigError(
            f"{where} is 'average', which MACE does not take with multiheads_finetuning; allowed: foundation, "
            "estimated, a mapping from atomic numbers to eV, or multiheads_finetuning: false"
        )
    energy = head.energy()
    if lacking := [place for place, atoms in trained.items() if energy.read(atoms) is None]:
        raise DataError(
            f"{lacking[0]}: has no {energy.key!r} (energy_key; {len(lacking)} of {len(trained)} frames): E0s: average "
            "needs the energy of every training frame"
        )


def _listed(given: Any, where: str) -> set[int]:
    """Atomic numbers of a mapping of energies, or of the JSON file that holds it."""
    if str(given).endswith(".json"):
        try:
            found = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where} is {given!r}, which cannot be read as JSON: {error}") from None
        where = f"{where}: {given}"
        energies = {int(z) if z.isdecimal() else z: energy for z, energy in literal(found, dict, where).items()}
    else:
        energies = literal(given, dict, where)
    for z, energy in energies.items():
        number = isinstance(z, int) and 0 < z < len(chemical_symbols)
        if not number or not isinstance(energy, int | float) or not math.isfinite(energy):
            raise ConfigError(f"{where} has {z!r}: {energy!r}; expected atomic numbers and their energies in eV")
    return set(energies)


def _check_surplus(surplus: set[int], args: Any, where: str) -> None:
    """MACE's table of energies has a column for each of them, its models only for the elements of the data."""
    if surplus and args.foundation_model is None and not args.heads:
        ways = "take them out, or name all elements in atomic_numbers"
        raise ConfigError(f"{where} has energies of {_symbols(surplus)}, which the data do not have; {ways}")


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))
