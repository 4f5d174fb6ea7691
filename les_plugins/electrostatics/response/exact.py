"""Induced moments of small structures by a factorization of their equation. `minimum.py` calls it.

With K' = L Lᵀ of every atom and x' = L y, (1 + T' K') v = g is (1 + Lᵀ T' L) y = Lᵀ g, whose matrix is positive
definite whatever is zero in K'. One factor serves the solution and every derivative of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.couplings import Coupling
from les_plugins.electrostatics.response.conjugate_gradients import no_minimum

#: What an eigenvalue of K' may be negative by, of the largest: rounding.
ROUNDING = 1e-12


class ExactSolution:
    """The factors of small structures.

    Args:
        couplings: T of the structures, at least one.
        blocks: (N, d, d) K' of all atoms.
        own: (d,) the self-term, which T' does not have.
        diagonal: whether the blocks are.
        fixed_charge: whether the induced charges of each structure add up to zero.

    Raises:
        ResponseError: a structure without a minimum.
    """

    def __init__(
        self, couplings: Sequence[Coupling], blocks: Tensor, own: Tensor, diagonal: bool, fixed_charge: bool
    ) -> None:
        self._parts = [_Part.of(each, blocks, own, diagonal, fixed_charge) for each in couplings]
        failed = torch.cat([part.failed for part in self._parts]).tolist()  # one exchange with the device
        structures = [i for part in self._parts for i in part.atoms.structures]
        refused = [place for place, value in enumerate(failed) if value != 0]
        if refused:
            place = min(refused, key=lambda place: structures[place])
            equations = [equation for part in self._parts for equation in part.equation]
            raise no_minimum(structures[place], float(torch.linalg.eigvalsh(equations[place])[0]))

    def solve(self, drive: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) x' and v, the latter up to a constant of each structure where the charge is fixed.

        Args:
            drive: (N, d) g.

        Returns:
            Of other structures zero, or whatever.
        """
        moments = v = torch.zeros_like(drive)
        for part in self._parts:
            of_part, v_of_part = part.solve(part.atoms.pad(drive))
            moments, v = part.atoms.put(moments, of_part), part.atoms.put(v, v_of_part)
        return moments, v

    def places(self, like: Tensor) -> Tensor:
        """(N, 1) bool: which atoms are in these structures.

        Args:
            like: (N, d).
        """
        found = torch.zeros_like(like[:, :1])
        for part in self._parts:
            found = part.atoms.put(found, torch.ones_like(part.root[..., :1, 0]))
        return found > 0.0


class _Part(NamedTuple):
    """Structures of like size.

    Attributes:
        atoms: whose T it is.
        matrix: (G, w·d, w·d) T'.
        root: (G, w, d, d) L, or (G, w, d, 1) its diagonal where it has nothing else.
        equation, factor: (G, w·d, w·d) 1 + Lᵀ T' L and its Cholesky factor.
        failed: (G,) not zero where it has none.
        kept: (G, w·d, 1) the direction, of length one, in which y changes the total charge, if that is fixed.
    """

    atoms: Coupling
    matrix: Tensor
    root: Tensor
    equation: Tensor
    factor: Tensor
    failed: Tensor
    kept: Tensor | None

    @classmethod
    def of(cls, atoms: Coupling, blocks: Tensor, own: Tensor, diagonal: bool, fixed_charge: bool) -> _Part:
        root = _root(atoms.pad(blocks), diagonal)
        matrix = atoms.matrix()
        matrix.diagonal(dim1=1, dim2=2).unflatten(1, (-1, len(own))).sub_(own)
        equation = _times(root, _times(root, matrix, transposed=True).mT, transposed=True)
        kept = None
        if fixed_charge:
            first = torch.nn.functional.pad(root[:, :, 0], (0, len(own) - 1)) if diagonal else root[:, :, 0]
            kept = torch.nn.functional.normalize(first.flatten(1), dim=1)[:, :, None]
            image = torch.bmm(equation, kept)
            image = torch.baddbmm(image, kept, torch.bmm(kept.mT, image), alpha=-0.5)
            # P S P = S − p iᵀ − i pᵀ
            equation.baddbmm_(kept, image.mT, alpha=-1.0).baddbmm_(image, kept.mT, alpha=-1.0)
        equation.diagonal(dim1=1, dim2=2).add_(1.0)
        factor, failed = torch.linalg.cholesky_ex(equation)
        return cls(atoms, matrix, root, equation, factor, failed, kept)

    def solve(self, drive: Tensor) -> tuple[Tensor, Tensor]:
        """(G, w, d): x' and v of g."""
        right = _times(self.root, drive.flatten(1)[:, :, None], transposed=True)
        if self.kept is not None:
            right = torch.baddbmm(right, self.kept, torch.bmm(self.kept.mT, right), alpha=-1.0)
        moments = _times(self.root, torch.cholesky_solve(right, self.factor))
        return moments.view(drive.shape), drive - torch.bmm(self.matrix, moments).view(drive.shape)


def _root(blocks: Tensor, diagonal: bool) -> Tensor:
    """L of K' = L Lᵀ, NaN where there is none; of blocks without anything beside their diagonal (…, d, 1)."""
    if diagonal:
        return blocks.diagonal(dim1=-2, dim2=-1).sqrt()[..., None]
    values, vectors = torch.linalg.eigh(blocks)
    values = torch.where(values < -ROUNDING * values[..., -1:].abs(), torch.nan, values.clamp(min=0.0))
    root: Tensor = vectors * values.sqrt()[..., None, :]
    return root


def _times(root: Tensor, values: Tensor, transposed: bool = False) -> Tensor:
    """L or Lᵀ, (G, w, d, …), times (G, w·d, m)."""
    if root.shape[3] == 1:
        return root.flatten(1, 2) * values
    rows = values.unflatten(1, root.shape[1:3])
    product: Tensor = (root.mT if transposed else root) @ rows
    return product.flatten(1, 2)
