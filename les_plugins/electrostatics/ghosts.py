"""What heads and responses ask of the ghosts of a domain; `parallel.halo.Halo` answers."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Ghosts(Protocol):
    """Who owns the ghosts of this rank: its own atoms come first, then copies of others and periodic images.

    Attributes:
        ranks: `parallel.reduction.Ranks`.
        first: 0, place of the first own atom.
        own, total: numbers of own atoms, and of these and ghosts.
    """

    ranks: Any
    first: int
    own: int
    total: int

    def with_ghosts(self, values: Tensor) -> Tensor:
        """(total, …) of (own, …): each ghost has what its owner has."""

    def everywhere(self, values: Tensor) -> Tensor:
        """As `with_ghosts`."""

    def here(self, values: Tensor) -> Tensor:
        """(own, …) of (total, …): what was put on ghosts is added to their owners."""
