"""Long waves: first and second moments of the charge that a displaced atom moves, Z* and dynamical quadrupoles.

Charges that change with strain do not say which way the charge flowed: P = Σ q r then depends on the images in which
atoms are given. The change of the charges with one atom's displacement, seen at small k, does say it. `calculator.py`
computes the quadrupoles, `piezoelectric.py` sums them.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.electrostatics.lattice import dual_lattice
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.observables import charge_of_total
from les_plugins.electrostatics.periodic.kernel import smeared_coulomb_kernel
from les_plugins.errors import GeometryError, LesPluginsWarning
from les_plugins.units import VACUUM_PERMITTIVITY

#: Part of a wave's field that induced charges may take away before a calculator warns.
SCREENING_LIMIT = 0.1
#: Reciprocal vectors at which charge is looked at: enough for the six components of a symmetric tensor.
_SMALLEST = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0))


class OneShotResponse(NamedTuple):
    """What induced the moments of a structure, to take out of them what the field of a wave itself induced.

    Attributes:
        permanent: the permanent moments, which made the field.
        sigma: smearing width, Å.
        softness: (N,) κ, e²/eV, or None.
        polarizability: (N,) or (N, 3, 3) α, e²·Å²/eV, or None.
        pair_softness: over which charge flows, or None.
    """

    permanent: Multipoles
    sigma: float
    softness: Tensor | None
    polarizability: Tensor | None
    pair_softness: PairSoftness | None = None


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
    response: OneShotResponse | None = None,
    total_charge: Tensor | None = None,
) -> LongWaves:
    """Z*_i and Q[i, b, a, c] = ∂/∂r_{i,b} ∫ ρ(r) (r − r_i)_a (r − r_i)_c of one periodic structure, × sqrt(epsilon).

    With ρ_i(k) = exp(−ik·r_i) ∂/∂r_i Σ_j (q_j + i k·u_j − ½ k·Q_j·k) exp(ik·r_j) = i k·Z*_i − ½ k·Q_i·k + O(k³), the
    imaginary part gives Z* and the real one Q. Each is taken at k and at 2k, for six k, and the next order goes away.
    Dipoles have their part of Z* at k = 0. 39 derivatives.

    Both belong to no macroscopic field, as those of density functional perturbation theory do. A longitudinal wave has
    one, and it induces moments: with `response` those are taken out of ρ(k). Without, induced dipoles
    screen Q by 1 − χ, and induced charges screen both, the more the longer the cell is.

    Args:
        positions: (N, 3) Å, with a graph: the moments must be functions of this very tensor.
        cell: (3, 3) Å.
        charge: (N,) e, induced part included; (N, channels) are added up.
        dipole: (N, 3) e·Å, induced part included, or None.
        quadrupole: (N, 3, 3) e·Å², traceless, or None.
        epsilon: electronic screening ε_e.
        response: what induced the moments, where something did.
        total_charge: (1,) e, latent, that the charges are made to add up to; zero when None.

    Raises:
        GeometryError: positions without a graph.

    Source: theory 8.4; R. M. Martin, Phys. Rev. B 5, 1607 (1972).
    """
    if not positions.requires_grad:
        raise GeometryError("positions.requires_grad is False; dynamical quadrupoles differentiate by them")
    batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
    charges = charge_of_total(charge, batch, 1, total_charge)
    dtype = charges.dtype
    place, reciprocal = positions.to(dtype), 2.0 * math.pi * dual_lattice(cell.detach().to(dtype)[None])[0]
    volume = torch.linalg.det(cell.detach().to(dtype)).abs()
    vectors = torch.tensor(_SMALLEST, dtype=dtype, device=place.device) @ reciprocal

    def slope(value: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(place)
        found = torch.autograd.grad(value, positions, retain_graph=True, materialize_grads=True)
        return found[0].to(dtype)

    def moved(k: Tensor, moments: Multipoles, response: OneShotResponse | None) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of ρ_i(k), (N, 3)."""
        cosine, sine = torch.cos(place @ k), torch.sin(place @ k)
        parts = _structure_factor(moments, k, cosine, sine)
        if response is not None:
            screened = _wave_screening(k, volume, response)
            permanent = _structure_factor(response.permanent.to(dtype), k, cosine, sine)
            parts = (parts[0] + screened * permanent[0], parts[1] + screened * permanent[1])
        real, imaginary = slope(parts[0]), slope(parts[1])
        cosine, sine = cosine.detach()[:, None], sine.detach()[:, None]
        return cosine * real + sine * imaginary, cosine * imaginary - sine * real

    whole, charged = Multipoles(charges, dipole, quadrupole).to(dtype), Multipoles(charges)
    second = []
    for k in vectors:
        even, even_twice = moved(k, whole, response)[0], moved(2.0 * k, whole, response)[0]
        second.append((16.0 * even - even_twice) / 12.0)
    first, of_charges = [], None if response is None else response._replace(polarizability=None)
    for k in vectors[:3]:
        odd, odd_twice = moved(k, charged, of_charges)[1], moved(2.0 * k, charged, of_charges)[1]
        first.append((8.0 * odd - odd_twice) / 6.0)
    born = torch.linalg.solve(vectors[:3], torch.stack(first).flatten(1)).unflatten(1, (-1, 3)).transpose(0, 1)
    if dipole is not None:  # at k = 0, where there is no macroscopic field
        born = born + torch.stack([slope(dipole[:, axis].sum()) for axis in range(3)], 1)
    rows, columns = torch.triu_indices(3, 3, device=place.device)
    weight = torch.where(rows == columns, 0.5, 1.0).to(dtype)
    design = -vectors[:, rows] * vectors[:, columns] * weight
    found = torch.linalg.solve(design, torch.stack(second).flatten(1)).unflatten(1, (-1, 3))  # (6, N, 3)
    tensor = found.new_zeros(len(place), 3, 3, 3)
    tensor[..., rows, columns] = tensor[..., columns, rows] = found.permute(1, 2, 0)
    return LongWaves(math.sqrt(epsilon) * born, math.sqrt(epsilon) * tensor)


def _structure_factor(moments: Multipoles, k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of Σ (q + i k·u − ½ k·Q·k) exp(ik·r)."""
    even, odd = moments.charge, torch.zeros_like(moments.charge)
    if moments.dipole is not None:
        odd = odd + moments.dipole @ k
    if moments.quadrupole is not None:
        even = even - 0.5 * torch.einsum("nab,a,b->n", moments.quadrupole, k, k)
    return (even * cosine - odd * sine).sum(), (even * sine + odd * cosine).sum()


def _wave_screening(k: Tensor, volume: Tensor, response: OneShotResponse) -> Tensor:
    """−ρ_induced(k)/S(k) of the wave's own field: Δq = −κ Φ and Δu = α E with Φ = 2C/V exp(−σ²k²/2)/k² S exp(−ik·r).

    Over a pair flows κ (Φ_i − Φ_j), and its ends add up to κ |exp(ik·r_i) − exp(ik·r_j)|² = 2κ (1 − cos k·d).
    """
    total = torch.zeros_like(volume)
    if response.softness is not None:
        total = total + response.softness.to(k.dtype).sum()
    if response.polarizability is not None:
        alpha = response.polarizability.to(k.dtype).sum(0)
        total = total + (alpha * (k @ k) if alpha.dim() == 0 else k @ alpha @ k)
    if response.pair_softness is not None:
        phase = response.pair_softness.vector.to(k.dtype) @ k
        total = total + (response.pair_softness.value.to(k.dtype) * (1.0 - torch.cos(phase))).sum()  # both directions
    square = k @ k
    return 2.0 * smeared_coulomb_kernel(square, volume, response.sigma) * total


def screening_of_longest_wave(softness: Tensor, cell: Tensor) -> tuple[float, float]:
    """Part of the field of a periodic cell's longest wave that induced charges take away, and its length, Å.

    Σ κ / (ε0 V k²): as in a conductor it grows with the square of the length, for every atom responds to the
    potential and not to its difference from that of its neighbours. One-shot energies of such waves are (1 − this) of
    those without.

    Args:
        softness: (N,) κ, e²/eV.
        cell: (3, 3) Å.

    Source: theory 6.2, for a uniform softness at small k.
    """
    exact = cell.detach().double()
    steps = torch.tensor([-1.0, 0.0, 1.0], dtype=exact.dtype, device=exact.device)
    integers = torch.cartesian_prod(steps, steps, steps)
    waves = 2.0 * math.pi * (integers[integers.abs().sum(1) > 0] @ dual_lattice(exact[None])[0]).norm(dim=1)
    shortest = float(waves.min())
    volume = float(torch.linalg.det(exact).abs())
    total = float(softness.detach().double().sum())
    return total / (VACUUM_PERMITTIVITY * volume * shortest**2), 2.0 * math.pi / shortest


def warn_of_long_waves(softness: Tensor, cell: Tensor) -> bool:
    """Warn where induced charges take more than `SCREENING_LIMIT` of the longest wave's field; says whether it did."""
    part, length = screening_of_longest_wave(softness, cell)
    if part <= SCREENING_LIMIT:
        return False
    warnings.warn(
        f"induced charges take {part:.2g} of the field of this cell's longest wave ({length:.1f} Å), and four times as "
        "much in a cell twice as long, as a conductor's would: energies, forces and born_effective_charges depend on "
        "the size of the cell. long_wave_born_charges leave that field out; a model without induced charges (response: "
        f"{{charge: false}}) has none of it, this one less than {SCREENING_LIMIT:g} in cells up to "
        f"{length * math.sqrt(SCREENING_LIMIT / part):.0f} Å",
        LesPluginsWarning,
        stacklevel=2,
    )
    return True
