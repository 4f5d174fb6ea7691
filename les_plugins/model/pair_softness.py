"""Softness of pairs of neighbours, from a host's features: of the two atoms, or of the edge. `heads.py` calls it.

Both fall off with a smooth function of the distance that ends at a cutoff, and are equal for an edge and its reverse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.errors import ConfigError
from les_plugins.model.features import Edges, FeatureLayout, NodeFeatures
from les_plugins.model.networks import RADIAL_FUNCTIONS, ScalarHead, radial_functions

if TYPE_CHECKING:
    from les_plugins.config import LongRangeConfig

#: Natural size of what one atom exchanges with all its neighbours, times a network output of order one, e²/eV.
SOFTNESS_SCALE = 0.01
#: A pair's part falls off as a Gaussian of this width, Å.
WIDTH = 1.5
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
    scalars = [layer.scalars for layer in layout.layers]
    if config.response.pair_softness == "edges":
        return SoftnessOfEdges(scalars[-1], config.hidden, cutoff)
    return SoftnessOfAtoms(scalars, config.hidden, cutoff)


class SoftnessOfAtoms(nn.Module):
    """κ_ij = κ_i κ_j f_ij / ½(s_i + s_j), s_i = κ_i + Σ_k κ_k f_ik: the pairs of an atom have less than 2 κ_i together.

    Args:
        scalars: channels of each layer.
        hidden: width of the network.
        cutoff: Å.
    """

    def __init__(self, scalars: list[int], hidden: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.atoms = ScalarHead(scalars, hidden)

    def forward(self, features: NodeFeatures) -> PairSoftness:
        """Softness of every edge of the features."""
        centre, neighbor, vector = edges = _edges(features)
        softness = SOFTNESS_SCALE * nn.functional.softplus(self.atoms(features))
        part = neighbour_part(edges, self.cutoff)
        at_centre, at_neighbor = softness[centre], softness[neighbor]
        whole = softness.index_add(0, centre, at_neighbor * part) + SMALLEST
        value = at_centre * at_neighbor * part / (0.5 * (whole[centre] + whole[neighbor]))
        return PairSoftness(centre, neighbor, vector, value)


class SoftnessOfEdges(nn.Module):
    """κ_ij = κ(i, j, r) f_ij / ½(s_i + s_j), s_i = 1 + Σ_k f_ik, κ a network of both atoms' scalars and the distance.

    Args:
        scalars: channels of the last layer.
        hidden: width of the network.
        cutoff: Å.
    """

    def __init__(self, scalars: int, hidden: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.atoms = nn.Linear(scalars, hidden)
        self.radial = nn.Linear(RADIAL_FUNCTIONS, hidden, bias=False)
        self.network = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, features: NodeFeatures) -> PairSoftness:
        """Softness of every edge of the features."""
        centre, neighbor, vector = edges = _edges(features)
        length = torch.linalg.norm(vector, dim=1, keepdim=True).clamp(min=1e-6)
        atoms = self.atoms(features.layers[-1].scalars)
        both = nn.functional.silu(atoms[centre] + atoms[neighbor]) + self.radial(radial_functions(length, self.cutoff))
        softness = SOFTNESS_SCALE * nn.functional.softplus(self.network(both).squeeze(1))
        part = neighbour_part(edges, self.cutoff)
        whole = torch.ones_like(atoms[:, 0]).index_add(0, centre, part)
        return PairSoftness(centre, neighbor, vector, softness * part / (0.5 * (whole[centre] + whole[neighbor])))


def neighbour_part(edges: Edges, cutoff: float) -> Tensor:
    """(E,): f = exp(−r²/2s²) (1 − r²/c²)³, s = 1.5 Å; zero beyond the cutoff c, with two derivatives.

    Args:
        edges: of the host.
        cutoff: c, Å.
    """
    square = edges.vector.square().sum(1)
    return torch.exp(-square / (2.0 * WIDTH**2)) * (1.0 - square / cutoff**2).clamp(min=0.0) ** 3


def _edges(features: NodeFeatures) -> Edges:
    if features.edges is None:
        raise ConfigError("response.charge: pairs was asked for, and the heads were called without edges")
    return features.edges
