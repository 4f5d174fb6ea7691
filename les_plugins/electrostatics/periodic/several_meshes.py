"""Meshes of different sizes side by side in one array, for few operators on an accelerator. `mesh.py` calls it.

Atoms of all structures are spread and gathered together; transforms alone are done mesh by mesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from les_plugins.electrostatics.periodic.splines import (
    AXES,
    Mesh,
    chunk_size,
    cubes_of,
    derivatives_at_atoms,
    patches_of,
    weight_table,
)

#: A mesh whose weights are those of an interval that is one long.
UNIT = (1, 1, 1)


@dataclass(frozen=True)
class SeveralMeshes:
    """Meshes of G structures, with splines of one order, in one array; those of the same sizes are neighbours in it.

    Attributes:
        each: mesh of every structure.
    """

    each: tuple[Mesh, ...]

    def spread(self, fractional: Tensor, moments: Tensor, order: int) -> Tensor:
        """(T,) density of point moments on all meshes; arguments as for `Mesh.spread`."""
        density = moments.new_zeros(sum(math.prod(mesh.sizes) for mesh in self.each))
        cubes = cubes_of(moments.flatten(0, -2), order)
        first, weights = self._patches(fractional, order)
        for atoms in self._chunks(cubes):
            patches = patches_of(cubes[atoms], weights[:, atoms])
            density.scatter_add_(0, self._points(first[:, atoms]).flatten(), patches.flatten())
        return density

    def gather(self, fractional: Tensor, values: Tensor, order: int) -> Tensor:
        """(G, n, M): the transpose of `spread`."""
        first, weights = self._patches(fractional, order)
        found = [
            derivatives_at_atoms(values.take(self._points(first[:, atoms])), weights[:, atoms], order)
            for atoms in self._chunks(first[0])
        ]
        local = torch.cat(found) if len(found) > 1 else found[0]
        return local.view(*fractional.shape[:-1], -1)

    def to_waves(self, density: Tensor) -> Tensor:
        """(H,) complex: half-complex transforms of all meshes."""
        parts = density.split([n * math.prod(mesh.sizes) for mesh, n in self.kinds.items()])
        meshes = (part.view(-1, *mesh.sizes) for part, mesh in zip(parts, self.kinds, strict=True))
        return torch.cat([torch.fft.rfftn(each, dim=AXES).flatten() for each in meshes])

    def to_mesh(self, spectrum: Tensor) -> Tensor:
        """(T,): inverse transforms of all meshes, not divided by the number of points."""
        parts = spectrum.split([n * math.prod(_half(mesh)) for mesh, n in self.kinds.items()])
        found = []
        for part, mesh in zip(parts, self.kinds, strict=True):
            waves = part.view(-1, *_half(mesh))
            found.append(torch.fft.irfftn(waves, s=mesh.sizes, dim=AXES, norm="forward").flatten())
        return torch.cat(found)

    def counts(self, device: torch.device) -> Tensor:
        """(H,) 4 for every wave, and 2 where the half-complex transform has both of ±k."""
        return _counts(self, device)

    @property
    def kinds(self) -> dict[Mesh, int]:
        """Meshes of different sizes, in their order in the array, and how many structures have each."""
        return {mesh: self.each.count(mesh) for mesh in dict.fromkeys(self.each)}

    @property
    def order(self) -> list[int]:
        """Places of the structures in the order of their meshes in the array."""
        return [place for mesh in self.kinds for place, one in enumerate(self.each) if one == mesh]

    def owners(self, device: torch.device) -> Tensor:
        """(H,) place of the structure that each wave belongs to."""
        return _owners(self, device)

    def _patches(self, fractional: Tensor, order: int) -> tuple[Tensor, Tensor]:
        """(7, n): first point of each atom's patch along the axes, sizes of its mesh and its place; (3, n, D, p)."""
        table, scale = _of_atoms(self, fractional.shape[1], order, fractional.device)
        sizes, spline = table[:3].double(), self.each[0].spline
        place = fractional.flatten(0, 1).T * sizes
        corner = torch.minimum(place.floor(), sizes - 1.0).clamp(min=0.0)
        powers = torch.linalg.vander(place - corner - 0.5, N=spline)
        weights = torch.bmm(powers, weight_table(UNIT, spline, order, fractional.device))
        return torch.cat([corner.long(), table]), weights.unflatten(2, (order + 1, spline)) * scale

    def _points(self, first: Tensor) -> Tensor:
        """(n, p, p, p) of the patches, in the array."""
        steps = torch.arange(self.each[0].spline, device=first.device)
        along, sizes = first[:3, :, None] + steps, first[3:6, :, None]
        row, column, depth = (along % sizes).unbind()
        _, n_2, n_3 = sizes.unbind()
        lines = (row * n_2)[:, :, None] + column[:, None]
        ends = depth + first[6, :, None]
        return (lines * n_3[:, :, None])[..., None] + ends[:, None, None]

    def _chunks(self, atoms: Tensor) -> list[slice]:
        size = chunk_size(self.each[0].spline, atoms.device)
        return [slice(start, start + size) for start in range(0, len(atoms), size)]


def _half(mesh: Mesh) -> tuple[int, int, int]:
    """Sizes of its half-complex transform."""
    return mesh.sizes[0], mesh.sizes[1], mesh.sizes[2] // 2 + 1


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # these outlive the call that needed them first
def _of_atoms(meshes: SeveralMeshes, n_atoms: int, order: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(4, G·n): sizes of every atom's mesh and its place in the array; (3, G·n, D, 1) what multiplies its weights."""
    starts, end = [0] * len(meshes.each), 0
    for place in meshes.order:
        starts[place], end = end, end + math.prod(meshes.each[place].sizes)
    rows = torch.tensor([[*mesh.sizes, start] for mesh, start in zip(meshes.each, starts, strict=True)])
    table = rows.repeat_interleave(n_atoms, 0).T.contiguous()
    scale = table[:3, :, None, None].double() ** torch.arange(order + 1)[:, None]
    return table.to(device), scale.to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _counts(meshes: SeveralMeshes, device: torch.device) -> Tensor:
    found = []
    for mesh, n_structures in meshes.kinds.items():
        counts = torch.full(_half(mesh), 4.0, dtype=torch.float64)
        counts[..., 0] = 2.0
        found.append(counts.flatten().repeat(n_structures))
    return torch.cat(found).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _owners(meshes: SeveralMeshes, device: torch.device) -> Tensor:
    numbers = torch.tensor([math.prod(_half(meshes.each[place])) for place in meshes.order])
    return torch.tensor(meshes.order).repeat_interleave(numbers).to(device)
