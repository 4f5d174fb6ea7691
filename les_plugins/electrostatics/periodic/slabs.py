"""A particle mesh that the ranks of a process group share out in slabs, and its transform by exchanges among them.

Each rank spreads the atoms whose splines reach its planes and transforms these along two axes. Of the waves along the
two, those within the cutoff are shared out in turn: a rank receives what the waves of its own see along the third axis.
`mesh.py` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.periodic.columns import Columns, squared_length
from les_plugins.electrostatics.periodic.influence import mesh_frequencies, within
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.splines import Mesh


@dataclass(frozen=True)
class SlabMesh(Mesh):
    """Planes of a mesh along its first axis: `spread` gives their part of it, `gather` takes their part of values.

    Of an atom it counts what reaches the planes. Atoms with nothing there must be left out (`takers`).

    Attributes:
        first: number of the first plane.
        planes: how many there are, which may be none.
    """

    first: int
    planes: int

    @classmethod
    def of(cls, mesh: Mesh, rank: int, n_ranks: int) -> SlabMesh:
        """The slab of one of so many ranks."""
        first, end = shared_out(mesh.sizes[0], n_ranks)[rank : rank + 2]
        return cls(mesh.sizes, mesh.spline, first, end - first)

    def takers(self, fractional: Tensor, n_ranks: int) -> Tensor:
        """(ranks, N): whether the splines of atoms at fractional coordinates (N, 3) reach the slab of each rank."""
        size = self.sizes[0]
        corner = (fractional.detach()[:, 0] * size).floor().clamp(0, size - 1).long()  # as the splines have it
        slabs = [SlabMesh.of(self, rank, n_ranks) for rank in range(n_ranks)]
        return torch.stack([(slab._first_start(corner) < slab._starts[0]) & (slab.planes > 0) for slab in slabs])

    @property
    def _starts(self) -> tuple[int, int, int]:
        return self.planes + self.spline - 1, self.sizes[1], self.sizes[2]

    def _first_start(self, corner: Tensor) -> Tensor:
        return (corner - self.first + self.spline - 1) % self.sizes[0]

    def _folded(self, padded: Tensor) -> Tensor:
        reach = self.spline - 1
        for axis in (1, 2):
            beyond = padded.narrow(axis, self.sizes[axis], reach)
            padded = padded.narrow(axis, 0, self.sizes[axis])
            padded.narrow(axis, 0, reach).add_(beyond)
        own = padded.new_zeros(self.planes, *self.sizes[1:])
        for inside, image in self._images():
            own[inside] += padded[image]
        return own

    def _unfolded(self, values: Tensor) -> Tensor:
        padded, reach = values.new_zeros(self._padded), self.spline - 1
        _, second, third = self.sizes
        for inside, image in self._images():
            padded[image, :second, :third] = values[inside]
        padded[:, :second, third:].copy_(padded[:, :second, :reach])
        padded[:, second:].copy_(padded[:, :reach])
        return padded

    def _images(self) -> Iterator[tuple[slice, slice]]:
        """Own planes, and where they or their periodic images are in the padded slab."""
        reach = self.spline - 1
        for shift in (-self.sizes[0], 0, self.sizes[0]):
            start = max(reach, -shift)
            end = min(reach + self.planes, self._padded[0] - shift)
            if start < end:
                yield slice(start - reach, end - reach), slice(start + shift, end + shift)


@dataclass(frozen=True)
class Waves:
    """The waves within a cutoff, in columns along the first axis of the mesh that the ranks share out.

    Attributes:
        sizes, spline: of the mesh.
        columns: of each rank.
        planes: where the planes of each rank begin, and the end.
        ranks: the ranks.
    """

    sizes: tuple[int, int, int]
    spline: int
    columns: list[Columns]
    planes: list[int]
    ranks: Ranks

    @classmethod
    def of(cls, inverse: Tensor, mesh: Mesh, cutoff: float, ranks: Ranks) -> Waves:
        """Those of a cell, by its inverse (3, 3); the same on every rank."""
        columns = Columns.shared_out(inverse, mesh, cutoff, ranks.size)
        return cls(mesh.sizes, mesh.spline, columns, shared_out(mesh.sizes[0], ranks.size), ranks)

    @property
    def own(self) -> Tensor:
        """(own,): places of the columns of this rank."""
        return self.columns[self.ranks.rank].places

    @property
    def counts(self) -> Tensor:
        """(own, 1, 1): 2 where the half-complex transform keeps one of ±k, 1 where both."""
        return torch.where(self.own % self._width == 0, 1.0, 2.0).double()[:, None, None]

    def of_mesh(self, slab: Tensor) -> Tensor:
        """(own, n₁, 2): Σ slab(x) exp(−ik·x) over the planes of all ranks, real and imaginary part."""
        out: Tensor = _ToWaves.apply(slab, self)  # type: ignore[no-untyped-call]
        return out

    def to_mesh(self, amplitudes: Tensor) -> Tensor:
        """(planes, n₂, n₃): Re Σ amplitude(k) exp(ik·x) over ±k of all ranks' columns (own, n₁, 2)."""
        out: Tensor = _ToMesh.apply(amplitudes, self)  # type: ignore[no-untyped-call]
        return out

    @property
    def _width(self) -> int:
        return self.sizes[2] // 2 + 1

    def _forward(self, slab: Tensor) -> Tensor:
        own, (planes, sent, received) = self.columns[self.ranks.rank], self._bytes()
        lines = torch.fft.rfft2(slab).flatten(1) if len(slab) else slab.new_empty(0, self.sizes[1] * self._width)
        lines = lines.to(torch.complex128)
        parts = [columns.packed(lines.index_select(1, columns.places)) for columns in self.columns]
        got = self.ranks.exchange(torch.cat(parts), sent, received).split(received)
        whole = torch.cat([own.unpacked(part, number) for part, number in zip(got, planes, strict=True)])
        if not len(self.own):
            return slab.new_empty(0, self.sizes[0], 2)
        return torch.view_as_real(torch.fft.fft(whole.T.contiguous()))

    def _backward(self, amplitudes: Tensor) -> Tensor:
        own, (planes, received, sent) = self.columns[self.ranks.rank], self._bytes()
        lines = torch.view_as_complex(amplitudes)
        lines = (torch.fft.ifft(lines, norm="forward") if len(lines) else lines).T
        parts = [own.packed(lines[start:end]) for start, end in pairwise(self.planes)]
        got = self.ranks.exchange(torch.cat(parts), sent, received).split(received)
        n_planes = planes[self.ranks.rank]
        if not n_planes:
            return amplitudes.new_empty(0, *self.sizes[1:])
        whole = lines.new_zeros(n_planes, self.sizes[1] * self._width)
        for part, columns in zip(got, self.columns, strict=True):
            whole.index_copy_(1, columns.places, columns.unpacked(part, n_planes))
        slab: Tensor = torch.fft.irfft2(whole.view(n_planes, self.sizes[1], -1), s=self.sizes[1:], norm="forward")
        return slab

    def _bytes(self) -> tuple[list[int], list[int], list[int]]:
        """Planes of each rank, and `bytes_of_transform` of this one."""
        planes = [end - start for start, end in pairwise(self.planes)]
        return planes, *bytes_of_transform(self.columns, planes, self.ranks.rank)


class SlabFilter:
    """E = Σ kernel |S(k)|² of a density of which each rank has its planes; each has the kernel of its own columns.

    Args:
        kernel: (own, n₁) of `waves`.
        waves: the transform.
    """

    owners: Tensor | None = None

    def __init__(self, kernel: Tensor, waves: Waves) -> None:
        self.kernel, self._waves = kernel, waves
        self._last: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, cell: Tensor, inverse: Tensor, waves: Waves, sigma: float, cutoff: float) -> SlabFilter:
        """As on the whole mesh: (C / V) exp(−σ²k²/2)/k² times the splines' influence, zero at k = 0."""
        (n_1, n_2, n_3), (w_1, w_2, w_3) = mesh_frequencies(waves.sizes, waves.spline, cell.device)
        second, third = waves.own // len(n_3), waves.own % len(n_3)
        metric, slope, rest = squared_length(inverse, n_2[second], n_3[third])
        k_squared = rest[:, None] + slope[:, None] * n_1 + metric[0, 0] * n_1.square()
        inside = within(k_squared, cutoff) & ((waves.own > 0)[:, None] | (n_1 != 0.0))
        safe = torch.where(inside, k_squared, 1.0)
        influence = (w_2[second] * w_3[third])[:, None] * w_1
        volume = torch.linalg.det(cell).abs()
        return cls(smeared_coulomb_kernel(safe, volume, sigma) * (influence * inside), waves)

    def filtered(self, density: Tensor) -> Tensor:
        """∂E/∂density on the planes."""
        return self._waves.to_mesh(2.0 * self.kernel.unsqueeze(-1) * self._amplitudes(density))

    def kernel_gradient(self, density: Tensor) -> Tensor:
        """∂E/∂kernel."""
        return (self._waves.counts * self._amplitudes(density).square()).sum(-1)

    def _amplitudes(self, density: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not density:
            self._last = density, self._waves.of_mesh(density)
        return self._last[1]


def shared_out(number: int, n_ranks: int) -> list[int]:
    """Where the part of each rank begins, and the end."""
    return [number * rank // n_ranks for rank in range(n_ranks + 1)]


def bytes_of_transform(columns: list[Columns], planes: list[int], rank: int) -> tuple[list[int], list[int]]:
    """What goes with a transform from one rank to each, and from each to it; its inverse sends the other way.

    Args:
        columns, planes: of each rank, the latter as a number.
    """
    return [each.bytes_of(planes[rank]) for each in columns], [columns[rank].bytes_of(number) for number in planes]


class _ToWaves(torch.autograd.Function):
    """`Waves.of_mesh`; its transpose is `to_mesh`, but for the weight of ±k."""

    @staticmethod
    def forward(ctx: Any, slab: Tensor, waves: Waves) -> Tensor:
        ctx.set_materialize_grads(False)  # nothing is sent where nothing depends on the waves
        ctx.waves = waves
        return waves._forward(slab)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        return None if grad is None else ctx.waves.to_mesh(grad / ctx.waves.counts), None


class _ToMesh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, amplitudes: Tensor, waves: Waves) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.waves = waves
        return waves._backward(amplitudes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None]:
        return None if grad is None else ctx.waves.counts * ctx.waves.of_mesh(grad), None
