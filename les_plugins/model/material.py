"""What a user sets on a calculator: ε_∞, ⟨χ⟩ and an external field; its results are cleared when one is set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from les_plugins.data.structure_reading import StructureReading
from les_plugins.electrostatics.observables import electronic_screening
from les_plugins.errors import ConfigError, HostError, quoted
from les_plugins.model.long_range import LongRangeResult
from les_plugins.model.physical import susceptibility_of


class Material(StructureReading):
    """Base of `LongRangeCalculator`: what scales its results, and the field that they are in.

    Attributes:
        metadata: config.json of the checkpoint.
    """

    atoms: Any
    metadata: Mapping[str, Any]
    _epsilon_infinity: float = 1.0
    _susceptibility: float | None = None
    _external_field: NDArray[Any] | None = None
    _part: nn.Module | None = None

    @property
    def epsilon_infinity(self) -> float:
        """ε_∞ of the material; results are cleared when it is set.

        That of a model with `total_charge: given` is in its weights: another one is an error.
        """
        return self._epsilon_infinity

    @epsilon_infinity.setter
    def epsilon_infinity(self, value: float) -> None:
        self._epsilon_infinity = checked_epsilon_infinity(value, self._part)
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
        found = None if value is None else _at_least(0.0, value, "reference_susceptibility", allowed)
        given = getattr(self._part, "total_charge", None)
        if found is not None and given is not None:
            _check_trained("reference_susceptibility", found, float(given.mean_susceptibility))
        self._susceptibility = found
        self.reset()  # type: ignore[attr-defined]

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


def checked_epsilon_infinity(value: Any, part: nn.Module | None) -> float:
    """What a user gives for ε_∞, as a number.

    Args:
        value: the number.
        part: the model's long-range part, or None.

    Raises:
        ConfigError: no number of at least 1, or another one than is in the weights of a model with `total_charge:
            given`: its latent charges add up to Q/sqrt(ε_e) of the ε_∞ that it was trained with (theory 5.4).
    """
    found = _at_least(1.0, value, "epsilon_infinity", "a number of at least 1")
    if (given := getattr(part, "total_charge", None)) is not None:
        _check_trained("epsilon_infinity", found, float(given.epsilon_infinity))
    return found


def _check_trained(name: str, found: float, trained: float) -> None:
    if not math.isclose(found, trained, rel_tol=1e-6, abs_tol=1e-9):  # numbers of a file, and of weights in float32
        raise ConfigError(
            f"{name} is {found:g}; allowed: {trained:g}, which is in the weights of this model: it was trained with "
            "total_charge: given; another one takes another training"
        )


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
