"""Energy and fields of one periodic structure from its structure factor; `reciprocal.py` and `mesh.py` call it.

Transform the moments, multiply by the kernel, transform back: the same steps on the grid of the direct sum and on the
particle mesh.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from les_plugins.electrostatics.local import LocalFields, self_energy, self_fields
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum
from les_plugins.electrostatics.periodic.fractional import cartesian_fields, fractional_moments, with_known_gradients
from les_plugins.electrostatics.periodic.structure_factor import (
    MomentTransform,
    grid_to_moments,
    moments_to_grid,
    position_gradient,
)
from les_plugins.electrostatics.settings import ElectrostaticsSettings


class ReciprocalFilter(Protocol):
    """The kernel (C / V) exp(−σ²k²/2)/k² on the points of a grid, and E = Σ kernel |S(k)|² with its derivatives."""

    @property
    def kernel(self) -> Tensor:
        """Its values, with their graph in the cell."""

    def filtered(self, density: Tensor) -> Tensor:
        """∂E/∂density, which is the potential on the grid."""

    def kernel_gradient(self, density: Tensor) -> Tensor:
        """∂E/∂kernel, which is |S(k)|²."""


def reciprocal_energy(
    positions: Tensor,
    multipoles: Multipoles,
    inverse: Tensor,
    transform: MomentTransform,
    reciprocal_filter: ReciprocalFilter,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None = None,
    training: bool = False,
) -> tuple[Tensor, LocalFields]:
    """Energy and local fields of the permanent moments of one periodic structure.

    Args:
        positions: (n, 3) Å, float64.
        multipoles: moments of the n atoms.
        inverse: (3, 3) 1/Å, Cartesian to fractional coordinates in the transform's order of axes.
        transform: from moments to a grid, and back.
        reciprocal_filter: the kernel on that grid.
        settings: of the sums.
        ranks: the structure's other atoms are on the other ranks of this group; the cell is the same on all.
        training: the gradient will be differentiated: provide for it, which makes the energy and its gradient dearer.

    Returns:
        energy, scalar eV; potential (n,) V, its gradient (n, 3) V/Å and, with quadrupoles, second gradient (n, 3, 3).
        With `ranks` the energy is the share of this rank's atoms, whose gradients are those of the sum of all
        shares; in the cell they are this rank's part, and the parts sum up to the whole.

    Source: theory 2.1; arXiv 2605.05746.
    """
    fractional = positions @ inverse
    fractional = fractional - torch.floor(fractional.detach())
    moments = fractional_moments(multipoles, inverse)
    density = reduce_sum(moments_to_grid(fractional, moments, transform, multipoles.order), ranks)
    potential = reciprocal_filter.filtered(density)

    order = max(multipoles.order, 1)
    # one rank more than the fields need is the energy's gradient in the positions, one further that gradient's
    highest = max(order, multipoles.order + 1) + int(training) if potential.requires_grad else order
    local = grid_to_moments(fractional, potential, transform, highest)
    at_atoms = torch.cat(local[: multipoles.order + 2], 1)
    n_ranks = 1 if ranks is None else ranks.size
    energy = _energy(fractional, moments, density, at_atoms, reciprocal_filter, multipoles.order, n_ranks)
    fields = cartesian_fields(local[: order + 1], inverse)
    if settings.remove_self_interaction:
        energy = energy - self_energy(multipoles, settings.sigma).sum()
        fields = fields - self_fields(multipoles, settings.sigma)
    return energy, fields


def _energy(
    fractional: Tensor,
    moments: Tensor,
    density: Tensor,
    local: Tensor,
    reciprocal_filter: ReciprocalFilter,
    order: int,
    n_ranks: int,
) -> Tensor:
    """½ Σ moments · local, whose gradients are at hand: the local derivatives, and |S(k)|² for the kernel.

    The gradients are those of the sum over the ranks; all ranks have the same kernel, each takes its equal part of it.
    """
    own = local[:, : moments.shape[1]]
    inputs, gradients = [moments], [own]
    if fractional.requires_grad:
        inputs.append(fractional)
        gradients.append(position_gradient(moments, local, order))
    if reciprocal_filter.kernel.requires_grad:
        inputs.append(reciprocal_filter.kernel)
        gradients.append(reciprocal_filter.kernel_gradient(density) / n_ranks)
    return with_known_gradients(0.5 * (moments * own).sum(), inputs, gradients)
