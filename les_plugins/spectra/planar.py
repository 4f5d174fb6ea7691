"""The potential of moments averaged over planes: Poisson's equation in one dimension, solved exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from les_plugins.committee.agreement import check_single
from les_plugins.data.metrics import Floats
from les_plugins.errors import DataError, HostError
from les_plugins.units import VACUUM_PERMITTIVITY


@dataclass(frozen=True)
class Moments:
    """What the atoms of a structure carry.

    Attributes:
        charge: (N,) e.
        dipole: (N, 3) e·Å.
        quadrupole: (N, 3, 3) e·Å², traceless, or None.
    """

    charge: Floats
    dipole: Floats
    quadrupole: Floats | None = None

    def along(self, normal: Floats) -> tuple[Floats, Floats]:
        """Charges (N,) and the dipoles' components (N,) along a unit vector (3,)."""
        return self.charge, self.dipole @ normal


def potential_of_layers(at: Floats, height: Floats, charge: Floats, dipole: Floats, area: float) -> Floats:
    """Plane-averaged potential of charges and dipoles of a slab.

    Args:
        at: (M,) Å, where; a layer there counts by half.
        height: (N,) Å, of the moments.
        charge: (N,) e, neutral as a whole.
        dipole: (N,) e·Å, components along the normal.
        area: Å², of the cell in the plane.

    Returns:
        (M,) V, zero below the lowest moment: V(z) = (1/ε0 A) Σ_{z_i < z} (μ_i − q_i (z − z_i)), the two integrals of
        Poisson's equation V'' = −ρ/ε0. Above the slab it is M/(ε0 A), M = Σ q z + Σ μ: a dipole along +z makes the
        upper side positive. Gaussian smearing by σ would smooth it by σ, and changes no difference between vacuums or
        with the mean of a thick layer.

    Raises:
        DataError: a net charge, for which no side is free of field.

    Source: theory 4.4; J. D. Jackson, Classical Electrodynamics, section 1.6 (double layer).
    """
    if abs(float(charge.sum())) > 1e-3:
        raise DataError(f"the layers carry {charge.sum():.3g} e; the potential of a charged slab has no zero")
    order = np.argsort(height, kind="stable")
    sorted_height = height[order]
    sums = np.zeros((3, len(height) + 1))
    sums[:, 1:] = np.cumsum(np.stack([charge, charge * height, dipole])[:, order], axis=1)
    below, up_to = (np.searchsorted(sorted_height, at, side=side) for side in ("left", "right"))
    found: Floats = np.zeros(len(at))
    for place in (below, up_to):
        q, qz, mu = sums[:, place]
        found += 0.5 * (qz + mu - q * at)
    return found / (VACUUM_PERMITTIVITY * area)


def moments_of(calculator: Any) -> Callable[[Atoms], Moments]:
    """What a calculator of `les_plugins.load` says of a slab: its charges, those in the energy, and latent moments.

    Args:
        calculator: with a long-range part; ε_e of a slab is 1, so that nothing is scaled.

    Raises:
        HostError: the model has no latent moments, or is a committee.
    """
    check_single(calculator, "interface")
    if not getattr(calculator, "has_long_range", False):
        raise HostError("the model has no latent charges: it has no long-range part")

    def of(atoms: Atoms) -> Moments:
        charge = np.asarray(calculator.get_property("charges", atoms))
        dipole = calculator.results.get("latent_dipoles")
        quadrupole = calculator.results.get("latent_quadrupoles")
        return Moments(
            charge,
            np.zeros((len(atoms), 3)) if dipole is None else np.asarray(dipole),
            None if quadrupole is None else np.asarray(quadrupole),
        )

    return of
