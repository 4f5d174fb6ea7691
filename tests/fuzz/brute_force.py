"""The layer's energy written out from theory 2, 3, 6 and 7, with one dense matrix; it shares no code with it.

Each atom has thirteen moments m = (q, u, Q), and E = ½ m·G·m. Of a periodic structure G is the sum over every k of the
whole sphere, of an open one the derivatives of the kernel, of a slab the sum over a long cell without the waves along
its normal, which are added in closed form. The response is a dense solution, over pairs one of what each edge moves.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

C = 90.4756
COULOMB = C / (2.0 * math.pi)
NODES, WEIGHTS = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(120))
DELTA = torch.eye(3, dtype=torch.float64)


class Edges(NamedTuple):
    """Of one structure: each pair in both directions, from and to (E,), vector (E, 3) Å, softness (E,) e²/eV."""

    start: Tensor
    end: Tensor
    vector: Tensor
    value: Tensor


class Found(NamedTuple):
    """Energy, scalar eV; potential (n,) V; field (n, 3) V/Å; charge (n,) e; dipole (n, 3) e·Å; moved (E,) e."""

    energy: Tensor
    potential: Tensor
    field: Tensor
    charge: Tensor
    dipole: Tensor
    moved: Tensor


def solve(
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    charge: Tensor,
    dipole: Tensor,
    quadrupole: Tensor,
    softness: Tensor | None,
    polarizability: Tensor | None,
    field: Tensor,
    edges: Edges | None = None,
    *,
    sigma: float,
    dl: float,
    remove_self_interaction: bool,
    response: str | None,
    total_charge: str,
) -> Found:
    """One structure; arguments as those of the layer, all in float64, moments that are not there zero.

    Along periodic directions the field acts on dipoles and on what edges move, on no other charge.
    """
    n, axes = len(positions), int(pbc.sum())
    kernel = {0: open_kernel, 2: slab_kernel, 3: periodic_kernel}[axes](positions, cell, pbc, sigma, 2 * math.pi / dl)
    moments = torch.cat([charge[:, None], dipole, quadrupole.reshape(n, 9)], 1)  # (n, 13)
    slope = torch.einsum("iajb,jb->ia", kernel, moments)
    base = C / (2 * math.pi) ** 1.5
    own = torch.tensor([base / sigma] + [base / (3 * sigma**3)] * 3 + [base / (10 * sigma**5)] * 9, dtype=torch.float64)
    energy = 0.5 * (moments * slope).sum()
    if remove_self_interaction:
        energy = energy - (own * moments**2).sum()
        slope = slope - 2.0 * own * moments
    potential, at_atoms = slope[:, 0], -slope[:, 1:4]

    normal = normal_of(cell, pbc)
    defined = {0: DELTA, 2: torch.outer(normal, normal), 3: torch.zeros(3, 3).double()}[axes]
    along = defined @ field  # on charges
    energy = energy - (charge * (positions @ along)).sum() - (dipole @ field).sum()
    seen_potential, seen_field = potential, at_atoms + field
    lever = positions @ along
    if softness is not None and float(softness.sum()) > 0.0:
        lever = lever - (softness * lever).sum() / softness.sum()
    seen_potential = potential - lever if edges is None else potential

    nothing = Found(energy, potential, at_atoms, charge, dipole, torch.zeros(0 if edges is None else len(edges.value)))
    if response is None or (softness is None and polarizability is None and edges is None):
        return nothing
    # what is induced, column by column: what it is in moments (4n, m), what it costs nothing to (m, m), what drives it
    unit = torch.eye(4 * n).double()
    dipoles = unit.reshape(n, 4, 4 * n)[:, 1:].reshape(3 * n, 4 * n).T
    charges = unit.reshape(n, 4, 4 * n)[:, 0].T
    moments_of, ease, driven = dipoles[:, :0], [], torch.zeros(0).double()
    if softness is not None:
        moments_of, ease, driven = charges, [torch.diag(softness)], torch.zeros(n).double()
    if edges is not None:
        moments_of, ease = charges[:, edges.end] - charges[:, edges.start], [torch.diag(0.5 * edges.value)]
        driven = -edges.vector @ field
    if polarizability is not None:
        tensor = polarizability if polarizability.dim() == 3 else polarizability[:, None, None] * DELTA
        moments_of, ease = torch.cat([moments_of, dipoles], 1), [*ease, torch.block_diag(*tensor)]
        driven = torch.cat([driven, torch.zeros(3 * n).double()])
    drive = moments_of.T @ torch.cat([seen_potential[:, None], -seen_field], 1).reshape(-1) + driven
    answer = dense = torch.block_diag(*ease)
    if response == "self_consistent":
        among = moments_of.T @ kernel[:, :4, :, :4].reshape(4 * n, 4 * n) @ moments_of
        answer = torch.linalg.solve(torch.eye(len(dense)).double() + dense @ among, dense)
        if total_charge == "fixed" and softness is not None and float(softness.sum()) > 0.0:
            ones = torch.zeros(len(dense)).double()
            ones[:n] = 1.0
            column = answer @ ones
            answer = answer - torch.outer(column, column) / (ones @ column)
    found = -(answer @ drive)
    energy = energy + 0.5 * drive @ found
    induced = (moments_of @ found).reshape(n, 4)
    moved = nothing.moved if edges is None else found[: len(edges.value)]
    return Found(energy, potential, at_atoms, charge + induced[:, 0], dipole + induced[:, 1:], moved)


def periodic_kernel(positions: Tensor, cell: Tensor, pbc: Tensor, sigma: float, cutoff: float) -> Tensor:
    """(n, 13, n, 13) of section 2 of the theory."""
    return wave_kernel(positions, cell, wave_vectors(cell, cutoff), sigma)


def wave_vectors(cell: Tensor, cutoff: float) -> Tensor:
    """(K, 3) every 0 < |k| ≤ cutoff of the lattice, k and −k both, found in a box that surely holds them."""
    reach = [math.ceil(cutoff * float(edge.norm()) / (2 * math.pi)) + 1 for edge in cell.detach()]
    index = torch.tensor(list(itertools.product(*(range(-n, n + 1) for n in reach)))).double()
    waves = 2 * math.pi * index @ torch.linalg.inv(cell).T
    square = waves.detach().square().sum(1)
    return waves[(square > 1e-12) & (square <= (cutoff * (1 + 1e-9)) ** 2)]


def wave_kernel(positions: Tensor, cell: Tensor, waves: Tensor, sigma: float) -> Tensor:
    """(2C/V) Σ_k exp(−σ²k²/2)/k² Re(a_i a_j*), a = (1, ik, −½ kk) exp(ik·r)."""
    square = waves.square().sum(1)
    volume = torch.linalg.det(cell).abs()
    weight = 2 * C / volume * torch.exp(-0.5 * sigma**2 * square) / square
    one = torch.ones(len(waves), 1).double()
    pairs = (waves[:, :, None] * waves[:, None, :]).reshape(-1, 9)
    amplitude = torch.cat([one + 0j, 1j * waves, -0.5 * pairs + 0j], 1)  # (K, 13)
    phase = torch.exp(1j * (positions @ waves.T))  # (n, K)
    values = phase[:, None, :] * amplitude.T  # (n, 13, K)
    flat = values.reshape(-1, len(waves))
    kernel = ((flat * weight) @ flat.conj().T).real
    return kernel.reshape(len(positions), 13, len(positions), 13)


def open_kernel(positions: Tensor, cell: Tensor, pbc: Tensor, sigma: float, cutoff: float) -> Tensor:
    """(n, 13, n, 13) of theory 3, i = j included: derivatives of erf(a r)/r = (2/√π) ∫_0^a exp(−t² r²) dt."""
    d = positions[:, None, :] - positions[None, :, :]  # r_j − r_i with j first
    s = (d * d).sum(2)
    a = 1.0 / (math.sqrt(2.0) * sigma)
    t = 0.5 * a * (NODES + 1.0)
    scale = COULOMB * 2.0 / math.sqrt(math.pi) * 0.5 * a * WEIGHTS
    g = [(scale * (-t * t) ** m * torch.exp(-t * t * s[..., None])).sum(-1) for m in range(5)]
    one = [2 * d * g[1][..., None]]
    dd = d[..., :, None] * d[..., None, :]
    two = 2 * DELTA * g[1][..., None, None] + 4 * dd * g[2][..., None, None]
    mixed = torch.einsum("ab,ijc->ijabc", DELTA, d)
    mixed = mixed + mixed.permute(0, 1, 2, 4, 3) + mixed.permute(0, 1, 4, 2, 3)
    three = (
        4 * mixed * g[2][..., None, None, None]
        + 8 * (dd[..., None] * d[..., None, None, :]) * g[3][..., None, None, None]
    )
    letters = "abcd"
    squares = torch.zeros(3, 3, 3, 3).double()
    sixfold = torch.zeros(*s.shape, 3, 3, 3, 3).double()
    for first, second in itertools.combinations(range(4), 2):
        rest = [place for place in range(4) if place not in (first, second)]
        pair, other = letters[first] + letters[second], letters[rest[0]] + letters[rest[1]]
        squares = squares + 0.5 * torch.einsum(f"{pair},{other}->abcd", DELTA, DELTA)
        sixfold = sixfold + torch.einsum(f"{pair},ij{other}->ijabcd", DELTA, dd)
    expand = (..., None, None, None, None)
    four = 4 * squares * g[2][expand] + 8 * sixfold * g[3][expand]
    four = four + 16 * torch.einsum("ijab,ijcd->ijabcd", dd, dd) * g[4][expand]

    n = len(positions)
    kernel = torch.zeros(n, n, 13, 13).double()
    # rows are of j, columns of i: (q + u·∇ + ½ Q:∇∇)_j (q − u·∇ + ½ Q:∇∇)_i
    rows = [g[0][..., None, None], one[0][..., :, None], 0.5 * two.reshape(n, n, 9, 1)]
    first = torch.cat(rows, 2)
    second = torch.cat([one[0][..., None, :], two, 0.5 * three.reshape(n, n, 9, 3)], 2)
    third = 0.5 * torch.cat([two.reshape(n, n, 1, 9), three.reshape(n, n, 3, 9), 0.5 * four.reshape(n, n, 9, 9)], 2)
    kernel = torch.cat([first, -second, third], 3)
    return kernel.permute(0, 2, 1, 3)


def whole_cell(cell: Tensor, pbc: Tensor) -> Tensor:
    """Rows of periodic axes, and rows that are none of theirs in the place of the others."""
    if not bool(pbc.any()):
        return torch.eye(3).double()
    box = torch.where(pbc[:, None], cell, 0.0)
    return box + (~pbc).double()[:, None] * normal_of(cell, pbc)


def normal_of(cell: Tensor, pbc: Tensor) -> Tensor:
    """Unit normal of a slab's periodic vectors; anything for the others."""
    if int(pbc.sum()) != 2:
        return torch.zeros(3).double()
    first, second = cell[pbc]
    normal = torch.linalg.cross(first, second)
    return normal / normal.norm()


def slab_kernel(positions: Tensor, cell: Tensor, pbc: Tensor, sigma: float, cutoff: float) -> Tensor:
    """(n, 13, n, 13) of theory 4: waves along the plane in a cell so long that no copy is felt, and h = 0 as it is."""
    normal, plane = normal_of(cell, pbc), cell[pbc]
    height = (positions @ normal).detach()
    shortest = min(float(wave.norm()) for wave in in_plane_waves(plane.detach(), normal.detach()))
    length = float(height.max() - height.min()) + 10.0 * sigma + 30.0 / shortest
    box = torch.cat([plane, length * normal[None]])
    waves = wave_vectors(box, cutoff)
    across = waves.detach() - (waves.detach() @ normal.detach())[:, None] * normal.detach()
    kernel = wave_kernel(positions, box, waves[across.square().sum(1) > 1e-12], sigma)

    area = torch.linalg.cross(plane[0], plane[1]).norm()
    z = (positions @ normal)[:, None] - (positions @ normal)[None, :]
    gauss = torch.exp(-0.5 * (z / sigma) ** 2)
    peak = math.sqrt(2.0 / math.pi) / sigma
    # |z| smeared by σ, and its derivatives
    f = [
        z * torch.erf(z / (math.sqrt(2.0) * sigma)) + math.sqrt(2.0 / math.pi) * sigma * gauss,
        torch.erf(z / (math.sqrt(2.0) * sigma)),
        peak * gauss,
        -peak * z / sigma**2 * gauss,
        peak * (z**2 / sigma**4 - 1.0 / sigma**2) * gauss,
    ]
    twice = torch.outer(normal, normal).reshape(9)
    operator = [(torch.ones(1).double(), 0), (normal, 1), (0.5 * twice, 2)]
    rows = []
    for left, m in operator:
        row = [
            (-1.0) ** k * f[m + k][:, None, :, None] * left[None, :, None, None] * right[None, None, None, :]
            for right, k in operator
        ]
        rows.append(torch.cat(row, 3))
    return kernel - 2.0 * math.pi * COULOMB / area * torch.cat(rows, 1)


def in_plane_waves(plane: Tensor, normal: Tensor) -> Tensor:
    """(8, 3) waves of the plane among which its shortest is."""
    dual = 2 * math.pi * torch.linalg.inv(torch.cat([plane, normal[None]])).T[:2]
    index = [pair for pair in itertools.product(range(-3, 4), repeat=2) if pair != (0, 0)]
    return torch.tensor(index).double() @ dual
