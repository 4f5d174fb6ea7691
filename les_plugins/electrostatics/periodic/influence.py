"""Frequencies of a mesh's transform, and what its splines do to each of them. `mesh.py` and `slabs.py` call it."""

from __future__ import annotations

from functools import lru_cache

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
