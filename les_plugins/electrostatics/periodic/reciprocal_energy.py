"""Energy and fields of periodic structures from their structure factors; `reciprocal.py` and `mesh.py` call it.

Transform the moments, multiply by the kernel, transform back: the same steps on the grid of the direct sum, for many
structures at once, and on the particle mesh of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from les_plugins.electrostatics.local import self_energy, self_fields
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum
from les_plugins.electrostatics.parallel.routes import Routes
from les_plugins.electrostatics.periodic.fractional import fractional_moments, rows_times, with_known_gradients
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

    @property
    def owners(self) -> Tensor | None:
        """The structure that each value belongs to, where the kernel has no axis of structures."""

    def filtered(self, density: Tensor) -> Tensor:
        """∂E/∂density, which is the potential on the grid."""

    def kernel_gradient(self, density: Tensor) -> Tensor:
        """∂E/∂kernel, which is |S(k)|²."""


class ReciprocalLattice(NamedTuple):
    """What a sum needs of cells: their inverses (…, 3, 3) 1/Å in its order of axes, and the kernel on its grid."""

    inverse: Tensor
    reciprocal_filter: ReciprocalFilter


class ReciprocalResult(NamedTuple):
    """Energy (…) eV and atomic energy (…, n) eV of periodic structures, potential (…, n) V, its gradient (…, n, 3)."""

    energy: Tensor
    atomic_energy: Tensor
    potential: Tensor
    gradient: Tensor


def reciprocal_energy(
    positions: Tensor,
    multipoles: Multipoles,
    lattice: ReciprocalLattice,
    transform: MomentTransform,
    settings: ElectrostaticsSettings,
    ranks: Ranks | None = None,
    training: bool = False,
    routes: Callable[[Tensor], Routes] | None = None,
) -> ReciprocalResult:
    """Energy and local fields of the permanent moments of one periodic structure, or of G in a first axis.

    Args:
        positions: (…, n, 3) Å, float64.
        multipoles: moments of the atoms; zero for rows that are none.
        lattice: of the cells, on the grid of the transform.
        transform: from moments to a grid, and back.
        settings: of the sums.
        ranks: the structure's other atoms are on the other ranks of this group; the cell is the same on all.
        routes: from fractional coordinates to the way to the ranks that hold the parts of a grid, in place of `ranks`;
            each rank's transform and filter then are those of its part.
        training: the gradient will be differentiated: provide for it, which makes the energy and its gradient dearer.

    Returns:
        With `ranks` or `routes` the energy is the share of this rank's atoms, whose gradients are those of the sum of
        all shares; in the cell they are this rank's part, and the parts sum up to the whole.

    Source: theory 2.1; arXiv 2605.05746.
    """
    inverse, reciprocal_filter = lattice
    fractional = rows_times(positions, inverse)
    fractional = fractional - torch.floor(fractional.detach())
    moments = fractional_moments(multipoles, inverse)
    way = None if routes is None else routes(fractional)
    places, sources = (fractional, moments) if way is None else way.forth(fractional, moments)
    density = reduce_sum(moments_to_grid(places, sources, transform, multipoles.order), ranks)
    potential = reciprocal_filter.filtered(density)

    order = max(multipoles.order, 1)
    # one rank more than the fields need is the energy's gradient in the positions, one further that gradient's
    highest = max(order, multipoles.order + 1) + int(training) if potential.requires_grad else order
    local = grid_to_moments(places, potential, transform, highest)
    moved, slope = fractional.requires_grad, None
    if way is not None:
        # an atom's slope in its place is fewer numbers than the derivatives that it is made of
        at_rows = local[: order + 1]
        if moved and multipoles.order:
            at_rows = (*at_rows, _slope(sources, local, multipoles.order))
        local = way.back(*at_rows)
        slope = local[order + 1] if len(local) > order + 1 else None
    # joined apart: a derivative of the atomic energies needs no rank more
    own = torch.cat(local[: multipoles.order + 1], -1) if multipoles.order else local[0]
    atomic = 0.5 * (moments * own).sum(-1)
    inputs, gradients = [moments], [own]
    if moved:
        inputs.append(fractional)
        gradients.append(_slope(moments, local, multipoles.order) if slope is None else slope)
    if reciprocal_filter.kernel.requires_grad:
        inputs.append(reciprocal_filter.kernel)
        n_ranks = 1 if ranks is None else ranks.size  # all have the same kernel, each takes its equal part of it
        gradients.append(reciprocal_filter.kernel_gradient(density) / n_ranks)
    owners = [None if one is not reciprocal_filter.kernel else reciprocal_filter.owners for one in inputs]
    energy = with_known_gradients(atomic.sum(-1), inputs, gradients, owners)
    at_place, gradient = local[0].squeeze(-1), rows_times(local[1], inverse.mT)
    if settings.remove_self_interaction:
        own_energy, own_fields = self_energy(multipoles, settings.sigma), self_fields(multipoles, settings.sigma)
        energy, atomic = energy - own_energy.sum(-1), atomic - own_energy
        at_place = at_place - own_fields.potential
        gradient = gradient if multipoles.dipole is None else gradient - own_fields.gradient
    return ReciprocalResult(energy, atomic, at_place, gradient)


def _slope(moments: Tensor, local: tuple[Tensor, ...], order: int) -> Tensor:
    """(…, n, 3): of the energy in fractional coordinates, by the derivatives of the potential at the atoms."""
    return position_gradient(moments, torch.cat(local[: order + 2], -1), order)
