"""Moments to a mesh and back through B-splines: smooth particle mesh without the reciprocal part. `mesh.py` calls it.

A B-spline of order p is a polynomial of degree p − 1 on each of its p unit pieces, so that all weights of an atom, and
their derivatives, are one small matrix product. A charge is p³ weights on the mesh; moments and fields are derivatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from les_plugins.electrostatics.periodic.structure_factor import cubic

#: Bytes of the patches of one chunk of atoms: small enough for the processor's cache, and larger on an accelerator.
PATCH_BYTES = {"cpu": 2 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class Mesh:
    """A periodic mesh with `sizes` points along the lattice vectors, and B-splines of order `spline` on it."""

    sizes: tuple[int, int, int]
    spline: int

    def spread(self, fractional: Tensor, moments: Tensor, order: int) -> Tensor:
        """Density on the mesh of point moments: what `gather` is the transpose of.

        Args:
            fractional: (N, 3) fractional coordinates in [0, 1].
            moments: (N, M) coefficient of every fractional derivative of `exponents(order)`.
            order: highest rank of the moments.

        Returns:
            (sizes), shifted by the same few points for all atoms, which a convolution does not see.
        """
        p, (_, second, third) = self.spline, self._padded
        mesh = moments.new_zeros(math.prod(self._padded))
        corner = torch.arange(p, device=mesh.device)
        offsets = ((corner[:, None, None] * second + corner[:, None]) * third + corner).flatten()
        cube = moments.new_zeros(len(moments), (order + 1) ** 3)
        cube[:, list(cubic(order))] = moments
        cube = cube.view(-1, order + 1, order + 1, order + 1)
        for atoms in self._chunks(fractional):
            start, (first, along_second, along_third) = self._weights(fractional[atoms], order)
            moment, plane = cube[atoms], moments.new_empty(len(start), order + 1, p, p)
            for rank in range(order + 1):
                few = order + 1 - rank
                line = torch.bmm(moment[:, rank, :few, :few], along_third[:, :few])
                plane[:, rank] = torch.bmm(along_second[:, :few].transpose(1, 2), line)
            patch = torch.bmm(first.transpose(1, 2), plane.flatten(2))
            mesh.scatter_add_(0, (start[:, None] + offsets).flatten(), patch.flatten())
        return self._folded(mesh.view(self._padded))

    def gather(self, fractional: Tensor, values: Tensor, order: int) -> Tensor:
        """(N, M): every fractional derivative of `exponents(order)` at the atoms, of the splines with given values."""
        p, (_, second, third) = self.spline, self._padded
        padded = self._unfolded(values)
        # every patch as one row of an overlapping view: no index of its points is ever made
        along = self._starts
        last = ((along[0] - 1) * second + along[1] - 1) * third + along[2]
        patches = padded.as_strided((last, p, p, p), (1, second * third, third, 1))
        cube = values.new_empty(len(fractional), order + 1, order + 1, order + 1)
        for atoms in self._chunks(fractional):
            start, (first, along_second, along_third) = self._weights(fractional[atoms], order)
            plane = torch.bmm(first, patches.index_select(0, start).flatten(2)).view(len(start), order + 1, p, p)
            local = values.new_zeros(len(start), order + 1, order + 1, order + 1)
            for rank in range(order + 1):
                few = order + 1 - rank
                line = torch.bmm(along_second[:, :few], plane[:, rank])
                local[:, rank, :few, :few] = torch.bmm(line, along_third[:, :few].transpose(1, 2))
            cube[atoms] = local
        return cube.flatten(1)[:, list(cubic(order))]

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

    def _chunks(self, fractional: Tensor) -> tuple[Tensor, ...]:
        """Indices of the atoms, by neighbourhood: a chunk finds its part of the mesh in the processor's cache."""
        size = max(16, PATCH_BYTES.get(fractional.device.type, 2 << 20) // (8 * self.spline**3))
        across = [points // self.spline + 1 for points in self.sizes]
        first, second, third = (fractional * (fractional.new_tensor(self.sizes) / self.spline)).long().unbind(1)
        neighbourhood = (first * across[1] + second) * across[2] + third
        chunks: tuple[Tensor, ...] = torch.argsort(neighbourhood).split(size)
        return chunks

    def _weights(self, fractional: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """Place of each atom's patch in the flat padded mesh, (n,), and its weights with derivatives, (3, n, D, p)."""
        table = _table(self.sizes, self.spline, order, fractional.device)
        sizes = torch.tensor(self.sizes, dtype=fractional.dtype, device=fractional.device)
        place = fractional * sizes
        corner = torch.minimum(place.floor(), sizes - 1.0).clamp(min=0.0)
        inside = (place - corner - 0.5).T  # (3, n) in [−½, ½]
        powers = [torch.ones_like(inside)]
        for _ in range(self.spline - 1):
            powers.append(powers[-1] * inside)
        weights = torch.bmm(torch.stack(powers, 2), table).view(3, len(fractional), order + 1, self.spline)
        first, second, third = corner.long().unbind(1)
        return (self._first_start(first) * self._padded[1] + second) * self._padded[2] + third, weights

    def _folded(self, padded: Tensor) -> Tensor:
        """The periodic mesh: what lies beyond its end is added at its beginning."""
        for axis, size in enumerate(self.sizes):
            beyond = padded.narrow(axis, size, self.spline - 1)
            padded = padded.narrow(axis, 0, size)
            padded.narrow(axis, 0, self.spline - 1).add_(beyond)
        return padded

    def _unfolded(self, values: Tensor) -> Tensor:
        """The padded mesh: its beginning repeated beyond its end."""
        padded = values.new_empty(self._padded)
        padded[tuple(slice(size) for size in self.sizes)] = values
        for axis, size in reversed(list(enumerate(self.sizes))):
            block = padded
            for other in range(axis):
                block = block.narrow(other, 0, self.sizes[other])
            block.narrow(axis, size, self.spline - 1).copy_(block.narrow(axis, 0, self.spline - 1))
        return padded


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # the table outlives the call that needed it first
def _table(sizes: tuple[int, int, int], spline: int, order: int, device: torch.device) -> Tensor:
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
