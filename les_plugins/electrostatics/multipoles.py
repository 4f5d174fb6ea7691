"""Atomic multipoles up to the quadrupole, and the change between e3nn's spherical components and Cartesian tensors.

Used by the heads, which make the moments, and by every electrostatics method, which takes them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.errors import GeometryError


class Multipoles(NamedTuple):
    """Latent permanent moments of every atom (theory 1).

    Attributes:
        charge: (N,) e; or (N, channels) with no other moment: channels do not see each other.
        dipole: (N, 3) e·Å, or None.
        quadrupole: (N, 3, 3) e·Å², symmetric and traceless, or None.
    """

    charge: Tensor
    dipole: Tensor | None = None
    quadrupole: Tensor | None = None

    @property
    def order(self) -> int:
        """Highest rank present: 0 charge, 1 dipole, 2 quadrupole."""
        return 2 if self.quadrupole is not None else 1 if self.dipole is not None else 0

    def check(self, n_atoms: int) -> None:
        """Raise GeometryError unless every moment has the shape that `n_atoms` atoms need."""
        if self.charge.dim() not in (1, 2) or self.charge.shape[0] != n_atoms:
            raise GeometryError(
                f"charge has shape {tuple(self.charge.shape)}; allowed: ({n_atoms},) or ({n_atoms}, channels)"
            )
        for name, moment, shape in (
            ("dipole", self.dipole, (n_atoms, 3)),
            ("quadrupole", self.quadrupole, (n_atoms, 3, 3)),
        ):
            if moment is not None and tuple(moment.shape) != shape:
                raise GeometryError(f"{name} has shape {tuple(moment.shape)}; allowed: {shape}")
        if self.charge.dim() == 2 and self.order > 0:
            raise GeometryError(
                "charge channels, shape (N, channels), cannot be combined with dipoles or quadrupoles: "
                "give charge as (N,)"
            )

    def to(self, dtype: torch.dtype) -> Multipoles:
        """The same moments in another floating-point type."""
        return Multipoles(*(None if m is None else m.to(dtype) for m in self))  # type: ignore[arg-type]

    def select(self, atoms: Tensor) -> Multipoles:
        """The moments of the atoms with the given indices, (n,) integer."""
        return Multipoles(*(None if m is None else m[atoms] for m in self))  # type: ignore[arg-type]


def traceless(tensor: Tensor) -> Tensor:
    """Symmetric traceless part of (..., 3, 3) tensors."""
    symmetric = 0.5 * (tensor + tensor.transpose(-1, -2))
    trace = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)
    identity = torch.eye(3, dtype=tensor.dtype, device=tensor.device)
    return symmetric - identity * (trace / 3.0)[..., None, None]


def spherical_basis(dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """(5, 3, 3) symmetric traceless tensors, one for each l = 2 component in e3nn's order, each of unit Frobenius norm.

    e3nn's l = 1 components are x, y, z; its l = 2 components follow
    (xz, xy, y² − (x² + z²)/2, yz, (z² − x²)/2) with y as the polar axis.
    """
    a = math.sqrt(0.5)
    b = math.sqrt(1.0 / 6.0)
    basis = torch.zeros(5, 3, 3, dtype=dtype, device=device)
    basis[0, 0, 2] = basis[0, 2, 0] = a
    basis[1, 0, 1] = basis[1, 1, 0] = a
    basis[2, 0, 0] = basis[2, 2, 2] = -b
    basis[2, 1, 1] = 2.0 * b
    basis[3, 1, 2] = basis[3, 2, 1] = a
    basis[4, 0, 0], basis[4, 2, 2] = -a, a
    return basis


def spherical_to_cartesian(components: Tensor) -> Tensor:
    """Symmetric traceless (..., 3, 3) tensors of e3nn's 2e components (..., 5); the Frobenius norm is kept."""
    return torch.einsum("...m,mab->...ab", components, spherical_basis(components.dtype, components.device))


def cartesian_to_spherical(tensor: Tensor) -> Tensor:
    """e3nn's 2e components (..., 5) of (..., 3, 3) tensors; trace and antisymmetric part are dropped."""
    return torch.einsum("...ab,mab->...m", tensor, spherical_basis(tensor.dtype, tensor.device))
