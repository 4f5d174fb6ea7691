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
    """(…,): volume of cells (…, 3, 3), negative for left-handed ones."""
    first, second, third = cell.unbind(-2)
    value: Tensor = (first * torch.linalg.cross(second, third)).sum(-1)
    return value


def boundary_lattice(cell: Tensor, pbc: Tensor) -> Tensor:
    """(B, 3, 3): lattice vectors along periodic axes, unit vectors along open ones.

    Args:
        cell: (B, 3, 3) Å; rows of open axes are not read.
        pbc: (B, 3) bool.

    Returns:
        The rows of periodic axes. The open axis of a slab gets the unit normal of the other two, whatever its given
        vector; the three of an open structure get x, y and z.
    """
    unit = torch.eye(3, dtype=cell.dtype, device=cell.device)
    given = torch.where(pbc[:, :, None], cell, unit)
    rows = []
    for axis in range(3):
        normal = torch.linalg.cross(given[:, (axis + 1) % 3], given[:, (axis + 2) % 3])
        is_normal = (pbc.sum(1) == 2) & ~pbc[:, axis]
        square = torch.where(is_normal[:, None], normal, unit[axis]).square().sum(1)
        rows.append(torch.where(is_normal[:, None], normal / square.sqrt()[:, None], given[:, axis]))
    return torch.stack(rows, 1)


def open_directions(cell: Tensor, pbc: Tensor) -> Tensor:
    """(B, 3, 3): projectors on the directions along which positions are defined.

    All of an open structure, the normal of a slab, none of a periodic structure. Arguments as `boundary_lattice`.
    """
    rows = boundary_lattice(cell, pbc) * (~pbc).to(cell.dtype)[:, :, None]
    # rows of open axes are orthonormal
    return rows.transpose(1, 2) @ rows
