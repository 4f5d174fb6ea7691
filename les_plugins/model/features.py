"""What a host hands to the heads: per-layer node features, and edges for invariant hosts. Adapters fill it."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from les_plugins.electrostatics.ghosts import Ghosts


class LayerLayout(NamedTuple):
    """Channels of one layer: scalars (0e), vectors (1o) and tensors (2e)."""

    scalars: int
    vectors: int = 0
    tensors: int = 0


#: Atoms per Å³ of condensed matter.
_TYPICAL_DENSITY = 0.08


class FeatureLayout(NamedTuple):
    """Which features a host model has, known before any structure is seen.

    Attributes:
        layers: one entry a layer, first to last; every layer that is listed has scalars.
        cutoff: radius of the host's edges, Å, when it hands them over; None otherwise.
        mean_neighbors: mean number of neighbours, which normalises sums over edges.
        elements: chemical symbols in the order of `NodeFeatures.species`, when the host hands that over.
    """

    layers: tuple[LayerLayout, ...]
    cutoff: float | None = None
    mean_neighbors: float = 1.0
    elements: tuple[str, ...] | None = None

    @classmethod
    def in_matter(
        cls, layers: tuple[LayerLayout, ...], cutoff: float, elements: tuple[str, ...] | None = None
    ) -> FeatureLayout:
        """With the number of neighbours in condensed matter, for hosts that keep no mean of their data."""
        return cls(layers, cutoff, _TYPICAL_DENSITY * 4.0 / 3.0 * math.pi * cutoff**3, elements)

    @property
    def has_vectors(self) -> bool:
        """Whether any layer has 1o channels."""
        return any(layer.vectors for layer in self.layers)


class LayerFeatures(NamedTuple):
    """Features of one layer.

    Attributes:
        scalars: (N, channels).
        vectors: (N, channels, 3) in x, y, z order, or None.
        tensors: (N, channels, 5) in e3nn's 2e order, or None.
    """

    scalars: Tensor
    vectors: Tensor | None = None
    tensors: Tensor | None = None


class Edges(NamedTuple):
    """Neighbour list.

    Attributes:
        centre: (E,) integer, the atom that collects.
        neighbor: (E,) integer.
        vector: (E, 3) Å, from centre to neighbour, with the graph to the positions.
        halo: where `neighbor` counts the atoms of a domain and then its ghosts: who owns these. None: there are none.
    """

    centre: Tensor
    neighbor: Tensor
    vector: Tensor
    halo: Ghosts | None = None

    def at_neighbor(self, values: Tensor) -> Tensor:
        """(E, …) of (N, …): what the atom at the other end has; with a halo all ranks call it, for ghosts too."""
        everywhere = values if self.halo is None else self.halo.with_ghosts(values)
        return everywhere.index_select(0, self.neighbor)

    def part(self, chosen: Tensor) -> Edges:
        """Some of the edges, by their places (chosen,)."""
        centre, neighbor, vector = (part.index_select(0, chosen) for part in self[:3])
        return Edges(centre, neighbor, vector, self.halo)


class NodeFeatures(NamedTuple):
    """Features of a batch, in the order of the `FeatureLayout`; edges only where the layout has a cutoff.

    `species` (N,), where the layout has elements, are places in them.
    """

    layers: list[LayerFeatures]
    edges: Edges | None = None
    species: Tensor | None = None
