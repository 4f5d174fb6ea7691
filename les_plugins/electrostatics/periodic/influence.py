"""Frequencies of a mesh's transform, and what its splines do to each of them. `mesh.py` and `slabs.py` call it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.periodic.reciprocal import ROUNDING


def within(k_squared: Tensor, cutoff: float) -> Tensor:
    """Which of them belong to the sum, but for k = 0."""
    return k_squared.detach() <= (cutoff * (1.0 + ROUNDING)) ** 2


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # they outlive the call that needed them first
def mesh_frequencies(
    sizes: tuple[int, int, int], spline: int, device: torch.device
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Integer frequencies of the half-complex transform along each axis, and the splines' influence at each.

    With Û(n) the transform of the spline and Û_l = Û(n + l·size) that of its images, the influence Û² / (Σ Û_l²)² gives
    the energy's least mean square error (Hockney and Eastwood), and is known for each axis apart. The frequency at half
    the size, which is two vectors in one, has none.
    """
    frequencies, influences = [], []
    for axis, size in enumerate(sizes):
        place = torch.arange(size // 2 + 1) if axis == 2 else (torch.arange(size) + size // 2) % size - size // 2
        n = place.double()
        images = n[:, None] / size + torch.arange(-8.0, 9.0, dtype=torch.float64)
        transform = torch.sinc(images) ** (2 * spline)
        influence = transform[:, 8] / transform.sum(1).square()
        influence = torch.where(2.0 * n.abs() < size, influence, 0.0)
        frequencies.append(n.to(device))
        influences.append(influence.to(device))
    return tuple(frequencies), tuple(influences)


class MeshTables(NamedTuple):
    """What |k|² and the splines' influence are made of, for every cell with a mesh of the same sizes.

    Attributes:
        coefficients: (9, 3·n₁·n₂) from the metric M of a cell, |k|² = n·M n, to what multiplies `powers`.
        powers: (3, n₃/2 + 1) 1, n₃ and n₃².
        in_plane: (n₁, n₂, 1) influence along the first two axes.
        along_third: (n₃/2 + 1,) likewise.
    """

    coefficients: Tensor
    powers: Tensor
    in_plane: Tensor
    along_third: Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def mesh_tables(sizes: tuple[int, int, int], spline: int, device: torch.device) -> MeshTables:
    """Those of a mesh, in the order of the half-complex transform."""
    (n_1, n_2, n_3), (w_1, w_2, w_3) = mesh_frequencies(sizes, spline, torch.device("cpu"))
    first, second = n_1[:, None], n_2
    table = torch.zeros(3, 3, len(n_1), len(n_2), 3, dtype=torch.float64)
    table[0, 0, ..., 0], table[1, 1, ..., 0], table[0, 1, ..., 0] = first**2, second**2, 2.0 * first * second
    table[0, 2, ..., 1], table[1, 2, ..., 1], table[2, 2, ..., 2] = 2.0 * first, 2.0 * second, 1.0
    powers = torch.stack([torch.ones_like(n_3), n_3, n_3**2])
    tables = (table.view(9, -1), powers, (w_1[:, None] * w_2)[:, :, None], w_3)
    return MeshTables(*(one.to(device) for one in tables))
