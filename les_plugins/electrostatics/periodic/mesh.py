"""Periodic electrostatics of smeared multipoles on a particle mesh: the sum of `reciprocal.py` to a stated tolerance.

Spread, transform, multiply by the kernel, transform back, gather. `solver.py` calls it for large structures.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.mesh_size import mesh_of
from les_plugins.electrostatics.periodic.reciprocal import ROUNDING, proper_lattice
from les_plugins.electrostatics.periodic.reciprocal_energy import ReciprocalResult, reciprocal_energy
from les_plugins.electrostatics.periodic.splines import Mesh
from les_plugins.electrostatics.settings import ElectrostaticsSettings


def mesh_electrostatics(
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None = None,
    training: bool = False,
) -> ReciprocalResult:
    """Energy and local fields of the permanent moments of one periodic structure.

    Args:
        positions: (n, 3) Å, float64.
        cell: (3, 3) Å, rows are lattice vectors; any handedness.
        multipoles: moments of the n atoms.
        settings: of the sums; the tolerance of the mesh is against the direct sum.
        ranks, training: see `reciprocal_energy`.

    Returns:
        As `reciprocal_energy`. All derivatives are those of the energy on the mesh, to rounding.

    Raises:
        GeometryError: a singular cell, or one that needs more mesh points than MOST_MESH_POINTS.

    Source: theory 2.1; Essmann et al., J. Chem. Phys. 103, 8577 (1995); Sagui, Pedersen, Darden, J. Chem. Phys.
    120, 73 (2004), without their real-space part: the smearing is the physics here.
    """
    sigma, cutoff = settings.sigma, settings.cutoff
    mesh = mesh_of(proper_lattice(cell), sigma, cutoff, multipoles.order, settings.mesh_tolerance)
    inverse = torch.linalg.inv(cell)
    mesh_filter = _MeshFilter(_kernel(cell, inverse, mesh, sigma, cutoff))
    return reciprocal_energy(positions, multipoles, inverse, mesh, mesh_filter, settings, ranks, training)


def squared_lengths(inverse: Tensor, mesh: Mesh) -> Tensor:
    """(n₁, n₂, n₃/2 + 1) Å⁻²: |k|² in the order of the half-complex transform, from the inverse of the cell, (3, 3)."""
    (n_1, n_2, n_3), _ = _frequencies(mesh.sizes, mesh.spline, inverse.device)
    metric = (2.0 * math.pi) ** 2 * inverse.T @ inverse
    plane = (
        (metric[0, 0] * n_1.square())[:, None] + metric[1, 1] * n_2.square() + (2.0 * metric[0, 1] * n_1)[:, None] * n_2
    )
    slope = 2.0 * ((metric[0, 2] * n_1)[:, None] + metric[1, 2] * n_2)
    return plane[:, :, None] + slope[:, :, None] * n_3 + metric[2, 2] * n_3.square()


def within(k_squared: Tensor, cutoff: float) -> Tensor:
    """Which of them belong to the sum, but for k = 0."""
    return k_squared.detach() <= (cutoff * (1.0 + ROUNDING)) ** 2


def _kernel(cell: Tensor, inverse: Tensor, mesh: Mesh, sigma: float, cutoff: float) -> Tensor:
    """(n₁, n₂, n₃/2 + 1): (C / V) exp(−σ²k²/2)/k² times the splines' influence; zero at k = 0 and beyond the cutoff."""
    _, (w_1, w_2, w_3) = _frequencies(mesh.sizes, mesh.spline, cell.device)
    k_squared = squared_lengths(inverse, mesh)
    inside = within(k_squared, cutoff)
    inside[0, 0, 0] = False
    safe = torch.where(inside, k_squared, 1.0)
    influence = (w_1[:, None] * w_2)[:, :, None] * w_3
    volume = torch.linalg.det(cell).abs()
    return smeared_coulomb_kernel(safe, volume, sigma) * (influence * inside)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # they outlive the call that needed them first
def _frequencies(
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


class _MeshFilter(NamedTuple):
    """E = Σ kernel |S(k)|² by fast Fourier transforms of a density on the mesh."""

    kernel: Tensor

    def filtered(self, density: Tensor) -> Tensor:
        """∂E/∂density on the mesh."""
        potential: Tensor = _Convolution.apply(density, self.kernel)  # type: ignore[no-untyped-call]
        return potential

    def kernel_gradient(self, density: Tensor) -> Tensor:
        """∂E/∂kernel."""
        return 0.5 * _CrossSpectrum.apply(density, density)  # type: ignore[no-untyped-call, no-any-return]


class _Convolution(torch.autograd.Function):
    """∂E/∂density of E = Σ_k kernel(k) |density(k)|²; with `_CrossSpectrum` the derivatives of one trilinear form."""

    @staticmethod
    def forward(ctx: Any, density: Tensor, kernel: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)  # nothing is transformed or sent where nothing depends on the potential
        ctx.save_for_backward(density, kernel)
        return _convolve(density, kernel)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if grad is None:
            return None, None
        density, kernel = ctx.saved_tensors
        on_density = _Convolution.apply(grad, kernel) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        on_kernel = _CrossSpectrum.apply(grad, density) if ctx.needs_input_grad[1] else None  # type: ignore[no-untyped-call]
        return on_density, on_kernel


class _CrossSpectrum(torch.autograd.Function):
    """2 Re(a(k)* b(k)), of both ±k where the half-complex transform keeps one."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b)
        first = torch.view_as_real(torch.fft.rfftn(a))
        second = first if a is b else torch.view_as_real(torch.fft.rfftn(b))
        counts = torch.full((a.shape[2] // 2 + 1,), 4.0, dtype=a.dtype, device=a.device)
        counts[0] = 2.0
        return (first * second).sum(-1).mul_(counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if grad is None:
            return None, None
        a, b = ctx.saved_tensors
        on_a = _Convolution.apply(b, grad) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        on_b = _Convolution.apply(a, grad) if ctx.needs_input_grad[1] else None  # type: ignore[no-untyped-call]
        return on_a, on_b


def _convolve(density: Tensor, kernel: Tensor) -> Tensor:
    spectrum = torch.fft.rfftn(density).mul_(2.0 * kernel)
    potential: Tensor = torch.fft.irfftn(spectrum, s=density.shape, norm="forward")
    return potential
