"""Total charges that structures bring, read or said not to be (theory 5.4). Calculators and commands call this."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable

import numpy as np
from ase import Atoms

from les_plugins.errors import DataError, LesPluginsWarning, quoted

#: Names under which files and programs keep the total charge of a structure.
NAMES = ("charge", "total_charge")
#: What is like one of them, in small letters without anything between: none is read, and none is passed over.
_LIKE_NAMES = ("charge", "totalcharge", "netcharge", "systemcharge", "molecularcharge", "qtot")
#: e an atom: no ion has more, and what is beyond is no charge of a structure.
MOST_PER_ATOM = 10.0
#: e, from which on a charge counts as given: rounded partial charges of a force field do not add up to zero exactly.
SMALLEST_CHARGE = 0.01


def total_charge_of(atoms: Atoms, where: str = "structure", key: str | None = None) -> float:
    """The total charge, e, that a structure brings in `info['charge']` or `info['total_charge']`; 0 without either.

    It need not be a whole number.

    Args:
        atoms: the structure.
        where: its name in messages.
        key: a third name that it may stand under, as `total_charge_key` of MACE.

    Raises:
        DataError: no finite real number, two that differ, more than `MOST_PER_ATOM` an atom, or a charge under another
            spelling of these names alone.
    """
    found = {name: charge_under(name, atoms, where) for name in _names(key) if atoms.info.get(name) is not None}
    if len(set(found.values())) > 1:
        both = " and ".join(f"info[{name!r}] = {value:g}" for name, value in found.items())
        raise DataError(f"{where}: {both} are two total charges of one structure; allowed: one, or the same twice")
    if not found and (other := misspelt_charge(atoms)) is not None:
        raise DataError(
            f"{where}: has info[{other!r}] = {quoted(atoms.info[other])}, which is not read as its total charge; "
            "allowed: info['charge'] or info['total_charge'], 0 for a neutral structure"
        )
    return next(iter(found.values()), 0.0)


def misspelt_charge(atoms: Atoms) -> str | None:
    """The name in `info` that is like those of a total charge and is none of them; None where one of them is there.

    A name counts with whatever capitals, underscores, prefix `REF` or slip of a letter, where it holds one value other
    than zero.
    """
    if brings_charge(atoms):
        return None
    for name, value in atoms.info.items():
        plain = re.sub("[^a-z]", "", str(name).lower()).removeprefix("ref")
        is_like = bool(difflib.get_close_matches(plain, _LIKE_NAMES, 1, 0.85))
        if is_like and value is not None and np.size(np.asarray(value, dtype=object)) == 1 and number_in(value) != 0.0:
            return str(name)
    return None


def charge_read(calculator: object, atoms: Atoms, where: str = "structure") -> float:
    """The total charge, e, that a calculator evaluates a structure with: its own where the structure brings none.

    That which the structure brings, where the calculator does not read any.

    Raises:
        DataError: as `total_charge_of`, of a calculator that reads it.
    """
    if not getattr(calculator, "takes_total_charge", False):
        return charge_for_graph(atoms)
    return float(getattr(calculator, "total_charge_of", total_charge_of)(atoms, where))


def charge_to_keep(calculator: object, atoms: Atoms) -> dict[str, float]:
    """`info` of a copy that is to have the total charge which a structure was evaluated with; empty where none is said.

    Args:
        calculator: that has evaluated it.
        atoms: the structure.
    """
    charge = charge_read(calculator, atoms)
    said = charge != 0.0 or brings_charge(atoms, getattr(calculator, "total_charge_key", None))
    return {NAMES[0]: charge} if said else {}


def charge_of_results(calculator: object) -> float:
    """Q, e, that the Born charges of a calculator's last structure add up to by the acoustic sum rule.

    That of its charges where the model has a total charge; zero for calculators that know of none.
    """
    charges = getattr(calculator, "results", {}).get("charges")
    if charges is None or not hasattr(calculator, "takes_total_charge"):
        return 0.0
    return float(np.sum(np.asarray(charges, dtype=float)))


def refuse_charge_of_engine(atoms: Atoms, calculator: object, engine: str) -> None:
    """What becomes of a structure's total charge in an engine that leaves it behind.

    Args:
        atoms: the structure that the engine is given.
        calculator: that it evaluates.
        engine: its name, for the message.

    Raises:
        DataError: the model reads charges, and the calculator's own is another one.

    Warns:
        LesPluginsWarning: a calculator of ours that does not read it.
    """
    reads = getattr(calculator, "takes_total_charge", None)
    if reads is False and (given := given_charge(atoms)) is not None:
        warnings.warn(ignored_charge(given), LesPluginsWarning, stacklevel=3)
    said = brings_charge(atoms, getattr(calculator, "total_charge_key", None)) or misspelt_charge(atoms) is not None
    if not reads or not said:
        return
    charge, known = charge_read(calculator, atoms), getattr(calculator, "total_charge", None) or 0.0
    if charge != known:
        raise DataError(
            f"structure: has a total charge of {charge:g} e, which {engine} does not hand on to the calculator, whose "
            f"total_charge is {known:g}; set calculator.total_charge = {charge:g}"
        )


def charge_for_graph(atoms: Atoms) -> float:
    """The total charge that a graph carries, whatever model it is for, e: 0 too where there is no number.

    A model that reads charges has refused such a structure before (`LongRangeCalculator.check`, `TrainingRun`).
    """
    try:
        return total_charge_of(atoms)
    except DataError:
        return 0.0


def bare_with_charge(atoms: Atoms) -> Atoms:
    """The structure and its total charge, without labels, constraints and momenta."""
    info = {"charge": charge_for_graph(atoms)}
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)


def charge_under(name: str, atoms: Atoms, where: str = "structure") -> float:
    """The total charge, e, that a structure has under one name in `info`.

    Raises:
        DataError: there is something else, or more than `MOST_PER_ATOM` an atom.
    """
    value = atoms.info[name]
    number = number_of_charge(value)
    if number is None:
        raise DataError(f"{where}: info[{name!r}] is {quoted(value)}; allowed: a finite number of e")
    return check_size(number, atoms, f"{where}: info[{name!r}]")


def number_of_charge(value: object) -> float | None:
    """A value as a number of e; None for what is no finite real number, as text, T and F are."""
    return None if isinstance(value, bool | np.bool_ | str) else number_in(value)


def check_size(charge: float, atoms: Atoms, what: str) -> float:
    """The charge, e; DataError where it is more than `MOST_PER_ATOM` for each atom of a structure.

    Args:
        charge: e.
        atoms: whose it is.
        what: it is called in the message.
    """
    most = MOST_PER_ATOM * len(atoms)
    if abs(charge) > most:
        raise DataError(f"{what} is {charge:g} e for {len(atoms)} atoms; allowed: at most {most:g} e in magnitude")
    return charge


def unread_initial_charges(atoms: Atoms, key: str | None = None) -> str | None:
    """Initial charges of a structure that brings no total charge and is charged by them; None where there are none.

    They may be partial charges of a force field: no model takes their sum for the total charge.

    Args:
        atoms: the structure.
        key: as of `total_charge_of`.
    """
    if brings_charge(atoms, key) or (given := given_charge(atoms)) is None:
        return None
    return f"{given} e, which are not read as its total charge: give info['charge']"


def brings_charge(atoms: Atoms, key: str | None = None) -> bool:
    """Whether a structure says what its total charge is, be it zero; `key` as of `total_charge_of`."""
    return any(atoms.info.get(name) is not None for name in _names(key))


def any_charged(frames: Iterable[Atoms]) -> bool:
    """Whether a structure among some brings a total charge that is not zero."""
    return any(total_charge_of(atoms) != 0.0 for atoms in frames)


def given_charge(atoms: Atoms) -> str | None:
    """What in a structure says that it is charged, as `info['charge'] = -1`; None where nothing does.

    Initial charges count by their sum: partial charges of a neutral structure are no total charge.
    """
    for name in (*NAMES, *filter(None, [misspelt_charge(atoms)])):
        value = number_in(atoms.info.get(name))
        if value is not None and abs(value) >= SMALLEST_CHARGE:
            return f"info[{name!r}] = {value:g}"
    if atoms.has("initial_charges"):
        total = float(np.sum(atoms.get_initial_charges()))
        if abs(total) >= SMALLEST_CHARGE:
            return f"initial charges that add up to {total:g}"
    return None


def check_total_charges(frames: Iterable[tuple[str, Atoms]], reads: bool) -> None:
    """Look at the total charges of training data.

    Args:
        frames: with the place of each, such as `ions.xyz, frame 3`.
        reads: whether the model reads total charges.

    Raises:
        DataError: a total charge that the model is to read and that is no number, or two that differ.

    Warns:
        LesPluginsWarning: total charges or initial charges that the model does not read; a model that is to read
            charges and sees none.
    """
    count, charged = 0, False
    said: dict[str, list[str]] = {"total charge": [], "initial": []}
    for place, atoms in frames:
        count += 1
        if reads:
            charged = total_charge_of(atoms, place) != 0.0 or charged
        found = {
            "total charge": None if reads else given_charge(atoms),
            "initial": unread_initial_charges(atoms) if reads else None,
        }
        for kind, text in found.items():
            if text is not None:
                said[kind].append(f"{place}: {text}")
    if reads and count and not charged:
        warnings.warn(
            f"the model reads total charges, and none of {count} frames has one other than zero in info['charge'] or "
            "info['total_charge']: what a charge does to energies and forces is not trained",
            LesPluginsWarning,
            stacklevel=3,
        )
    ends = {
        "total charge": "a total charge, which a model without total_charge: given does not read",
        "initial": "initial charges that do not add up to zero, and no total charge",
    }
    for kind, places in said.items():
        if places:
            text = f"{len(places)} of {count} frames have {ends[kind]} ({places[0]})"
            warnings.warn(text, LesPluginsWarning, stacklevel=3)


def ignored_charge(given: str, where: str = "structure") -> str:
    """The line for a charge that this model does not read."""
    return (
        f"{where}: has {given} e, which this model does not read: energies, forces and moments are those that it has "
        "without; the total charge of its moments is zero"
    )


class ChargedFrames:
    """The frames of a file that say that they are charged, for the note of a command whose model does not read it."""

    def __init__(self) -> None:
        self._frames = self._charged = 0
        self._first = ""

    def add(self, atoms: Atoms) -> None:
        """The next frame."""
        if (given := given_charge(atoms)) is not None:
            self._first = self._first or f"frame {self._frames}: {given}"
            self._charged += 1
        self._frames += 1

    def note(self, calculator: object) -> str | None:
        """The line, or None where no frame is charged or the model reads it."""
        if not self._charged or getattr(calculator, "takes_total_charge", False):
            return None
        return (
            f"{self._charged} of {self._frames} frames have a total charge ({self._first} e), which the model does not "
            "read"
        )


def _names(key: str | None) -> tuple[str, ...]:
    return NAMES if key is None or key in NAMES else (*NAMES, key)


def number_in(value: object) -> float | None:
    """The one finite number that a value is; None where it is none."""
    try:
        number = float(np.asarray(value, dtype=float).reshape(-1)[0]) if np.size(np.asarray(value)) == 1 else None
    except (TypeError, ValueError, OverflowError):  # an integer beyond every float
        return None
    return number if number is not None and np.isfinite(number) else None
