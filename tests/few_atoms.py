"""A few atoms at random and the edges between them, for the tests of heads."""

import torch
from torch import Tensor

from les_plugins.model.features import Edges

#: Å.
CUTOFF = 4.0


def positions(n_atoms: int = 5) -> Tensor:
    return 1.5 * torch.randn(n_atoms, 3, dtype=torch.float64)


def edges_of(places: Tensor) -> Edges:
    apart = torch.cdist(places, places) + 100.0 * torch.eye(len(places), dtype=places.dtype)
    centre, neighbor = torch.nonzero(apart < CUTOFF, as_tuple=True)
    return Edges(centre, neighbor, places[neighbor] - places[centre])
