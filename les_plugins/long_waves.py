"""Long waves: first and second moments of the charge that a displaced atom moves, Z* and dynamical quadrupoles.

Charges that change with strain do not say which way the charge flowed: P = Σ q r then depends on the images in which
atoms are given. How charges answer one atom's displacement, seen at small k, does say it. `calculator.py` computes the
quadrupoles, `piezoelectric.py` sums them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.lattice import dual_lattice
from les_plugins.errors import GeometryError

#: Reciprocal vectors at which charge is looked at: enough for the six components of a symmetric tensor.
_SMALLEST = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0))


class LongWaves(NamedTuple):
    """Z* and the quadrupoles, both to the fourth order of the smallest k.

    Attributes:
        born: (N, 3, 3) e, first index polarization, second displacement.
        quadrupoles: (N, 3, 3, 3) e·Å, Q[i, b, a, c], b the displacement; symmetric in the last two.
    """

    born: Tensor
    quadrupoles: Tensor


def long_waves(
    positions: Tensor,
    cell: Tensor,
    charge: Tensor,
    dipole: Tensor | None = None,
    quadrupole: Tensor | None = None,
    epsilon: float = 1.0,
) -> LongWaves:
    """Z*_i and Q[i, b, a, c] = ∂/∂r_{i,b} ∫ ρ(r) (r − r_i)_a (r − r_i)_c of one periodic structure, × sqrt(epsilon).

    With ρ_i(k) = exp(−ik·r_i) ∂/∂r_i Σ_j (q_j + i k·u_j − ½ k·Q_j·k) exp(ik·r_j) = i k·Z*_i − ½ k·Q_i·k + O(k³), the
    imaginary part gives Z* and the real one Q. Each is taken at k and at 2k, for six k, and the next order goes away:
    24 derivatives.

    Args:
        positions: (N, 3) Å, with a graph: the moments must be functions of this very tensor.
        cell: (3, 3) Å.
        charge: (N,) e, induced part included; (N, channels) are added up. Their mean is subtracted.
        dipole: (N, 3) e·Å, induced part included, or None.
        quadrupole: (N, 3, 3) e·Å², traceless, or None.
        epsilon: electronic screening ε_e.

    Raises:
        GeometryError: positions without a graph.

    Source: PHYSICS 2 and 6; R. M. Martin, Phys. Rev. B 5, 1607 (1972).
    """
    if not positions.requires_grad:
        raise GeometryError("positions.requires_grad is False; dynamical quadrupoles differentiate by them")
    charges = charge if charge.dim() == 1 else charge.sum(1)
    charges = charges - charges.mean()
    dtype = charges.dtype
    place, reciprocal = positions.to(dtype), 2.0 * math.pi * dual_lattice(cell.detach().to(dtype)[None])[0]
    vectors = torch.tensor(_SMALLEST, dtype=dtype, device=place.device) @ reciprocal

    def moved(k: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of ρ_i(k), (N, 3)."""
        even, odd = charges, torch.zeros_like(charges)
        if dipole is not None:
            odd = odd + dipole.to(dtype) @ k
        if quadrupole is not None:
            even = even - 0.5 * torch.einsum("nab,a,b->n", quadrupole.to(dtype), k, k)
        cosine, sine = torch.cos(place @ k), torch.sin(place @ k)
        parts = ((even * cosine - odd * sine).sum(), (even * sine + odd * cosine).sum())
        real, imaginary = (
            torch.autograd.grad(part, positions, retain_graph=True, materialize_grads=True)[0].to(dtype)
            for part in parts
        )
        cosine, sine = cosine.detach()[:, None], sine.detach()[:, None]
        return cosine * real + sine * imaginary, cosine * imaginary - sine * real

    first, second = [], []
    for k in vectors:
        (even, odd), (even_twice, odd_twice) = moved(k), moved(2.0 * k)
        first.append((8.0 * odd - odd_twice) / 6.0)
        second.append((16.0 * even - even_twice) / 12.0)
    born = torch.linalg.solve(vectors[:3], torch.stack(first[:3]).flatten(1)).unflatten(1, (-1, 3)).transpose(0, 1)
    rows, columns = torch.triu_indices(3, 3, device=place.device)
    weight = torch.where(rows == columns, 0.5, 1.0).to(dtype)
    design = -vectors[:, rows] * vectors[:, columns] * weight
    found = torch.linalg.solve(design, torch.stack(second).flatten(1)).unflatten(1, (-1, 3))  # (6, N, 3)
    tensor = found.new_zeros(len(place), 3, 3, 3)
    tensor[..., rows, columns] = tensor[..., columns, rows] = found.permute(1, 2, 0)
    return LongWaves(math.sqrt(epsilon) * born, math.sqrt(epsilon) * tensor)
