"""Volume and dual of lattices by cross products: plain operations that every compiler has, unlike linear algebra."""

from __future__ import annotations

import torch
from torch import Tensor


def dual_lattice(cell: Tensor) -> Tensor:
    """(B, 3, 3): rows dual to the rows of the cells, the transposed inverse; 1/Å for Å."""
    first, second, third = cell.unbind(1)
    rows = [torch.linalg.cross(second, third), torch.linalg.cross(third, first), torch.linalg.cross(first, second)]
    return torch.stack(rows, 1) / determinant(cell)[:, None, None]


def determinant(cell: Tensor) -> Tensor:
    """(B,): volume of the cells, negative for left-handed ones."""
    first, second, third = cell.unbind(1)
    value: Tensor = (first * torch.linalg.cross(second, third)).sum(1)
    return value
