"""Electrostatics of smeared multipoles with open boundaries: pairs of atoms in real space (theory 3).

Every derivative of the pair kernel is contracted with the moments as it is formed, so that nothing larger than a
vector is kept for a pair. `layer.py` calls it once for all open structures of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from les_plugins.electrostatics.boys import smeared_coulomb_ladder
from les_plugins.electrostatics.groups import Rows
from les_plugins.electrostatics.local import self_energy, self_fields
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.pairs import Block, pair_indices, pieces
from les_plugins.electrostatics.recomputed import recomputed
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.units import COULOMB_CONSTANT


def open_electrostatics(
    positions: Tensor, counts: Sequence[int], multipoles: Multipoles, settings: ElectrostaticsSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Energies and local fields of the permanent moments of open structures.

    Args:
        positions: (n, 3) Å, float64, of one structure after the other.
        counts: number of atoms of each structure.
        multipoles: moments of the n atoms.
        settings: of the sums.

    Returns:
        energy (G,) eV; of the atoms, (n,) eV, each atom's half of its pairs; potential (n,) V and its gradient (n, 3)
        V/Å. Up to `pairs.AT_ONCE` pairs are summed at once; more are summed in pieces, whose intermediate values are
        computed again for derivatives, so that memory does not grow with their number.

    Source: theory 3.1; arXiv 2605.05746.
    """
    sigma = settings.sigma
    rows = Rows.of(counts, positions.device)
    if multipoles.quadrupole is not None and multipoles.dipole is None:
        multipoles = multipoles._replace(dipole=torch.zeros_like(positions))
    tensors = [positions, *(moment for moment in multipoles if moment is not None)]
    parts = pieces(counts, positions.device)
    if len(parts) == 1:
        share, potential, gradient = _sum_of_pairs(parts[0], sigma, *tensors)
    else:
        share, potential, gradient = recomputed(partial(_sum_of_pairs, parts[0], sigma), *tensors)
        for part in parts[1:]:
            more = recomputed(partial(_sum_of_pairs, part, sigma), *tensors)
            share, potential, gradient = share + more[0], potential + more[1], gradient + more[2]
    if not settings.remove_self_interaction:
        share = share + self_energy(multipoles, sigma)
        own = self_fields(multipoles, sigma)
        potential, gradient = potential + own.potential, gradient + own.gradient
    return rows.pad(share).sum(1), share, potential, gradient


def open_matrix(places: Tensor, moments: slice, sigma: float) -> Tensor:
    """(G, n·d, n·d): interaction of charges and dipoles of G structures, that of an atom with itself included.

    The pair kernel and its derivatives, (1, −∇) from the right and (1, ∇) from the left (theory 3.1).

    Args:
        places: (G, n, 3) Å.
        moments: which d of q, u_x, u_y, u_z there are.
        sigma: Gaussian smearing width, Å.
    """
    separation = places[:, :, None] - places[:, None]  # (G, w, w, 3), from the second atom to the first
    ladder = smeared_coulomb_ladder(separation.square().sum(3), sigma, 2 if moments.stop > 1 else 0)
    if moments.stop == 1:
        return COULOMB_CONSTANT * ladder[0]
    # B_0, ±d B_1 and δ B_1 − d d B_2 are (1, d) ⊗ (1, d) times one table of the B, plus another
    steps = torch.nn.functional.pad(separation, (1, 0), value=1.0)[..., moments]
    values = torch.stack(ladder, 3) @ _tables(moments.start, moments.stop, places.dtype, places.device)
    times, plus = values.view(*separation.shape[:3], 2, steps.shape[3], -1).unbind(3)
    each = torch.addcmul(plus, times, steps[..., :, None] * steps[..., None, :])
    width = separation.shape[1] * steps.shape[3]
    return each.transpose(2, 3).reshape(-1, width, width)


def _sum_of_pairs(
    blocks: Sequence[Block], sigma: float, positions: Tensor, *moments: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Energy (n,), potential (n,) and gradient (n, 3) of some pairs, at all atoms."""
    multipoles = Multipoles(*moments)
    first, second = pair_indices(blocks, positions.device)
    places = torch.stack(positions.unbind(1))  # a transpose would have one for its gradient: hosts call view on it
    separation = places[:, second] - places[:, first]  # (3, pairs): the long axis last, where sums are fast
    ladder = smeared_coulomb_ladder((separation * separation).sum(0), sigma, 2 * multipoles.order or 1)
    ladder = tuple(COULOMB_CONSTANT * value for value in ladder)
    one, other = (_Projected(multipoles, atoms, separation) for atoms in (first, second))

    energy = _pair_energy(one, other, ladder)
    at_second = _fields_of(one, separation, ladder, sign=1.0)
    at_first = _fields_of(other, separation, ladder, sign=-1.0)
    share = torch.zeros_like(positions[:, 0]).index_add(0, torch.cat([first, second]), 0.5 * energy.repeat(2))
    potential = torch.zeros_like(share).index_add(0, first, at_first[0]).index_add(0, second, at_second[0])
    gradient = torch.zeros_like(places).index_add(1, first, at_first[1]).index_add(1, second, at_second[1]).T
    return share, potential, gradient


class _Projected:
    """Moments of one side of every pair, projected on the separation d: q, u, u·d, Q, Q d, d·Q·d, tr Q; pairs last."""

    def __init__(self, multipoles: Multipoles, atoms: Tensor, separation: Tensor) -> None:
        self.charge = multipoles.charge[atoms]
        self.dipole = self.along = self.quadrupole = self.pulled = self.twice_along = self.trace = None
        if multipoles.dipole is not None:
            self.dipole = multipoles.dipole.T.contiguous()[:, atoms]
            self.along = (self.dipole * separation).sum(0)
        if multipoles.quadrupole is not None:
            symmetric = 0.5 * (multipoles.quadrupole + multipoles.quadrupole.transpose(1, 2))
            self.quadrupole = symmetric.permute(1, 2, 0).contiguous()[:, :, atoms]
            self.pulled = (self.quadrupole * separation).sum(1)
            self.twice_along = (self.pulled * separation).sum(0)
            self.trace = self.quadrupole.diagonal().sum(1)


def _potential_ladder(source: _Projected, ladder: tuple[Tensor, ...], sign: float, top: int) -> list[Tensor]:
    """f_k = q B_k + s u·d B_{k+1} + ½ d·Q·d B_{k+2} − ½ tr Q B_{k+1}, k = 0 … top; f_0 is the source's potential."""
    values = []
    for k in range(top + 1):
        value = source.charge * ladder[k]
        if source.along is not None:
            value = value + sign * source.along * ladder[k + 1]
        if source.twice_along is not None and source.trace is not None:
            value = value + 0.5 * (source.twice_along * ladder[k + 2] - source.trace * ladder[k + 1])
        values.append(value)
    return values


def _transverse(dipole: Tensor, pulled: Tensor | None, ladder: tuple[Tensor, ...], sign: float, k: int) -> Tensor:
    """The part u B_k + s Q d B_{k+1}, not along d, of the gradient of f_{k−1} (d pointing from source to target)."""
    value = dipole * ladder[k]
    return value if pulled is None else value + sign * pulled * ladder[k + 1]


def _fields_of(
    source: _Projected, separation: Tensor, ladder: tuple[Tensor, ...], sign: float
) -> tuple[Tensor, Tensor]:
    """Potential (pairs,) and its gradient (3, pairs) at the other atom; sign is +1 where d points to it, else −1."""
    f = _potential_ladder(source, ladder, sign, 1)
    gradient = -sign * separation * f[1]
    if source.dipole is not None:
        gradient = gradient + _transverse(source.dipole, source.pulled, ladder, sign, 1)
    return f[0], gradient


def _pair_energy(source: _Projected, target: _Projected, ladder: tuple[Tensor, ...]) -> Tensor:
    """(pairs,) (q + u·∇ + ½ Q:∇∇) of the target on the potential of the source."""
    order = 0 if source.dipole is None else 1 if source.pulled is None else 2
    f = _potential_ladder(source, ladder, 1.0, order)
    energy = target.charge * f[0]
    if target.dipole is None or target.along is None or source.dipole is None:
        return energy
    across = (target.dipole * _transverse(source.dipole, source.pulled, ladder, 1.0, 1)).sum(0)
    energy = energy - target.along * f[1] + across
    if target.pulled is None or target.twice_along is None or target.trace is None:
        return energy
    if target.quadrupole is None or source.quadrupole is None:
        return energy
    across = (target.pulled * _transverse(source.dipole, source.pulled, ladder, 1.0, 2)).sum(0)
    inner = (target.quadrupole * source.quadrupole).sum((0, 1)) * ladder[2]
    return energy + 0.5 * (target.twice_along * f[2] - target.trace * f[1] - 2.0 * across + inner)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # they outlive the call that needed them first
def _tables(start: int, stop: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, 2·d·d): from B_0, B_1, B_2 to what multiplies (1, d) ⊗ (1, d), and to what is added."""
    times, plus = torch.zeros(2, 3, 4, 4, dtype=dtype)
    times[0, 0, 0], times[1, 0, 1:], times[1, 1:, 0], times[2, 1:, 1:] = 1.0, 1.0, -1.0, -1.0
    plus[1, 1:, 1:] = torch.eye(3, dtype=dtype)
    part = slice(start, stop)
    tables = [COULOMB_CONSTANT * table[:, part, part].flatten(1) for table in (times, plus)]
    return torch.cat(tables, 1).to(device)
