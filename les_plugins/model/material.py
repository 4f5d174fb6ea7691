"""What a user sets on a calculator: ε_∞, ⟨χ⟩ and an external field; its results are cleared when one is set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor, nn

from les_plugins.data.given_charge import NAMES, brings_charge, check_size, misspelt_charge, total_charge_of
from les_plugins.electrostatics.observables import electronic_screening
from les_plugins.errors import ConfigError, HostError, quoted
from les_plugins.model.long_range import LongRangeResult
from les_plugins.model.physical import susceptibility_of


class Material:
    """Base of `LongRangeCalculator`: what scales its results, and the field that they are in.

    Attributes:
        has_long_range: whether the model has a long-range part; set by the adapter.
        metadata: config.json of the checkpoint.
        takes_total_charge: whether the model reads the total charge of a structure.
    """

    has_long_range: bool
    atoms: Any
    metadata: Mapping[str, Any]
    _epsilon_infinity: float = 1.0
    _susceptibility: float | None = None
    _external_field: NDArray[Any] | None = None
    _part: nn.Module | None = None
    _total_charge: float | None = None
    takes_total_charge: bool = False

    @property
    def epsilon_infinity(self) -> float:
        """ε_∞ of the material; results are cleared when it is set."""
        return self._epsilon_infinity

    @epsilon_infinity.setter
    def epsilon_infinity(self, value: float) -> None:
        self._epsilon_infinity = _at_least(1.0, value, "epsilon_infinity", "a number of at least 1")
        self.reset()  # type: ignore[attr-defined]

    @property
    def reference_susceptibility(self) -> float | None:
        """⟨χ⟩ of the material: of the training set, from the checkpoint, or of the first periodic structure seen.

        Of a model with `total_charge: given` the one that scales its charges, which is among its weights.

        ε_e = ε_∞/(1 + χ) is one number of a material (theory 8.3). None before a model without ⟨χ⟩ in its checkpoint
        has seen a periodic structure. Set it to compare with a trajectory; results are cleared.
        """
        if self._susceptibility is None:
            given = getattr(self._part, "total_charge", None)
            if given is not None:
                return float(given.mean_susceptibility)
            own = getattr(self, "metadata", {}).get("susceptibility")
            return None if own is None else float(own)
        return self._susceptibility

    @reference_susceptibility.setter
    def reference_susceptibility(self, value: float | None) -> None:
        allowed = "a number of at least 0, or None"
        self._susceptibility = None if value is None else _at_least(0.0, value, "reference_susceptibility", allowed)
        self.reset()  # type: ignore[attr-defined]

    @property
    def total_charge(self) -> float | None:
        """Total charge, e, of structures that bring none; None, the default, for zero.

        For engines that hand structures over without their `info`. What a structure brings itself is taken first.
        Results are cleared when it is set.
        """
        return self._total_charge

    @total_charge.setter
    def total_charge(self, charge: float | None) -> None:
        if charge is not None:
            allowed = "a finite number of e, or None"
            found = finite_numbers(charge, "total_charge", allowed)
            if found.shape != () or isinstance(charge, bool):
                raise ConfigError(f"total_charge is {quoted(charge)}; allowed: {allowed}")
            if not self.takes_total_charge:
                raise HostError(
                    "total_charge: this model does not read total charges; allowed: a model that was trained with "
                    "long_range: {total_charge: given}"
                )
            charge = float(found)
        self._total_charge = charge
        self.reset()  # type: ignore[attr-defined]

    def total_charge_of(self, atoms: Atoms, where: str = "structure") -> float:
        """The total charge, e, of a structure, or else that of the calculator, for a model that reads it.

        Raises:
            DataError: as `data.given_charge.total_charge_of`.
        """
        if self.total_charge is None or brings_charge(atoms) or misspelt_charge(atoms) is not None:
            return total_charge_of(atoms, where)
        return check_size(self.total_charge, atoms, f"{where}: total_charge of the calculator")

    def with_total_charge(self, atoms: Atoms) -> Atoms:
        """For an adapter whose graphs are made of the structure alone: a copy that brings the charge which is read."""
        if not self.takes_total_charge:
            return atoms
        found: Atoms = atoms.copy()
        found.info.update(dict.fromkeys(NAMES, self.total_charge_of(atoms)))
        return found

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """As ASE's, which does not look at `info`: another total charge is another structure."""
        changes: list[str] = super().check_state(atoms, tol)  # type: ignore[misc]
        if not changes and self.takes_total_charge and self.total_charge_of(atoms) != self.total_charge_of(self.atoms):
            return ["total charge"]
        return changes

    @property
    def takes_external_field(self) -> bool:
        """Whether `external_field` can be set."""
        return self._part is not None

    @property
    def external_field(self) -> NDArray[Any] | None:
        """Uniform field (3,) V/Å that acts on energy, forces and dipole (theory 7), or None.

        Open structures: energy U(E), forces −dU/dr, dipole −dU/dE. Periodic: forces F0 + E·Z* + ½ E·(∂α/∂r)·E; the
        energy holds −½ E·α·E but not −E·P, which has no periodic form: a trajectory books it as work. Slabs: the one
        along the normal, the other in the plane. Stress is left out, charges are those without the field. Results are
        cleared when it is set.
        """
        return self._external_field

    @external_field.setter
    def external_field(self, field: Any) -> None:
        if field is not None:
            allowed = "three finite numbers in V/Å, or None"
            field = finite_numbers(field, "external_field", allowed)
            if field.shape != (3,):
                raise ConfigError(f"external_field is {field.tolist()}; allowed: {allowed}")
            if self._part is None:
                if self.has_long_range:
                    raise HostError("external_field: this host's adapter cannot apply fields; those of les-plugins can")
                raise HostError("external_field: this model has no long-range part that a field could act on")
        self._external_field = field
        self.reset()  # type: ignore[attr-defined]

    def susceptibility_for(self, latent: LongRangeResult, cell: Tensor, pbc: Tensor) -> float | None:
        """`reference_susceptibility`, which is that of this structure from now on where there was none."""
        if not bool(pbc.all()):
            return None
        if self.reference_susceptibility is None:
            self._susceptibility = susceptibility_of(latent, cell, pbc)
        return self.reference_susceptibility

    def screening_of(self, latent: LongRangeResult, cell: Tensor, pbc: Tensor) -> float:
        """ε_e of one structure.

        Args:
            latent: result of the long-range part.
            cell: (1, 3, 3) Å.
            pbc: (1, 3) bool.
        """
        chi = self.susceptibility_for(latent, cell, pbc)
        batch = torch.zeros(len(latent.charge), dtype=torch.long, device=latent.charge.device)
        alpha = latent.dipolar
        return float(electronic_screening(self.epsilon_infinity, alpha, cell.double(), pbc, batch, chi)[0].detach())


def finite_numbers(value: Any, name: str, allowed: str) -> NDArray[Any]:
    """What a user gave as a float64 array of its own; ConfigError for what is no array of finite numbers."""
    try:
        found = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is {quoted(value)}; allowed: {allowed}") from None
    if not np.isfinite(found).all():
        raise ConfigError(f"{name} is {quoted(value)}; allowed: {allowed}")
    return found


def _at_least(least: float, value: Any, name: str, allowed: str) -> float:
    number = finite_numbers(value, name, allowed)
    if number.shape != () or number < least:
        raise ConfigError(f"{name} is {quoted(value)}; allowed: {allowed}")
    return float(number)
