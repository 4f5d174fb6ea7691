"""Moments to a mesh and back through B-splines: smooth particle mesh without the reciprocal part. `mesh.py` calls it.

A B-spline of order p is a polynomial of degree p − 1 on each of its p unit pieces, so that all weights of an atom, and
their derivatives, are one small matrix product. A charge is p³ weights on the mesh; moments and fields are derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from les_plugins.electrostatics.periodic.structure_factor import exponents

#: Bytes of the patches of one chunk of atoms: small enough for the processor's cache …
PATCH_BYTES = 2 << 20
#: … and larger on an accelerator, where every operator has its price.
DEVICE_PATCH_BYTES = 256 << 20
#: Of a mesh, the last ones of meshes of several structures.
AXES = (-3, -2, -1)


@dataclass(frozen=True)
class Mesh:
    """A periodic mesh with `sizes` points along the lattice vectors, and B-splines of order `spline` on it."""

    sizes: tuple[int, int, int]
    spline: int

    def spread(self, fractional: Tensor, moments: Tensor, order: int) -> Tensor:
        """Density on the mesh of point moments: what `gather` is the transpose of.

        Args:
            fractional: (…, n, 3) fractional coordinates in [0, 1]; structures in a first axis have a mesh each.
            moments: (…, n, M) coefficient of every fractional derivative of `exponents(order)`.
            order: highest rank of the moments.

        Returns:
            (…, sizes), shifted by the same few points for all atoms, which a convolution does not see.
        """
        leading = fractional.shape[:-2]
        mesh = moments.new_zeros(math.prod(leading) * math.prod(self._padded))
        offsets, cubes = _offsets(self._padded, self.spline, mesh.device), cubes_of(moments.flatten(0, -2), order)
        for atoms, start, weights in self._patches(fractional, order):
            patches = patches_of(cubes[atoms], weights)
            mesh.scatter_add_(0, (start[:, None] + offsets).flatten(), patches.flatten())
        return self._folded(mesh.view(*leading, *self._padded))

    def gather(self, fractional: Tensor, values: Tensor, order: int) -> Tensor:
        """(…, n, M): every fractional derivative of `exponents(order)` at the atoms, of the splines with given values.

        Args:
            fractional: (…, n, 3), as for `spread`.
            values: (…, sizes).
            order: highest rank of the derivatives.
        """
        p, (_, second, third) = self.spline, self._padded
        padded, n_moments = self._unfolded(values), len(exponents(order))
        # every patch as one row of an overlapping view: no index of its points is ever made
        last = padded.numel() - (p - 1) * ((second + 1) * third + 1)
        patches = padded.as_strided((last, p, p, p), (1, second * third, third, 1))
        local = values.new_empty(fractional.shape[:-1].numel(), n_moments)
        for atoms, start, weights in self._patches(fractional, order):
            local[atoms] = derivatives_at_atoms(patches.index_select(0, start), weights, order)
        return local.view(*fractional.shape[:-1], n_moments)

    @property
    def _padded(self) -> tuple[int, int, int]:
        """Sizes of the mesh with the points that a patch at its end reaches over it."""
        first, second, third = (starts + self.spline - 1 for starts in self._starts)
        return first, second, third

    @property
    def _starts(self) -> tuple[int, int, int]:
        """Number of points along each axis at which a patch may begin."""
        return self.sizes

    def _first_start(self, corner: Tensor) -> Tensor:
        """Where patches begin along the first axis of the padded mesh, by their first plane."""
        return corner

    def _patches(self, fractional: Tensor, order: int) -> Iterator[tuple[Tensor | slice, Tensor, Tensor]]:
        """Chunks of atoms: which they are; where each one's patch begins in the flat padded meshes, (n,).

        And its weights along each axis, with their derivatives, (3, n, D, p).
        """
        table = weight_table(self.sizes, self.spline, order, fractional.device)
        sizes, last = _ends(self.sizes, fractional.device)
        place = fractional.reshape(-1, 3) * sizes
        corner = torch.minimum(place.floor(), last).clamp(min=0.0)
        inside = (place - corner - 0.5).T  # (3, N) in [−½, ½]
        first, second, third = corner.long().unbind(1)
        first = self._first_start(first)
        if fractional.dim() > 2:
            first = first + _meshes(*fractional.shape[:2], self._padded[0], fractional.device)
        start = (first * self._padded[1] + second) * self._padded[2] + third
        for atoms in self._chunks(first, second, third):
            weights = torch.bmm(torch.linalg.vander(inside[:, atoms], N=self.spline), table)
            yield atoms, start[atoms], weights.unflatten(2, (order + 1, self.spline))

    def _chunks(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor | slice, ...]:
        """Indices of the atoms by neighbourhood of their patches' first points (N,) along each axis.

        A chunk finds its part of the mesh in the processor's cache.
        """
        size = chunk_size(self.spline, first.device)
        if len(first) <= size:
            return (slice(None),)
        across = [points // self.spline + 1 for points in self._padded]
        along = [corner // self.spline for corner in (first, second, third)]
        chunks: tuple[Tensor, ...] = torch.argsort((along[0] * across[1] + along[1]) * across[2] + along[2]).split(size)
        return chunks

    def _folded(self, padded: Tensor) -> Tensor:
        """The periodic mesh: what lies beyond its end is added at its beginning."""
        for axis, size in zip(AXES, self.sizes, strict=True):
            beyond = padded.narrow(axis, size, self.spline - 1)
            padded = padded.narrow(axis, 0, size)
            padded.narrow(axis, 0, self.spline - 1).add_(beyond)
        return padded

    def _unfolded(self, values: Tensor) -> Tensor:
        """The padded mesh: its beginning repeated beyond its end."""
        padded = values.new_empty(*values.shape[:-3], *self._padded)
        first, second, third = self.sizes
        padded[..., :first, :second, :third] = values
        for axis, size in zip(reversed(AXES), reversed(self.sizes), strict=True):
            block = padded
            for before, its_size in zip(AXES[: AXES.index(axis)], self.sizes, strict=False):
                block = block.narrow(before, 0, its_size)
            block.narrow(axis, size, self.spline - 1).copy_(block.narrow(axis, 0, self.spline - 1))
        return padded


def chunk_size(spline: int, device: torch.device) -> int:
    """How many atoms have their patches at once."""
    return max(16, (PATCH_BYTES if device.type == "cpu" else DEVICE_PATCH_BYTES) // (8 * spline**3))


def cubes_of(moments: Tensor, order: int) -> Tensor:
    """(n, D³) of moments (n, M): the coefficient of every product of derivatives along the three axes."""
    cubes = moments.new_zeros(len(moments), (order + 1) ** 3)
    return cubes.index_copy_(1, _places(order, moments.device), moments)


def patches_of(cubes: Tensor, weights: Tensor) -> Tensor:
    """(n, p, p·p) what atoms with some moments, (n, D³), and weights, (3, n, D, p), put on the points around them."""
    first, along_second, along_third = weights
    n, degrees, p = first.shape
    line = torch.bmm(cubes.view(n, degrees**2, degrees), along_third)
    plane = torch.bmm(along_second.mT, line.view(n, degrees, degrees * p)).view(n, p, degrees, p)
    return torch.bmm(first.mT, plane.transpose(1, 2).flatten(2))


def derivatives_at_atoms(patches: Tensor, weights: Tensor, order: int) -> Tensor:
    """(n, M): the transpose of `patches_of`, of patches (n, p, p, p), but for products of too high a rank."""
    first, along_second, along_third = weights
    n, degrees, p = first.shape
    line = torch.bmm(torch.bmm(first, patches.flatten(2)).view(n, degrees * p, p), along_third.mT)
    cube = torch.bmm(along_second, line.view(n, degrees, p, degrees).transpose(1, 2).flatten(2))
    return cube.view(n, degrees**3).index_select(1, _places(order, patches.device))


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # these outlive the call that needed them first
def _offsets(padded: tuple[int, int, int], spline: int, device: torch.device) -> Tensor:
    """(p³,): the points of a patch after its first one."""
    corner = torch.arange(spline)
    offsets = (corner[:, None, None] * padded[1] + corner[:, None]) * padded[2] + corner
    return offsets.flatten().to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _ends(sizes: tuple[int, int, int], device: torch.device) -> Tensor:
    """(2, 3): number of points along each axis, and of the last one."""
    ends = torch.tensor(sizes, dtype=torch.float64)
    return torch.stack([ends, ends - 1.0]).to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _meshes(n_structures: int, n_atoms: int, planes: int, device: torch.device) -> Tensor:
    """(G·n,): planes of the meshes before the one of each atom's structure."""
    return (planes * torch.arange(n_structures)).repeat_interleave(n_atoms).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _places(order: int, device: torch.device) -> Tensor:
    """(M,): where the derivative (p, q, r) is in a flattened cube of q, p and r."""
    degrees = order + 1
    return torch.tensor([(q * degrees + p) * degrees + r for p, q, r in exponents(order)]).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def weight_table(sizes: tuple[int, int, int], spline: int, order: int, device: torch.device) -> Tensor:
    """(3, p, (order + 1)·p): from powers of the place in a grid interval to weights and derivatives along each axis."""
    pieces = torch.zeros(order + 1, spline, spline, dtype=torch.float64)  # derivative, point, power
    for point in range(spline):
        coefficients = _piece(spline, spline - 1 - point)
        for derivative in range(order + 1):
            pieces[derivative, point, : len(coefficients)] = torch.tensor(
                [float(c) for c in coefficients], dtype=torch.float64
            )
            coefficients = [power * c for power, c in enumerate(coefficients)][1:]
    scale = torch.tensor([[float(size) ** d for d in range(order + 1)] for size in sizes], dtype=torch.float64)
    table = scale[:, :, None, None] * pieces
    return table.permute(0, 3, 1, 2).reshape(3, spline, -1).contiguous().to(device)


def _piece(spline: int, number: int) -> list[Fraction]:
    """Coefficients, in powers of x − ½, of the cardinal B-spline on its interval [number, number + 1], x from there."""
    out = [Fraction(0)] * spline
    for knot in range(number + 1):
        factor = Fraction((-1) ** knot * math.comb(spline, knot), math.factorial(spline - 1))
        shift = Fraction(1, 2) + number - knot
        for power in range(spline):
            out[power] += factor * math.comb(spline - 1, power) * shift ** (spline - 1 - power)
    return out
