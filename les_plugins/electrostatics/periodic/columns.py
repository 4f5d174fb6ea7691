"""The waves of a mesh within a cutoff as columns along its first axis, and a slab's part of them in few bytes.

`slabs.py` sends them from rank to rank. The waves of a column are a band, and of the planes of a slab a band sees
little more than their share of it: the discrete prolate spheroidal sequences of that band, the most of them in full,
the others ever less. Each goes with the digits that are seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from les_plugins.electrostatics.parallel.shortened import SIGN_AND_EXPONENT, lengthened, shortened
from les_plugins.electrostatics.periodic.influence import mesh_frequencies
from les_plugins.electrostatics.periodic.reciprocal import ROUNDING
from les_plugins.electrostatics.periodic.splines import Mesh

#: Bits of what waves see of the planes: 5e-13 of the largest. Long waves make a potential 10³ times as large as what
#: short ones leave of it in forces, and forces are to be those of one process to 1e-10.
DIGITS = 41
#: Bands are as wide as the next multiple of so many waves: columns with one width are one product of matrices.
STEP = 2


class Band(NamedTuple):
    """Columns `start` … `end` − 1 of a rank, with the waves −reach … reach around the middle of each."""

    reach: int
    start: int
    end: int


@dataclass(frozen=True)
class Columns:
    """The columns of one rank.

    Attributes:
        places: (c,) in the half-complex transform along the second and the third axis.
        middle: (c,) wave along the first axis in the middle of a column; None where it is zero in all.
        bands: the columns by width.
        size: of the mesh along the first axis.
    """

    places: Tensor
    middle: Tensor | None
    bands: list[Band]
    size: int

    @classmethod
    def shared_out(cls, inverse: Tensor, mesh: Mesh, cutoff: float, n_ranks: int) -> list[Columns]:
        """Those of each rank, of which each has as many of every width: all in which some wave is within the cutoff.

        Args:
            inverse: (3, 3) 1/Å of the cell; mesh: the whole; cutoff: Å⁻¹.
        """
        (_, n_2, n_3), (_, w_2, w_3) = mesh_frequencies(mesh.sizes, mesh.spline, inverse.device)
        metric, slope, rest = squared_length(inverse.detach(), n_2[:, None], n_3)
        # a little more than the kernel has, so that rounding loses none
        room = (cutoff * (1.0 + 2.0 * ROUNDING)) ** 2 - (rest - slope.square() / (4.0 * metric[0, 0]))
        places = ((room >= 0.0) & (w_2[:, None] > 0.0) & (w_3 > 0.0)).flatten().nonzero()[:, 0]
        centre = (-slope / (2.0 * metric[0, 0])).flatten()[places]
        middle = centre.round()
        reach = ((room.flatten()[places] / metric[0, 0]).sqrt() + (centre - middle).abs()).floor().long()
        reach = (reach + STEP - 1) // STEP * STEP
        dealt = [torch.argsort(reach, stable=True)[rank::n_ranks] for rank in range(n_ranks)]
        shifted = bool(middle.any())
        return [
            cls(places[own], middle[own] if shifted else None, _bands(reach[own].tolist()), mesh.sizes[0])
            for own in dealt
        ]

    def bytes_of(self, planes: int) -> int:
        """Of `packed`, of so many neighbouring planes."""
        total = 0
        for band in self.bands:
            sequences = prolate_sequences(self.size, planes, band.reach, torch.device("cpu"))
            total += 2 * (band.end - band.start) * sequences.bytes_of_one
        return total

    def packed(self, lines: Tensor) -> Tensor:
        """(bytes,): what the waves see of complex values (planes, c) on neighbouring planes."""
        parts = []
        for band in self.bands:
            part = self._turned(lines[:, band.start : band.end], band, -1.0)
            sequences = prolate_sequences(self.size, len(lines), band.reach, lines.device)
            numbers = sequences.values @ torch.view_as_real(part).flatten(1)
            parts += [shortened(numbers[rows].flatten(), width) for rows, width in sequences.widths]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8, device=lines.device)

    def unpacked(self, data: Tensor, planes: int) -> Tensor:
        """(planes, c) complex: the transpose of `packed`, and but for what no wave sees its inverse."""
        out = torch.empty(planes, len(self.places), dtype=torch.complex128, device=data.device)
        end = 0
        for band in self.bands:
            sequences = prolate_sequences(self.size, planes, band.reach, data.device)
            numbers = []
            for rows, width in sequences.widths:
                start, end = end, end + 2 * (rows.stop - rows.start) * (band.end - band.start) * width
                numbers.append(lengthened(data[start:end], width).view(rows.stop - rows.start, -1))
            values = sequences.values.T @ torch.cat(numbers)
            part = torch.view_as_complex(values.unflatten(1, (-1, 2)))
            out[:, band.start : band.end] = self._turned(part, band, 1.0)
        return out

    def _turned(self, lines: Tensor, band: Band, sign: float) -> Tensor:
        """With the middle of the band moved to zero, or back."""
        if self.middle is None:
            return lines
        plane = torch.arange(len(lines), dtype=torch.float64, device=lines.device)
        angle = (sign * 2.0 * math.pi / self.size) * plane[:, None] * self.middle[band.start : band.end]
        return lines * torch.polar(torch.ones_like(angle), angle)


def squared_length(inverse: Tensor, n_2: Tensor, n_3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(3, 3) metric M, and s and r of |k|² = M₁₁ n₁² + s n₁ + r."""
    metric = (2.0 * math.pi) ** 2 * inverse.T @ inverse
    slope = 2.0 * (metric[0, 1] * n_2 + metric[0, 2] * n_3)
    return metric, slope, metric[1, 1] * n_2.square() + metric[2, 2] * n_3.square() + 2.0 * metric[1, 2] * n_2 * n_3


class Sequences(NamedTuple):
    """Values (r, planes), orthonormal rows, and which of them are sent with how many bytes."""

    values: Tensor
    widths: list[tuple[slice, int]]

    @property
    def bytes_of_one(self) -> int:
        """Of a line of real numbers on the planes."""
        return sum((rows.stop - rows.start) * width for rows, width in self.widths)


@lru_cache(maxsize=1024)
@torch.inference_mode(False)  # they outlive the call that needed them first
def prolate_sequences(size: int, planes: int, reach: int, device: torch.device) -> Sequences:
    """What waves −reach … reach see of neighbouring planes of a mesh of so many in all.

    As eigenvectors of a matrix whose eigenvalues lie apart the sequences are the same to rounding on every machine,
    which those of the band itself would not be.

    Source: Slepian, Bell Syst. Tech. J. 57, 1371 (1978).
    """
    from scipy.signal.windows import dpss

    half_width = (reach + 0.5) / size
    if half_width >= 0.5 or planes < 2:
        values, bits = np.eye(planes), np.full(planes, DIGITS)
    else:
        values = dpss(planes, planes * half_width, planes)
        angle = (2.0 * math.pi / size) * np.outer(np.arange(planes), np.arange(reach + 1))
        seen = np.square(np.abs(values @ np.exp(1j * angle))) / size
        seen[:, 1:] *= 2.0  # of ±n
        left = np.sqrt(np.cumsum(seen.sum(1)[::-1])[::-1])  # of this one and all after it, falling
        bits = np.ceil(DIGITS + np.log2(left)).astype(int).clip(max=DIGITS)
    widths = -(-(SIGN_AND_EXPONENT + bits[bits > 0]) // 8)
    ends = [*(np.flatnonzero(np.diff(widths)) + 1), len(widths)] if len(widths) else []
    parts = [slice(int(start), int(end)) for start, end in pairwise([0, *ends])]
    kept = torch.from_numpy(values[: len(widths)].copy()).to(device)
    return Sequences(kept, [(part, int(widths[part.start])) for part in parts])


def _bands(reach: list[int]) -> list[Band]:
    """Of columns in ascending order."""
    bands: list[Band] = []
    for column, each in enumerate(reach):
        if bands and bands[-1].reach == each:
            bands[-1] = bands[-1]._replace(end=column + 1)
        else:
            bands.append(Band(each, column, column + 1))
    return bands
