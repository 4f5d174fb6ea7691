"""The ASE side that every adapter shares: from a `LongRangeResult` to physical results under ASE's names."""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray
from torch import Tensor

from les_plugins.long_range import LongRangeResult
from les_plugins.observables import born_effective_charges, electronic_screening, polarization, system_polarizability

#: Properties that a calculator with a long-range part has beyond those of its host.
LONG_RANGE_PROPERTIES = (
    "charges",
    "dipole",
    "polarizability",
    "born_effective_charges",
    "long_range_energy",
    "short_range_energy",
    "latent_charges",
    "latent_dipoles",
    "latent_quadrupoles",
)
#: What a short-range model has of them.
SHORT_RANGE_PROPERTIES = ("short_range_energy", "long_range_energy")


class LongRangeCalculator:
    """Mixin before a host's own ASE calculator: what every calculator with a long-range part offers beside it.

    Attributes:
        has_long_range: whether the model has a long-range part; set by the adapter.
    """

    has_long_range: bool

    def get_born_effective_charges(self, atoms: Atoms | None = None) -> Any:
        """(N, 3, 3) e, first index polarization, second displacement."""
        return self.get_property("born_effective_charges", atoms)

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As ASE's; says what is missing when a short-range model is asked for electrostatics."""
        if not self.has_long_range and name in LONG_RANGE_PROPERTIES and name not in SHORT_RANGE_PROPERTIES:
            raise PropertyNotImplementedError(f"{name}: this model has no long-range part, train it with one")
        return super().get_property(name, atoms, allow_calculation)  # type: ignore[misc]


def latent_results(
    latent: LongRangeResult, positions: Tensor, cell: Tensor, pbc: Tensor, epsilon_infinity: float
) -> dict[str, Any]:
    """Results of one structure that need no derivative.

    Args:
        latent: result of the long-range part for one structure.
        positions: (N, 3) Å.
        cell: (1, 3, 3) Å.
        pbc: (1, 3) bool.
        epsilon_infinity: ε_∞ of the material; not used for open structures.

    Returns:
        charges (N,) e, dipole (3,) e·Å and polarizability (3, 3) e²·Å²/eV, scaled to physical ones by ε_e (PHYSICS 6);
        long_range_energy, eV; latent_charges (N,), latent_dipoles (N, 3), latent_quadrupoles (N, 3, 3), not scaled.
        The dipole of a periodic structure is one branch: that of the positions as given, mean charge removed; only
        its changes along unwrapped positions have a meaning.
    """
    batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
    screening = electronic_screening(epsilon_infinity, latent.polarizability, cell, pbc, batch)[0]
    charge = latent.charge if latent.charge.dim() == 1 else latent.charge.sum(1)
    origin_free = charge - charge.mean() if bool(pbc.any()) else charge
    moment = polarization(positions.double(), batch, origin_free.double(), latent.dipole)[0]
    results = {
        "charges": screening.sqrt() * charge,
        "dipole": screening.sqrt() * moment,
        "latent_charges": charge,
    }
    if latent.dipole is not None:
        results["latent_dipoles"] = latent.dipole
    if latent.permanent.quadrupole is not None:
        results["latent_quadrupoles"] = latent.permanent.quadrupole
    if latent.softness is not None or latent.polarizability is not None:
        total = system_polarizability(positions, pbc, batch, latent.softness, latent.polarizability)[0]
        results["polarizability"] = screening * total
    found: dict[str, Any] = {name: _array(value) for name, value in results.items()}
    found["long_range_energy"] = float(latent.energy.detach())
    return found


def born_results(
    latent: LongRangeResult, positions: Tensor, cell: Tensor, pbc: Tensor, epsilon_infinity: float
) -> NDArray[Any]:
    """Physical Born effective charges (N, 3, 3) e of one structure, first index polarization.

    Args:
        latent: result of the long-range part, its graph to `positions` kept.
        positions: (N, 3) Å, the leaf that the graph starts from.
        cell, pbc, epsilon_infinity: as for `latent_results`.
    """
    batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
    screening = electronic_screening(epsilon_infinity, latent.polarizability, cell, pbc, batch).detach()
    born = born_effective_charges(positions, cell, pbc, batch, latent.charge, latent.dipole, epsilon=screening)
    return _array(born)


def _array(value: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = value.detach().cpu().double().numpy()
    return array
