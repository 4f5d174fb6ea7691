"""A committee: the ASE calculator whose results are means over its members, with standard deviations beside them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols
from numpy.typing import NDArray

from les_plugins.committee.agreement import epsilons_of, on_elements, on_screening
from les_plugins.data.evaluation import known_elements
from les_plugins.data.given_charge import charge_read
from les_plugins.data.structure_reading import StructureReading
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsWarning
from les_plugins.hosting.results import Results, everything

#: Results whose standard deviation over the members is a result too, as `std_of(name)`.
SPREAD = (
    *("energy", "forces", "stress", "charges", "dipole", "polarization"),
    *("polarizability", "dielectric_tensor", "born_effective_charges"),
)
#: What two models may tell differently without being wrong: moments inside the model, before ε_∞.
_LATENT = ("latent_charges", "latent_dipoles", "latent_quadrupoles")
#: Computed with the energy by every member.
_CHEAP = ("energy", "forces")


def std_of(name: str) -> str:
    """Name of the standard deviation of a result, such as "forces_std"."""
    return f"{name}_std"


class Committee(StructureReading, Calculator):
    """Mean over several models, and their standard deviation (n − 1 in the denominator) for what `SPREAD` names.

    The mean of forces is the derivative of the mean energy: the committee is a potential, and its dynamics conserve
    energy. It costs what its members cost together.

    Args:
        members: ASE calculators, such as `les_plugins.load` returns; at least two.
        names: of the members, for messages.

    Raises:
        ConfigError: fewer than two members.
        HostError: members without a common element, or of which some take a total charge and others do not.

    Warns:
        LesPluginsWarning: members of different systems, by the elements that they know; with the first crystal,
            members whose ε_∞ differ.

    Attributes:
        known_elements: atomic numbers that all members know, of those that say it; None where none does.
        of_members: results of each member for the last structure.

    Results: those that all members have. `energy_std` () eV, `forces_std` (N, 3) eV/Å, `stress_std` (6,) eV/Å³,
    `born_effective_charges_std` (N, 3, 3) e and so on, component by component.
    """

    takes_external_field = False
    is_committee = True

    def __init__(self, members: Sequence[Any], names: Sequence[str] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.members = list(members)
        self.names = [f"member {number}" for number in range(1, len(members) + 1)] if names is None else list(names)
        if len(self.members) < 2:
            raise ConfigError(f"a committee of {len(self.members)}; allowed: at least two models")
        if len(self.names) != len(self.members):
            raise ConfigError(f"{len(self.names)} names for a committee of {len(self.members)}")
        common = set.intersection(*(set(member.implemented_properties) for member in self.members))
        offered = [name for name in self.members[0].implemented_properties if name in common and name not in _LATENT]
        self.implemented_properties = [*offered, *(std_of(name) for name in SPREAD if name in common)]
        self.known_elements = self._common_elements()
        self.of_members: list[dict[str, Any]] = []
        self._told_of_screening = False
        self.has_long_range = all(getattr(member, "has_long_range", False) for member in self.members)
        self.takes_total_charge = self._agreed("takes_total_charge", "take a total charge")

    @property
    def always(self) -> tuple[str, ...]:
        """Properties that every member computes with each structure, asked for or not."""
        return tuple(getattr(self.members[0], "always", ()))

    @always.setter
    def always(self, names: tuple[str, ...]) -> None:
        for member in self.members:
            member.always = names

    @property
    def epsilon_infinity(self) -> float:
        """ε_∞, the mean over the members, of which one that scales nothing has 1; setting it sets that of each."""
        return float(np.mean(list(epsilons_of(self.names, self.members).values())))

    @epsilon_infinity.setter
    def epsilon_infinity(self, value: float) -> None:
        for member in self.members:
            member.epsilon_infinity = value
        self.reset()  # type: ignore[no-untyped-call]

    @property
    def total_charge(self) -> float | None:
        """As of `StructureReading`, that of every member; setting it sets that of each.

        Raises:
            HostError: the members have different ones.
        """
        found = [getattr(member, "total_charge", None) for member in self.members]
        if len(set(found)) > 1:
            told = ", ".join(f"{name} {charge}" for name, charge in zip(self.names, found, strict=True))
            raise HostError(f"total_charge of the members differs: {told}; set that of the committee")
        return found[0]

    @total_charge.setter
    def total_charge(self, charge: float | None) -> None:
        checked = self.checked_total_charge(charge)
        for member in self.members:
            member.total_charge = checked
        self.reset()  # type: ignore[no-untyped-call]

    def total_charge_of(self, atoms: Atoms, where: str = "structure") -> float:
        """Total charge, e, that the members evaluate a structure with.

        Raises:
            DataError: no total charge, or not the same for all members.
        """
        found = [charge_read(member, atoms, where) for member in self.members]
        if len(set(found)) > 1:
            told = ", ".join(f"{name} {charge:g} e" for name, charge in zip(self.names, found, strict=True))
            raise DataError(
                f"{where}: the members of the committee read different total charges: {told}; allowed: one, under "
                "info['charge'] or as total_charge of the committee"
            )
        return found[0]

    def read_of(self, atoms: Atoms) -> tuple[Any, ...]:
        """What all members read of a structure."""
        members = [member.read_of(atoms) for member in self.members if isinstance(member, StructureReading)]
        return (*super().read_of(atoms), *members)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Every member in turn.

        Raises:
            LesPluginsError: what a member refuses, with its name.
        """
        structure: Any = self.atoms if atoms is None else atoms
        asked = {name.removesuffix("_std") if name in self._std_names else name for name in properties or ()}
        found = []
        with self.results_of(structure):
            Calculator.calculate(self, structure, list(properties or _CHEAP), list(system_changes))
            for name, member in zip(self.names, self.members, strict=True):
                try:
                    member.calculate(structure, sorted({*_CHEAP, *asked}), list(all_changes))
                except HostError as error:
                    raise HostError(f"{name}: {error}") from None
                found.append(everything(member.results))
            self.of_members, self.results = found, Results(self._combined(found))
        if self.has_long_range and structure.pbc.all():
            self._say_screening()

    def current(self, velocities: Any, atoms: Atoms | None = None) -> NDArray[Any]:
        """J = Σ Z* v, (3,) e times the unit of velocities: the mean over the members."""
        structure = self.atoms if atoms is None else atoms
        return np.asarray(np.mean([_current(member, velocities, structure) for member in self.members], axis=0))

    def get_born_effective_charges(self, atoms: Atoms | None = None) -> Any:
        """(N, 3, 3) e, first index polarization, second displacement."""
        return self.get_property("born_effective_charges", atoms)  # type: ignore[no-untyped-call]

    @property
    def _std_names(self) -> set[str]:
        return {std_of(name) for name in SPREAD}

    def _combined(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, first in found[0].items():
            if name in _LATENT or any(name not in each for each in found):
                continue
            if isinstance(first, str):
                if all(each[name] == first for each in found):
                    results[name] = first
                continue
            values = [np.asarray(each[name]) for each in found]
            if values[0].dtype.kind not in "fiu" or any(value.shape != values[0].shape for value in values):
                continue
            mean = np.mean(values, axis=0, dtype=np.float64)
            results[name] = float(mean) if mean.ndim == 0 else mean
            if name in SPREAD:
                spread = np.std(np.asarray(values, dtype=np.float64), axis=0, ddof=1)
                results[std_of(name)] = float(spread) if spread.ndim == 0 else spread
        return results

    def _common_elements(self) -> list[int] | None:
        """Of the members that say which they know; None where none does."""
        told = {name: known_elements(member) for name, member in zip(self.names, self.members, strict=True)}
        known = {name: set(numbers) for name, numbers in told.items() if numbers is not None}
        if not known:
            return None
        common = sorted(set.intersection(*known.values()))
        if not common:
            raise HostError("the models of the committee have no element in common")
        line = on_elements({name: [chemical_symbols[z] for z in numbers] for name, numbers in known.items()})
        if line is not None:
            warnings.warn(line, LesPluginsWarning, 4)
        return common

    def _say_screening(self) -> None:
        """Once, and not where ε_∞ of all was set before the first structure."""
        if not self._told_of_screening and (line := on_screening(epsilons_of(self.names, self.members))) is not None:
            self._told_of_screening = True
            warnings.warn(line, LesPluginsWarning, 3)

    def _agreed(self, attribute: str, words: str) -> bool:
        flags = [bool(getattr(member, attribute, False)) for member in self.members]
        if any(flags) and not all(flags):
            with_it = [name for name, flag in zip(self.names, flags, strict=True) if flag]
            without = [name for name, flag in zip(self.names, flags, strict=True) if not flag]
            raise HostError(f"{', '.join(with_it)} {words} and {', '.join(without)} not: they are no committee")
        return all(flags)

    def close(self) -> None:
        """End the members that run in processes of their own."""
        for member in _closable(self.members):
            member.close()


def _current(member: Any, velocities: Any, atoms: Any) -> Any:
    """J of one member; of a calculator without that method by all of Z*."""
    if hasattr(member, "current"):
        return member.current(velocities, atoms)
    return np.einsum("nab,nb->a", member.get_property("born_effective_charges", atoms), velocities)


def _closable(members: Iterable[Any]) -> list[Any]:
    return [member for member in members if hasattr(member, "close")]
