"""Periodic electrostatics of smeared multipoles on a particle mesh: the sum of `reciprocal.py` to a stated tolerance.

Spread, transform, multiply by the kernel, transform back, gather. `solver.py` calls it for large structures.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.parallel.routes import Routes
from les_plugins.electrostatics.periodic.influence import mesh_frequencies, within
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.mesh_size import mesh_of
from les_plugins.electrostatics.periodic.reciprocal import proper_lattice
from les_plugins.electrostatics.periodic.reciprocal_energy import ReciprocalResult, reciprocal_energy
from les_plugins.electrostatics.periodic.slabs import SlabFilter, SlabMesh, Waves
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
        ranks: the structure's other atoms are on the other ranks of this group, which share the mesh out in slabs.
        training: see `reciprocal_energy`.

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
    if ranks is None or ranks.size == 1:
        mesh_filter = _MeshFilter(_kernel(cell, inverse, mesh, sigma, cutoff))
        return reciprocal_energy(positions, multipoles, inverse, mesh, mesh_filter, settings, None, training)
    slab = SlabMesh.of(mesh, ranks.rank, ranks.size)
    slab_filter = SlabFilter.of(cell, inverse, Waves.of(inverse, mesh, cutoff, ranks), sigma, cutoff)

    def routes(fractional: Tensor) -> Routes:
        return Routes.of(slab.takers(fractional, ranks.size), ranks)

    return reciprocal_energy(positions, multipoles, inverse, slab, slab_filter, settings, None, training, routes)


def squared_lengths(inverse: Tensor, mesh: Mesh) -> Tensor:
    """(n₁, n₂, n₃/2 + 1) Å⁻²: |k|² in the order of the half-complex transform, from the inverse of the cell, (3, 3)."""
    (n_1, n_2, n_3), _ = mesh_frequencies(mesh.sizes, mesh.spline, inverse.device)
    metric = (2.0 * math.pi) ** 2 * inverse.T @ inverse
    plane = (
        (metric[0, 0] * n_1.square())[:, None] + metric[1, 1] * n_2.square() + (2.0 * metric[0, 1] * n_1)[:, None] * n_2
    )
    slope = 2.0 * ((metric[0, 2] * n_1)[:, None] + metric[1, 2] * n_2)
    return plane[:, :, None] + slope[:, :, None] * n_3 + metric[2, 2] * n_3.square()


def _kernel(cell: Tensor, inverse: Tensor, mesh: Mesh, sigma: float, cutoff: float) -> Tensor:
    """(n₁, n₂, n₃/2 + 1): (C / V) exp(−σ²k²/2)/k² times the splines' influence; zero at k = 0 and beyond the cutoff."""
    _, (w_1, w_2, w_3) = mesh_frequencies(mesh.sizes, mesh.spline, cell.device)
    k_squared = squared_lengths(inverse, mesh)
    inside = within(k_squared, cutoff)
    inside[0, 0, 0] = False
    safe = torch.where(inside, k_squared, 1.0)
    influence = (w_1[:, None] * w_2)[:, :, None] * w_3
    volume = torch.linalg.det(cell).abs()
    return smeared_coulomb_kernel(safe, volume, sigma) * (influence * inside)


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
