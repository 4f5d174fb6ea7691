"""Periodic electrostatics of smeared multipoles on a particle mesh: the sum of `reciprocal.py` to a stated tolerance.

Spread, transform, multiply by the kernel, transform back, gather. `solver.py` calls it for large structures.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.lattice import determinant
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks
from les_plugins.electrostatics.parallel.routes import Routes
from les_plugins.electrostatics.periodic.influence import mesh_tables, within
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.electrostatics.periodic.mesh_size import mesh_of
from les_plugins.electrostatics.periodic.reciprocal import proper_lattice
from les_plugins.electrostatics.periodic.reciprocal_energy import ReciprocalLattice, ReciprocalResult, reciprocal_energy
from les_plugins.electrostatics.periodic.several_meshes import SeveralMeshes
from les_plugins.electrostatics.periodic.slabs import SlabFilter, SlabMesh, Waves
from les_plugins.electrostatics.periodic.splines import AXES, Mesh
from les_plugins.electrostatics.settings import ElectrostaticsSettings


def mesh_electrostatics(
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None = None,
    training: bool = False,
    mesh: Mesh | SeveralMeshes | None = None,
    lattice: ReciprocalLattice | None = None,
) -> ReciprocalResult:
    """Energy and local fields of the permanent moments of a periodic structure, or of G of them.

    Args:
        positions: (n, 3) Å, float64; or (G, n, 3).
        cell: (3, 3) Å, rows are lattice vectors; any handedness; or (G, 3, 3).
        multipoles: moments of the atoms, (n, …) or (G, n, …); zero for rows that are no atoms.
        settings: of the sums; the tolerance of the mesh is against the direct sum.
        ranks: the other atoms of the structure, which is one, are on the other ranks of this group, which share the
            mesh out in slabs.
        training: see `reciprocal_energy`.
        mesh: of every structure, or the mesh of each; None, of one structure: `mesh_of` its cell.
        lattice: `lattice_on_mesh` of these cells, where it is known.

    Returns:
        As `reciprocal_energy`. All derivatives are those of the energy on the mesh, to rounding.

    Raises:
        GeometryError: a singular cell, or one that needs more mesh points than MOST_MESH_POINTS.

    Source: theory 2.1; Essmann et al., J. Chem. Phys. 103, 8577 (1995); Sagui, Pedersen, Darden, J. Chem. Phys.
    120, 73 (2004), without their real-space part: the smearing is the physics here.
    """
    sigma, cutoff = settings.sigma, settings.cutoff
    if mesh is None:
        mesh = mesh_of(proper_lattice(cell), sigma, cutoff, multipoles.order, settings.mesh_tolerance)
    if ranks is None or ranks.size == 1:
        lattice = lattice_on_mesh(cell, settings, mesh) if lattice is None else lattice
        return reciprocal_energy(positions, multipoles, lattice, mesh, settings, None, training)
    assert isinstance(mesh, Mesh)
    slab = SlabMesh.of(mesh, ranks.rank, ranks.size)
    inverse = torch.linalg.inv_ex(cell).inverse
    slab_filter = SlabFilter.of(cell, inverse, Waves.of(inverse, mesh, cutoff, ranks), sigma, cutoff)
    lattice = ReciprocalLattice(inverse, slab_filter)

    def routes(fractional: Tensor) -> Routes:
        return Routes.of(slab.takers(fractional, ranks.size), ranks)

    return reciprocal_energy(positions, multipoles, lattice, slab, settings, None, training, routes)


def lattice_on_mesh(cell: Tensor, settings: ElectrostaticsSettings, mesh: Mesh | SeveralMeshes) -> ReciprocalLattice:
    """Inverses of cells and the kernel on their meshes; arguments as for `mesh_electrostatics`."""
    sigma, cutoff = settings.sigma, settings.cutoff
    inverse = torch.linalg.inv_ex(cell).inverse  # without waiting for whether there is one, which is known
    if isinstance(mesh, SeveralMeshes):
        return ReciprocalLattice(inverse, _MeshFilter(_kernels(cell, inverse, mesh, sigma, cutoff), mesh))
    return ReciprocalLattice(inverse, _MeshFilter(_kernel(cell, inverse, mesh, sigma, cutoff)))


def squared_lengths(inverse: Tensor, mesh: Mesh) -> Tensor:
    """(…, n₁, n₂, n₃/2 + 1) Å⁻²: |k|² in the order of the half-complex transform, from inverses of cells (…, 3, 3)."""
    tables = mesh_tables(mesh.sizes, mesh.spline, inverse.device)
    metric = (2.0 * math.pi) ** 2 * (inverse.mT @ inverse)
    in_plane = (metric.flatten(-2) @ tables.coefficients).unflatten(-1, (-1, 3))
    squares: Tensor = (in_plane @ tables.powers).unflatten(-2, mesh.sizes[:2])
    return squares


def _kernel(cell: Tensor, inverse: Tensor, mesh: Mesh, sigma: float, cutoff: float) -> Tensor:
    """(…, n₁, n₂, n₃/2 + 1): (C / V) exp(−σ²k²/2)/k² times the splines' influence.

    Zero at k = 0 and beyond the cutoff.
    """
    tables = mesh_tables(mesh.sizes, mesh.spline, cell.device)
    k_squared = squared_lengths(inverse, mesh)
    inside = within(k_squared, cutoff) & (k_squared > 0.0)
    kernel = smeared_coulomb_kernel(torch.where(inside, k_squared, 1.0), _volume(cell), sigma)
    return kernel * torch.where(inside, tables.in_plane * tables.along_third, 0.0)


def _kernels(cell: Tensor, inverse: Tensor, meshes: SeveralMeshes, sigma: float, cutoff: float) -> Tensor:
    """(H,): the same of several meshes, one after the other."""
    device = cell.device
    order = _places(tuple(meshes.order), device)
    parts = inverse.index_select(0, order).split(list(meshes.kinds.values()))
    kinds = zip(parts, meshes.kinds, strict=True)
    k_squared = torch.cat([squared_lengths(part, mesh).flatten() for part, mesh in kinds])
    inside = within(k_squared, cutoff) & (k_squared > 0.0)
    volume = determinant(cell).abs().index_select(0, meshes.owners(device))
    kernel = smeared_coulomb_kernel(torch.where(inside, k_squared, 1.0), volume, sigma)
    return kernel * torch.where(inside, _influences(meshes, device), 0.0)


def _volume(cell: Tensor) -> Tensor:
    """(…, 1, 1, 1) Å³."""
    return determinant(cell).abs()[..., None, None, None]


class _MeshFilter(NamedTuple):
    """E = Σ kernel |S(k)|² by fast Fourier transforms of a density on the mesh."""

    kernel: Tensor
    meshes: SeveralMeshes | None = None

    @property
    def owners(self) -> Tensor | None:
        """Of the values of several meshes; one mesh has an axis of structures."""
        return None if self.meshes is None else self.meshes.owners(self.kernel.device)

    def filtered(self, density: Tensor) -> Tensor:
        """∂E/∂density on the mesh."""
        potential: Tensor = _Convolution.apply(density, self.kernel, self.meshes)  # type: ignore[no-untyped-call]
        return potential

    def kernel_gradient(self, density: Tensor) -> Tensor:
        """∂E/∂kernel."""
        return 0.5 * _CrossSpectrum.apply(density, density, self.meshes)  # type: ignore[no-untyped-call, no-any-return]


class _Convolution(torch.autograd.Function):
    """∂E/∂density of E = Σ_k kernel(k) |density(k)|²; with `_CrossSpectrum` the derivatives of one trilinear form."""

    @staticmethod
    def forward(ctx: Any, density: Tensor, kernel: Tensor, meshes: SeveralMeshes | None) -> Tensor:
        ctx.set_materialize_grads(False)  # nothing is transformed or sent where nothing depends on the potential
        ctx.save_for_backward(density, kernel)
        ctx.meshes = meshes
        return _convolve(density, kernel, meshes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if grad is None:
            return None, None, None
        density, kernel = ctx.saved_tensors
        on_density = _Convolution.apply(grad, kernel, ctx.meshes) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        on_kernel = _CrossSpectrum.apply(grad, density, ctx.meshes) if ctx.needs_input_grad[1] else None  # type: ignore[no-untyped-call]
        return on_density, on_kernel, None


class _CrossSpectrum(torch.autograd.Function):
    """2 Re(a(k)* b(k)), of both ±k where the half-complex transform keeps one."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, meshes: SeveralMeshes | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(a, b)
        ctx.meshes = meshes
        first = torch.view_as_real(_waves(a, meshes))
        second = first if a is b else torch.view_as_real(_waves(b, meshes))
        counts = _counts(first.shape[-2], a.device) if meshes is None else meshes.counts(a.device)
        return (first * second).sum(-1).mul_(counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        if grad is None:
            return None, None, None
        a, b = ctx.saved_tensors
        on_a = _Convolution.apply(b, grad, ctx.meshes) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        on_b = _Convolution.apply(a, grad, ctx.meshes) if ctx.needs_input_grad[1] else None  # type: ignore[no-untyped-call]
        return on_a, on_b, None


def _convolve(density: Tensor, kernel: Tensor, meshes: SeveralMeshes | None) -> Tensor:
    spectrum = _waves(density, meshes).mul_(2.0 * kernel)
    if meshes is not None:
        return meshes.to_mesh(spectrum)
    potential: Tensor = torch.fft.irfftn(spectrum, s=density.shape[-3:], dim=AXES, norm="forward")
    return potential


def _waves(density: Tensor, meshes: SeveralMeshes | None) -> Tensor:
    waves: Tensor = torch.fft.rfftn(density, dim=AXES) if meshes is None else meshes.to_waves(density)
    return waves


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # these outlive the call that needed them first
def _places(order: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(order).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _influences(meshes: SeveralMeshes, device: torch.device) -> Tensor:
    """(H,): of the splines, on every wave of several meshes."""
    found = []
    for mesh, n_structures in meshes.kinds.items():
        tables = mesh_tables(mesh.sizes, mesh.spline, torch.device("cpu"))
        found.append((tables.in_plane * tables.along_third).flatten().repeat(n_structures))
    return torch.cat(found).to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # it outlives the call that needed it first
def _counts(width: int, device: torch.device) -> Tensor:
    """Of the frequencies along the third axis: 4, and 2 at zero, which has both of ±k beside it."""
    counts = torch.full((width,), 4.0, dtype=torch.float64)
    counts[0] = 2.0
    return counts.to(device)
