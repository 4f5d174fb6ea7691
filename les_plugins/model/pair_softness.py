"""Softness of pairs of neighbours, from a host's features: of the two atoms, or of the edge. `heads.py` calls it.

Both fall off with a smooth function of the distance that ends at a cutoff, and are equal for an edge and its reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.errors import ConfigError
from les_plugins.model.features import Edges, FeatureLayout, NodeFeatures
from les_plugins.model.networks import ScalarHead, small_network

if TYPE_CHECKING:
    from les_plugins.config import LongRangeConfig

#: Natural size of what one atom exchanges with all its neighbours, times a network output of order one, e²/eV.
SOFTNESS_SCALE = 0.01
#: A pair's part falls off as a Gaussian of this width, Å.
WIDTH = 1.5
#: Of the distance, in the softness of an edge.
POLYNOMIALS = 4
#: Far below any softness that matters, e²/eV: no division by zero where both atoms have none.
SMALLEST = 1e-12


def make_pair_softness(layout: FeatureLayout, config: LongRangeConfig) -> nn.Module:
    """The head that `response.pair_softness` names.

    Raises:
        ConfigError: the host hands no edges over.
    """
    if layout.cutoff is None:
        raise ConfigError(
            "response.charge: pairs needs the host's edges, which this adapter does not provide; allowed: onsite, false"
        )
    cutoff = float(layout.cutoff)
    if config.response.pair_cutoff is not None:
        cutoff = min(cutoff, config.response.pair_cutoff)
    scalars, all_edges = [layer.scalars for layer in layout.layers], cutoff == float(layout.cutoff)
    if config.response.pair_softness == "edges":
        return SoftnessOfEdges(scalars[-1], config.hidden, cutoff, all_edges)
    return SoftnessOfAtoms(scalars, config.hidden, cutoff, all_edges)


class SoftnessOfAtoms(nn.Module):
    """κ_ij = κ_i κ_j f_ij / ½(s_i + s_j), s_i = κ_i + Σ_k κ_k f_ik: the pairs of an atom have less than 2 κ_i together.

    Args:
        scalars: channels of each layer.
        hidden: width of the network.
        cutoff: Å.
        all_edges: whether the host's edges are no longer than that.
    """

    def __init__(self, scalars: list[int], hidden: int, cutoff: float, all_edges: bool = True) -> None:
        super().__init__()
        self.cutoff, self.all_edges = cutoff, all_edges
        self.atoms = ScalarHead(scalars, hidden)

    def forward(self, features: NodeFeatures) -> PairSoftness:
        """Softness of every edge of the features."""
        edges = _edges(features, None if self.all_edges else self.cutoff)
        centre = edges.centre
        softness = SOFTNESS_SCALE * nn.functional.softplus(self.atoms(features))
        near = inside(edges.vector, self.cutoff)
        at_centre, at_neighbor = softness.index_select(0, centre), edges.at_neighbor(softness)
        part = at_neighbor * neighbour_part(near, self.cutoff)
        value = at_centre * part / _mean(softness.index_add(0, centre, part), edges)
        return PairSoftness(*edges[:3], value, edges.halo)


class SoftnessOfEdges(nn.Module):
    """κ_ij = κ(i, j, r) f_ij / ½(s_i + s_j), s_i = 1 + Σ_k f_ik, κ ∝ softplus(a_i + a_j + Σ_n b_in b_jn T_2n(r/c)).

    a and b are small networks of each atom's scalars, T even Chebyshev polynomials of the distance over the cutoff c:
    every edge takes a few products.

    Args:
        scalars: channels of the last layer.
        hidden: width of the network.
        cutoff: Å.
        all_edges: whether the host's edges are no longer than that.
    """

    def __init__(self, scalars: int, hidden: int, cutoff: float, all_edges: bool = True) -> None:
        super().__init__()
        self.cutoff, self.all_edges = cutoff, all_edges
        self.atoms = small_network(scalars, hidden, 1 + POLYNOMIALS)

    def forward(self, features: NodeFeatures) -> PairSoftness:
        """Softness of every edge of the features."""
        edges = _edges(features, None if self.all_edges else self.cutoff)
        centre = edges.centre
        atoms = self.atoms(features.layers[-1].scalars)
        near = inside(edges.vector, self.cutoff)
        at_centre, at_neighbor = atoms.index_select(0, centre), edges.at_neighbor(atoms)
        columns = (at_centre * at_neighbor).unbind(1)
        sums = (at_centre[:, 0] + at_neighbor[:, 0]) + even_series(columns[1:], near)
        part = neighbour_part(near, self.cutoff)
        whole = torch.ones_like(atoms[:, 0]).index_add(0, centre, part)
        mean = _mean(whole / SOFTNESS_SCALE, edges)
        return PairSoftness(*edges[:3], nn.functional.softplus(sums) * part / mean, edges.halo)


def inside(vector: Tensor, cutoff: float) -> Tensor:
    """(E,): 1 − r²/c², zero beyond the cutoff c.

    Args:
        vector: (E, 3) Å.
        cutoff: c, Å.
    """
    return (1.0 - vector.square() @ vector.new_full((3,), cutoff**-2)).clamp(min=0.0)


def neighbour_part(near: Tensor, cutoff: float) -> Tensor:
    """(E,): f = exp(−r²/2s²) (1 − r²/c²)³, s = 1.5 Å; zero beyond the cutoff c, with two derivatives.

    Args:
        near: (E,) of `inside`.
        cutoff: c, Å.
    """
    width = cutoff**2 / (2.0 * WIDTH**2)
    return torch.exp(width * near - width) * near**3


def even_series(coefficients: Sequence[Tensor], near: Tensor) -> Tensor:
    """(E,): Σ_n c_n T_2n(r/c), Chebyshev polynomials of the distance over the cutoff, of 1 beyond it; by Clenshaw.

    Args:
        coefficients: (E,) each, c_0 first; four of them.
        near: (E,) of `inside`: T_2n(r/c) = T_n(2 r²/c² − 1).
    """
    first, second, third, fourth = coefficients
    place = 1.0 - 2.0 * near  # 2 r²/c² − 1
    twice = 2.0 * place
    third = torch.addcmul(third, twice, fourth)
    second = torch.addcmul(second, twice, third) - fourth
    return torch.addcmul(first - third, place, second)


def _mean(whole: Tensor, edges: Edges) -> Tensor:
    """(E,): the mean of (N,) over both ends, above zero."""
    half = 0.5 * (whole + SMALLEST)
    return half.index_select(0, edges.centre) + edges.at_neighbor(half)


def _edges(features: NodeFeatures, cutoff: float | None) -> Edges:
    """The host's edges; those within a cutoff, where that can be looked at: the softness of others is zero."""
    edges = features.edges
    if edges is None:
        raise ConfigError("response.charge: pairs was asked for, and the heads were called without edges")
    if cutoff is None or is_traced():
        return edges
    within = (edges.vector.detach().square().sum(1) < cutoff**2).nonzero()[:, 0]
    return edges.part(within)
