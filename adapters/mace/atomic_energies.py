"""Energies of isolated atoms, the zero of MACE's energies: from frames or from E0s, for every element. For data.py."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.data import chemical_symbols

from les_plugins.data import frames
from les_plugins.data.labels import shaped
from les_plugins.data.training import TrainedLabel
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning

#: `config_type` of the frames that MACE takes the energies of isolated atoms from.
ISOLATED = "IsolatedAtom"
#: Energies of one element are equal within, eV.
_SAME = 1e-6


def check_zero_of_energy(
    args: Any,
    head: Mapping[str, Any],
    energy: TrainedLabel,
    isolated: Sequence[tuple[Path, int, Atoms]],
    trained: Mapping[tuple[Path, int], Atoms],
    needed: set[int],
    where: str,
) -> None:
    """Energies of isolated atoms, from frames where there are any, otherwise from E0s, for every element.

    Args:
        args, head: MACE's options and those of a head.
        energy: the label of energies.
        isolated: frames of isolated atoms, with file and number.
        trained: frames that are trained on, by file and number.
        needed: atomic numbers of the model.
        where: the beginning of messages.

    Raises:
        DataError: frames of isolated atoms that lack an energy or an element, or disagree.
        ConfigError: E0s that MACE cannot use.
    """
    given = head.get("E0s", args.E0s)
    if isolated:
        _check_isolated(energy, isolated)
        if missing := needed - {int(atoms.numbers[0]) for *_, atoms in isolated}:
            raise DataError(
                f"{isolated[0][0]}: has isolated atoms (config_type={ISOLATED}), but none of {_symbols(missing)}: "
                "MACE takes the energies of all elements from such frames as soon as there is one"
            )
        surplus = {int(atoms.numbers[0]) for *_, atoms in isolated} - needed
        _check_surplus(surplus, args, f"{isolated[0][0]}: config_type={ISOLATED}")
        if given is not None and not replays(args):
            warnings.warn(
                f"{where}E0s is {given!r}, but {isolated[0][0]} has isolated atoms, from which MACE takes them",
                LesPluginsWarning,
                4,
            )
    elif given is None:
        if head.get("statistics_file", args.statistics_file) is None:
            raise ConfigError(
                f"{where}E0s is missing; allowed: average, a mapping from atomic numbers to eV, the name of a .json "
                f"file, or frames of isolated atoms (config_type={ISOLATED}) in the training file"
            )
    elif str(given).lower() == "average":
        if replays(args):
            raise ConfigError(
                f"{where}E0s is 'average', which MACE does not take with multiheads_finetuning; allowed: foundation, "
                "estimated, a mapping from atomic numbers to eV, or multiheads_finetuning: false"
            )
        lacking = [f"{path}, frame {number}" for (path, number), atoms in trained.items() if energy.read(atoms) is None]
        if lacking:
            raise DataError(
                f"{lacking[0]}: has no {energy.key!r} (energy_key; {len(lacking)} of {len(trained)} frames): E0s: "
                "average needs the energy of every training frame"
            )
    elif str(given).lower() in ("foundation", "estimated"):
        if args.foundation_model is None:
            raise ConfigError(f"{where}E0s is {given!r}, which takes them from a foundation_model; none is given")
    else:
        known = _listed(given, f"{where}E0s")
        if missing := needed - known:
            raise ConfigError(f"{where}E0s is {given!r}: has no energy of {_symbols(missing)}")
        _check_surplus(known - needed, args, f"{where}E0s")


def _check_isolated(energy: TrainedLabel, isolated: Sequence[tuple[Path, int, Atoms]]) -> None:
    """MACE takes zero where there is no energy, and the last one of several."""
    found: dict[str, tuple[float, str]] = {}
    for path, number, atoms in isolated:
        where, element = f"{path}, frame {number}", str(atoms.symbols)
        if (value := energy.read(atoms)) is None:
            raise DataError(
                f"{where}: is an isolated atom (config_type={ISOLATED}) without {energy.key!r} "
                f"(energy_key): MACE would take 0 eV for all {element}; it holds: "
                f"{', '.join(sorted(frames.label_names(atoms)))}"
            )
        here = float(shaped("energy", value, 1, f"{where}: {energy.key}"))
        other, first = found.setdefault(element, (here, where))
        if abs(here - other) > _SAME:
            raise DataError(
                f"{where}: is an isolated atom (config_type={ISOLATED}) of {element} with {here:g} eV, the one of "
                f"{first} has {other:g} eV: MACE would take the last one; leave one for each element"
            )


def _listed(given: Any, where: str) -> set[int]:
    """Atomic numbers of a mapping of energies, or of the JSON file that holds it."""
    if str(given).endswith(".json"):
        try:
            energies = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{where} is {given!r}, which cannot be read as JSON: {error}") from None
        where = f"{where}: {given}"
        energies = literal(energies, dict, where)
        energies = {int(z) if str(z).isdecimal() else z: energy for z, energy in energies.items()}
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


def literal(given: Any, kind: type, where: str) -> Any:
    """An option that MACE reads as Python, or ConfigError."""
    try:
        value = ast.literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, kind):
        raise ConfigError(f"{where} is {given!r}; expected a {kind.__name__}")
    return value


def replays(args: Any) -> bool:
    """Whether MACE trains a second head on data of the foundation model, as it decides it."""
    own = args.foundation_model in ("small", "medium", "large")
    return bool(
        args.foundation_model is not None and args.multiheads_finetuning and (own or args.pt_train_file is not None)
    )


def _symbols(numbers: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))
