"""A host's model on a part of a structure: own atoms with ghosts of others. `engines.ranks` calls it.

A host that can exchange the features of ghosts between its layers makes a `DomainModel` (`Host.domain_model`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.model.features import Edges, LayerFeatures, NodeFeatures

if TYPE_CHECKING:
    from les_plugins.electrostatics.parallel.halo import Halo
    from les_plugins.model.long_range import LongRange


class DomainGraph(NamedTuple):
    """What this rank's atoms see: they come first, then the ghosts.

    Attributes:
        centre: (E,) integer, own atoms, each with all its neighbours within the cutoff.
        neighbor: (E,) integer, own atoms and ghosts.
        vector: (E, 3) Å, float64, from centre to neighbour, with the graph to positions and strain.
        numbers: (own + ghosts,) atomic numbers.
        halo: exchanges features. Every rank calls it in the same order, one without atoms too.
    """

    centre: Tensor
    neighbor: Tensor
    vector: Tensor
    numbers: Tensor
    halo: Halo

    def edges(self, dtype: torch.dtype) -> Edges:
        """For heads, in the dtype of the features."""
        return Edges(self.centre, self.neighbor, self.vector.to(dtype), self.halo)

    def never_empty(self, cutoff: float) -> DomainGraph:
        """The same, or where it has no edge with a pair of atoms more, which see each other alone.

        Hosts reshape their tensors in ways that need an atom and an edge, and a rank that left its part of an exchange
        out would leave the others waiting. The pair comes after the own atoms; `own_rows` leaves it out again.

        Args:
            cutoff: Å; the pair is closer.
        """
        if len(self.centre):
            return self
        own = self.halo.own
        place = torch.tensor([own, own + 1], device=self.centre.device)
        along = self.vector.new_tensor([[0.9 * cutoff, 0.0, 0.0]])
        known = self.numbers[:1] if len(self.numbers) else self.numbers.new_ones(1)
        numbers = torch.cat([self.numbers[:own], known, known, self.numbers[own:]])
        vector = torch.cat([self.vector, along, -along])  # with the graph: all ranks differentiate the same
        halo: Any = _WithPair(self.halo)
        return DomainGraph(place, place.flip(0), vector, numbers, halo)


class _WithPair:
    """ML-IAP's exchanges for features that have two rows more, after those of own atoms."""

    def __init__(self, halo: Halo) -> None:
        self._halo = halo
        self.own = self.nlocal = halo.own + 2
        self.ghosts = halo.ghosts
        self.total = self.ntotal = halo.total + 2

    def forward_exchange(self, values: Tensor, out: Tensor, length: int) -> None:
        """As `Halo`."""
        self._exchange(self._halo.forward_exchange, values, out, length)

    def reverse_exchange(self, values: Tensor, out: Tensor, length: int) -> None:
        """As `Halo`."""
        self._exchange(self._halo.reverse_exchange, values, out, length)

    def _exchange(self, exchange: Callable[..., None], values: Tensor, out: Tensor, length: int) -> None:
        own = self._halo.own
        inner = torch.cat([values[:own], values[own + 2 :]])
        found = torch.empty_like(inner)
        exchange(inner, found, length)
        out[:own], out[own : own + 2], out[own + 2 :] = found[:own], values[own : own + 2], found[own:]


def own_rows(layers: Sequence[LayerFeatures], own: int) -> list[LayerFeatures]:
    """Features of own atoms alone, first in every tensor."""
    return [LayerFeatures(*(None if part is None else part[:own] for part in layer)) for layer in layers]  # type: ignore[arg-type]


class DomainModel(ABC):
    """A model that is evaluated domain by domain.

    Attributes:
        cutoff: of its edges, Å.
        elements: atomic numbers that it knows.
        long_range: the long-range part, which the engine calls with the features; None of a short-range model.
    """

    cutoff: float
    elements: tuple[int, ...]
    long_range: LongRange | None

    @abstractmethod
    def evaluate(self, graph: DomainGraph) -> tuple[Tensor, NodeFeatures | None]:
        """Short-range energies (own,) eV of own atoms, and their features for the heads; None without a long range.

        Nothing may be left out on a rank without atoms or edges: the others wait for its part of an exchange.
        """
