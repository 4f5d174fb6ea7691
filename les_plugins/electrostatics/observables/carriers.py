"""What carries the polarization of structures, and its sums (theory 8.1, 8.2, 8.6). `born.py` differentiates them.

`model.carriers` decides for a model which of the two kinds it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.lattice import boundary_lattice, dual_lattice
from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum


class Mode(NamedTuple):
    """One differentiable sum of the polarization: Z*[i, a, b] += direction[i, a] phase[i] ∂(Σ terms)/∂r_{i,b}."""

    terms: Tensor  # (N,)
    phase: Tensor | None  # (N,), None for one
    direction: Tensor  # (N, 3)


class Carriers(NamedTuple):
    """Charges, whose place counts, and moments, which have none: P = Σ charge r + Σ moment.

    Attributes:
        charge: (N,) e, with the sum that each structure truly has (`charge_of_total`).
        moment: (N, 3) e·Å, dipoles and charge on its way between neighbours, or None.
        is_fixed: whether `charge` is the same wherever the atoms are, for all that moves is in `moment`. Then Z* are
            derivatives of P itself; else periodic axes need phases.
    """

    charge: Tensor
    moment: Tensor | None
    is_fixed: bool

    @property
    def source(self) -> str:
        """What Z* are made with: "transfers" or "phases"."""
        return "transfers" if self.is_fixed else "phases"

    def total(self, positions: Tensor, batch: Tensor, n_structures: int) -> Tensor:
        """(B, 3) e·Å, P of every structure with the images of the atoms as given.

        Args:
            positions: (N, 3) Å.
            batch: (N,) integer.
            n_structures: B.
        """
        place = self.charge[:, None] * positions
        if self.moment is not None:
            place = place + self.moment
        return to_structures(place, batch, n_structures)

    def modes(self, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor) -> Iterator[Mode]:
        """The sums whose derivatives are Z*: three of fixed charges, else up to nine.

        Args:
            positions: (N, 3) Å.
            cell: (B, 3, 3) Å.
            pbc: (B, 3) bool.
            batch: (N,) integer.
        """
        if self.is_fixed:
            yield from self._of_transfers(positions)
            return
        yield from _of_phases(positions, cell, pbc, batch, self.charge)
        if self.moment is not None:
            unit = torch.eye(3, dtype=self.charge.dtype, device=self.charge.device)
            for axis in range(3):
                yield Mode(self.moment[:, axis], None, unit[axis].expand(positions.shape[0], 3))

    def _of_transfers(self, positions: Tensor) -> Iterator[Mode]:
        place = positions.to(self.charge.dtype)
        unit = torch.eye(3, dtype=self.charge.dtype, device=self.charge.device)
        for axis in range(3):
            terms = self.charge * place[:, axis]
            if self.moment is not None:
                terms = terms + self.moment[:, axis]
            yield Mode(terms, None, unit[axis].expand(positions.shape[0], 3))


def _of_phases(positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, charges: Tensor) -> Iterator[Mode]:
    """The sums of theory 8.1 and 8.2 of charges: along each axis, at the smallest k where periodic."""
    positions, cell = positions.to(charges.dtype), cell.to(charges.dtype)
    lattice = boundary_lattice(cell, pbc)
    vectors = to_atoms(lattice, batch)
    reciprocal = to_atoms(dual_lattice(lattice).transpose(1, 2), batch)
    coordinate = torch.einsum("na,nam->nm", positions, reciprocal)  # fractional, or Å along an open axis
    for axis in range(3):
        place, direction, is_periodic = coordinate[:, axis], vectors[:, axis], to_atoms(pbc[:, axis], batch)
        if not is_traced() and not bool(pbc[:, axis].any()):
            yield Mode(charges * place, None, direction)
            continue
        # exp(iθ)/(2πi) = (sin θ − i cos θ)/2π; along an open axis the polarization is q r
        theta = 2.0 * math.pi * place
        sine, cosine = torch.sin(theta), torch.cos(theta)
        real = torch.where(is_periodic, sine / (2.0 * math.pi), place)
        imaginary = torch.where(is_periodic, -cosine / (2.0 * math.pi), torch.zeros_like(theta))
        one, zero = torch.ones_like(theta), torch.zeros_like(theta)
        yield Mode(charges * real, torch.where(is_periodic, cosine, one), direction)
        yield Mode(charges * imaginary, torch.where(is_periodic, sine, zero), direction)


def charge_of_total(
    charge: Tensor, batch: Tensor, n_structures: int, total_charge: Tensor | None = None, ranks: Ranks | None = None
) -> Tensor:
    """q'_i = q_i − (Σ q − Q)/N: charges that add up to the total charge that a structure truly has.

    Args:
        charge: (N,) e, or (N, channels), which add up.
        batch: (N,) integer, the structure of each atom.
        n_structures: B.
        total_charge: (B,) e, Q in the units of `charge`, latent as they are; zero when None.
        ranks: over which the atoms of each structure are spread, if they are.

    Returns:
        (N,) e.

    Source: theory 8.1.
    """
    charges = charge if charge.dim() == 1 else charge.sum(1)
    excess = reduce_sum(to_structures(charges, batch, n_structures), ranks)
    if total_charge is not None:
        excess = excess - total_charge.to(charges.dtype)
    counts = reduce_sum(to_structures(torch.ones_like(charges), batch, n_structures), ranks).clamp(min=1.0)
    return charges - to_atoms(excess / counts, batch)


def polarization(
    positions: Tensor,
    batch: Tensor,
    charge: Tensor,
    dipole: Tensor | None = None,
    total_charge: Tensor | None = None,
) -> Tensor:
    """Dipole moment of every open structure, P = Σ q' r + Σ u; of a slab the component along its normal has a meaning.

    Args:
        positions: (N, 3) Å.
        batch: (N,) integer, the structure of each atom.
        charge: (N,) e, or (N, channels), which add up.
        dipole: (N, 3) e·Å, induced part included, or None.
        total_charge: (B,) e, as for `charge_of_total`.

    Returns:
        (B, 3) e·Å, B = largest batch index + 1, of charges that add up to `total_charge`. Where that is zero it does
        not depend on where the structure stands, else it is that about the origin of the coordinates. Quadrupoles do
        not contribute.

    Source: theory 8.1.
    """
    n_structures = int(batch.max()) + 1 if len(batch) else 0
    charges = charge_of_total(charge, batch, n_structures, total_charge)
    return Carriers(charges, dipole, False).total(positions, batch, n_structures)


def polarization_modes(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    charge: Tensor,
    dipole: Tensor | None,
    total_charge: Tensor | None = None,
) -> Iterator[Mode]:
    """The sums of theory 8.1 and 8.2: charges along each axis, at the smallest k where periodic, and dipoles."""
    charges = charge_of_total(charge, batch, cell.shape[0], total_charge)
    return Carriers(charges, dipole, False).modes(positions, cell, pbc, batch)
