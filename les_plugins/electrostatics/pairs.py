"""Pairs of atoms of open structures, in pieces that fit into memory. `open.py` calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.errors import GeometryError

#: Pairs that are summed at once, and whose intermediate values are kept for derivatives: some 0.3 GB with quadrupoles.
AT_ONCE = 262_144
#: The same on an accelerator, where every piece costs its launches: 3.1 GiB with quadrupoles.
DEVICE_AT_ONCE = 8 * AT_ONCE
#: Edge of the square blocks that more pairs than that are summed in.
BLOCK = 256
#: An open structure of more atoms is refused: its 2·10⁸ pairs take minutes.
MOST_OPEN_ATOMS = 20_000


class Block(NamedTuple):
    """Atoms of rows and columns, first and one past the last; of a block on the diagonal only i < j are pairs."""

    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def n_pairs(self) -> int:
        """How many pairs it has."""
        edges = [end - start for start, end in self]
        return edges[0] * (edges[0] - 1) // 2 if self.rows == self.columns else edges[0] * edges[1]


def pieces(counts: Sequence[int], device: torch.device) -> list[tuple[Block, ...]]:
    """Blocks of pairs of structures whose atoms follow each other: one piece where all fit at once.

    Args:
        counts: number of atoms of each structure.
        device: that the pairs are summed on.
    """
    at_once, in_a_piece = (AT_ONCE, BLOCK**2) if device.type == "cpu" else (DEVICE_AT_ONCE, DEVICE_AT_ONCE)
    starts = [0, *accumulate(counts[:-1])]
    if sum(n * (n - 1) // 2 for n in counts) <= at_once:
        return [tuple(Block((start, start + n), (start, start + n)) for start, n in zip(starts, counts, strict=True))]
    found: list[tuple[Block, ...]] = []
    piece: list[Block] = []
    size = 0
    for block in (block for start, n in zip(starts, counts, strict=True) for block in _blocks(start, n)):
        if piece and size + block.n_pairs > in_a_piece:
            found.append(tuple(piece))
            piece, size = [], 0
        piece.append(block)
        size += block.n_pairs
    return [*found, tuple(piece)]


def pair_indices(blocks: Sequence[Block], device: torch.device) -> tuple[Tensor, Tensor]:
    """Index of both atoms of every pair i < j of some blocks, (pairs,) each."""
    runs: list[tuple[int, int, int]] = []  # every row of a block is one: its pairs, its atom, what leads to the others
    n_pairs = 0
    for rows, columns in blocks:
        for atom in range(*rows):
            other = atom + 1 if rows == columns else columns[0]
            runs.append((columns[1] - other, atom, other - n_pairs))
            n_pairs += columns[1] - other
    counts, *values = torch.tensor(runs, dtype=torch.int64).view(-1, 3).T.to(device).unbind()
    first, offset = (torch.repeat_interleave(value, counts, output_size=n_pairs) for value in values)
    return first, offset + torch.arange(n_pairs, device=device)


def refuse_too_many(counts: Sequence[int], structures: Sequence[int]) -> None:
    """Raise GeometryError for an open structure of more than MOST_OPEN_ATOMS, before anything is allocated.

    Args:
        counts: number of atoms of each open structure.
        structures: their places in the batch.
    """
    for n, structure in zip(counts, structures, strict=True):
        if n > MOST_OPEN_ATOMS:
            pairs = n * (n - 1) // 2
            raise GeometryError(
                f"structure {structure} is open and has {n} atoms: {pairs:.3g} pairs, a list of which takes "
                f"{16 * pairs / 2**30:.3g} GiB; allowed: open structures of up to {MOST_OPEN_ATOMS} atoms. A periodic "
                "box or a slab is summed in reciprocal space, at any size"
            )


def _blocks(start: int, n: int) -> Iterator[Block]:
    edges = [(low, min(low + BLOCK, start + n)) for low in range(start, start + n, BLOCK)]
    for place, rows in enumerate(edges):
        for columns in edges[place:]:
            yield Block(rows, columns)
