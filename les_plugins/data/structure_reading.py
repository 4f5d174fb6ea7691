"""`StructureReading`: the total charge that a calculator gives a structure, and whether its results are of it still.

Base of every calculator of les-plugins: `LongRangeCalculator`, `Committee`, `RemoteCalculator`, `RankCalculator`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ase import Atoms

from les_plugins.data.cautions import Cautions
from les_plugins.data.given_charge import (
    NAMES,
    brings_charge,
    check_size,
    misspelt_charge,
    number_of_charge,
    total_charge_of,
)
from les_plugins.data.spin import higher_spin, refuse_higher_spin
from les_plugins.errors import ConfigError, HostError, quoted


class StructureReading:
    """Mixin before an ASE calculator.

    Attributes:
        takes_total_charge: whether the model reads the total charge of a structure.
        takes_spin: likewise, the spin.
        total_charge_key: name in `info`, beside "charge" and "total_charge", that the total charge may stand under:
            that of the model's training data; None for no other.
        read_names: names in `info` of whatever else the model reads.
        has_long_range: whether the model has a long-range part.
    """

    takes_total_charge: bool = False
    takes_spin: bool = False
    total_charge_key: str | None = None
    read_names: tuple[str, ...] = ()
    has_long_range: bool = False
    _total_charge: float | None = None
    _was_read: tuple[Any, ...] = ()
    _cautions: Cautions | None = None

    @property
    def total_charge(self) -> float | None:
        """Total charge, e, of structures that bring none; None, the default, for zero.

        For engines that hand structures over without their `info`. What a structure brings itself is taken first.
        Results are cleared when it is set.
        """
        return self._total_charge

    @total_charge.setter
    def total_charge(self, charge: float | None) -> None:
        self._total_charge = self.checked_total_charge(charge)
        self.reset()  # type: ignore[attr-defined]

    def checked_total_charge(self, charge: Any) -> float | None:
        """What a user gives for `total_charge`, as a number.

        Raises:
            ConfigError: no finite number.
            HostError: the model does not read it.
        """
        if charge is None:
            return None
        if (number := number_of_charge(charge)) is None:
            raise ConfigError(f"total_charge is {quoted(charge)}; allowed: a finite number of e, or None")
        if not self.takes_total_charge:
            raise HostError(
                "total_charge: this model does not read total charges; allowed: a model that was trained with "
                "long_range: {total_charge: given}"
            )
        return number

    def total_charge_of(self, atoms: Atoms, where: str = "structure") -> float:
        """The total charge, e, of a structure, or else that of the calculator, for a model that reads it.

        Raises:
            DataError: as `data.given_charge.total_charge_of`.
        """
        own, key = self.total_charge, self.total_charge_key
        if own is None or brings_charge(atoms, key) or misspelt_charge(atoms) is not None:
            return total_charge_of(atoms, where, key)
        return check_size(own, atoms, f"{where}: total_charge of the calculator")

    def with_total_charge(self, atoms: Atoms, where: str = "structure") -> Atoms:
        """For what is handed the structure alone: a copy that brings the charge which is read, or the structure."""
        if not self.takes_total_charge:
            return atoms
        found: Atoms = atoms.copy()
        found.info.update(dict.fromkeys(NAMES, self.total_charge_of(atoms, where)))
        return found

    @property
    def external_field(self) -> Any:
        """Uniform field (3,) V/Å that acts on a structure; None, for those calculators that take none."""
        return None

    @external_field.setter
    def external_field(self, field: Any) -> None:
        if field is not None:
            raise HostError("external_field: this calculator takes none; allowed: None; that of a single model does")

    def caution(self, atoms: Atoms, where: str = "structure") -> None:
        """Warn, once of each kind, of what the model does not read in a structure, or was not trained on.

        Raises:
            DataError: a spin that the model does not read, other than the lowest.
        """
        if not self.takes_spin:
            refuse_higher_spin(atoms, where)
        if self._cautions is None:
            self._cautions = Cautions()
        screened = self.has_long_range and getattr(self, "epsilon_infinity", 1.0) > 1.0
        self._cautions.look(atoms, where, screened, self.takes_total_charge, self.total_charge_key)
        if self.has_long_range and (trained := trained_elements(getattr(self, "metadata", {}))):
            self._cautions.look_for_elements(atoms, where, trained)

    def read_of(self, atoms: Atoms) -> tuple[Any, ...]:
        """What the model reads or refuses of a structure beside what ASE compares, as immutable values."""
        charge = (self.total_charge_of(atoms),) if self.takes_total_charge else ()
        refused = () if self.takes_spin else (higher_spin(atoms),)  # of a structure that has results already, too
        return (*charge, *refused, *(repr(atoms.info.get(name)) for name in self.read_names))

    @contextmanager
    def results_of(self, atoms: Atoms) -> Iterator[None]:
        """A structure is evaluated inside. Afterwards results are its own; where that fails, there are none."""
        try:
            yield
        except BaseException:
            self.reset()  # type: ignore[attr-defined]
            raise
        self._was_read = self.read_of(atoms)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """As ASE's, which does not look at `info`: another total charge is another structure."""
        changes: list[str] = super().check_state(atoms, tol)  # type: ignore[misc]
        if not changes and self.read_of(atoms) != self._was_read:
            return ["info"]
        return changes


def trained_elements(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Chemical symbols in the training set, by the config of a checkpoint; empty where it does not say."""
    found = _of_training(config).get("elements")
    return tuple(str(symbol) for symbol in found) if isinstance(found, list | tuple) else ()


def trained_charge_key(config: Mapping[str, Any], head: str | None = None) -> str | None:
    """Name in `info` that the training data had the total charge under, where it is none of `NAMES`.

    Args:
        config: of a checkpoint.
        head: of a model whose heads have data of their own; that of the config when None.
    """
    found = _of_training(config).get("total_charge_key")
    if isinstance(found, Mapping):
        found = found.get(head if head is not None else config.get("head"))
    return found if isinstance(found, str) and found not in NAMES else None


def _of_training(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (config.get("metadata") or {}).get("training")
    return found if isinstance(found, Mapping) else {}
