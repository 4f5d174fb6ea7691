"""What is done about the net charge of the latent charges, and what it costs (theory 5). Layer and model call it.

Training in the bulk leaves a net charge that a uniform background neutralises unseen. Slabs and open structures have
no background: there the same charge is a force on every atom.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.lattice import boundary_lattice, determinant
from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.electrostatics.parallel.reduction import Ranks, reduce_sum
from les_plugins.errors import GeometryError, LesPluginsWarning
from les_plugins.units import COULOMB_CONSTANT

#: Net charge, e, up to which a structure is neutral: rounding of float32 charges, and 1e-5 eV in a cell of 10 Å.
NEUTRAL = 1e-3


def neutralized(
    charge: Tensor,
    pbc: Tensor,
    batch: Tensor,
    neutralize: str,
    ranks: Ranks | None = None,
    all_periodic: bool | None = None,
) -> Tensor:
    """Charges less their mean over the structure, of the structures that `neutralize` names; the others as they are.

    Args:
        charge: (N,) or (N, channels) e.
        pbc: (B, 3) bool.
        batch: (N,) integer.
        neutralize: "background", slabs and open structures; "refuse", open structures; "shift", every structure;
            "keep", none.
        ranks: over which the atoms of each structure are spread, if they are.
        all_periodic: whether all structures are, where that is known.

    Source: theory 5.2.
    """
    if neutralize == "keep":
        return charge
    everywhere = neutralize == "shift"
    # compiled code and process groups take periodic structures alone
    if not everywhere and (ranks is not None or is_traced()):
        return charge
    if not everywhere and (bool(pbc.all()) if all_periodic is None else all_periodic):
        return charge
    n_structures = pbc.shape[0]
    counts, net = to_structures(torch.stack([torch.ones_like(charge), charge], 1), batch, n_structures).unbind(1)
    if ranks is not None:
        counts, net = ranks.sum(counts), reduce_sum(net, ranks)
    mean = net / counts.clamp(min=1.0)
    if not everywhere:
        neutral = ~(pbc.any(1) if neutralize == "refuse" else pbc.all(1))
        mean = torch.where(neutral.view(-1, *[1] * (charge.dim() - 1)), mean, torch.zeros_like(mean))
    return charge - to_atoms(mean, batch)


def refuse_net_charge(charge: Tensor, pbc: Tensor, batch: Tensor, ranks: Ranks | None = None) -> None:
    """Raise GeometryError for a periodic structure or slab with more than NEUTRAL of net charge; arguments as above."""
    if is_traced():
        raise GeometryError(
            "neutralize: refuse looks at the charges, which a compiler does not have; allowed in traced and "
            "compiled code: background, shift, keep"
        )
    net = to_structures(charge.detach(), batch, pbc.shape[0])
    net = net if ranks is None else ranks.sum(net)
    net = net if net.dim() == 2 else net[:, None]
    if net.numel() == 0:
        return
    net = torch.where(pbc.any(1)[:, None], net, 0.0)
    place = int(net.abs().argmax())
    structure, found = place // net.shape[1], float(net.flatten()[place])
    if abs(found) > NEUTRAL:
        raise GeometryError(
            f"structure {structure} is periodic and carries a net charge of {found:.4g} e; allowed with neutralize: "
            f"refuse: at most {NEUTRAL} e; shift takes the mean off every atom, background leaves k = 0 out of the sum"
        )


def warn_of_net_charge(
    positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, charge: Tensor, sigma: float, threshold: float
) -> bool:
    """Warn of the structure whose net charge has the largest energy an atom, if that is above `threshold`.

    Args:
        positions: (N, 3) Å; cell: (B, 3, 3) Å; pbc: (B, 3) bool; batch: (N,) integer.
        charge: (N,) or (N, channels) e, as it enters the sum.
        sigma: smearing width, Å, below which no structure is small.
        threshold: meV an atom.

    Returns:
        Whether it did.
    """
    net = to_structures(charge.detach(), batch, len(pbc))
    net = net if net.dim() == 1 else net.square().sum(1).sqrt()
    if len(net) == 0:
        return False
    found = _largest_energy(positions.detach(), cell.detach(), pbc, batch, net, sigma)
    if not (math.isfinite(found.energy) and 1e3 * found.energy > threshold * found.n_atoms):
        return False
    cost = f"{1e3 * found.energy / found.n_atoms:.3g} meV an atom ({found.formula})"
    limit = f"more than net_charge_warning: {threshold:g} meV an atom"
    carries = f"structure {found.structure} carries a net charge of {found.net:.4g} e, {cost}, {limit}"
    if found.axes == 3 and found.n_atoms == 1:
        says = "it is one atom in a periodic box, and its energy is that of the uniform background around it"
    elif found.axes == 3:
        says = "a uniform background neutralises it, which slabs and open structures do not have"
    else:
        says = "nothing neutralises it: it acts on every atom"
    remedy = "neutralize: shift takes the mean charge off every atom"
    if found.axes < 3:
        remedy = "neutralize: background or shift takes the mean charge off every atom"
    warnings.warn(
        f"{carries}; {says}. {remedy}; net_charge_warning: null silences this", LesPluginsWarning, stacklevel=2
    )
    return True


class _Found(NamedTuple):
    """A charged structure: its place in the batch, number of atoms and periodic axes, e, eV, and the law of the eV."""

    structure: int
    n_atoms: int
    axes: int
    net: float
    energy: float
    formula: str


def _largest_energy(positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, net: Tensor, sigma: float) -> _Found:
    """k_e Q²/L with L = V^(1/3), or the extent of an open structure; 2π k_e Q² L/A with the thickness L of a slab."""
    counts, axes = to_structures(torch.ones_like(batch), batch, len(pbc)), pbc.sum(1)
    lattice = boundary_lattice(cell.double(), pbc)
    unit = torch.eye(3, dtype=lattice.dtype, device=lattice.device)
    measure = determinant(lattice).abs()  # volume, in-plane area, 1
    directions = torch.where((axes == 2)[:, None, None], lattice * (~pbc)[:, :, None], unit)
    along = (to_atoms(directions, batch) * positions[:, None, :]).sum(2)  # (N, 3)
    index, empty = batch[:, None].expand_as(along), along.new_zeros(len(pbc), 3)
    high = empty.scatter_reduce(0, index, along, "amax", include_self=False)
    low = empty.scatter_reduce(0, index, along, "amin", include_self=False)
    extent = (high - low).amax(1).clamp(min=sigma)
    square = COULOMB_CONSTANT * net.square()
    energy = torch.where(axes == 3, square / measure ** (1.0 / 3.0), square / extent)
    energy = torch.where(axes == 2, 2.0 * math.pi * square * extent / measure, energy)
    # an open atom has nobody to act on
    energy = torch.where((counts == 0) | ((axes == 0) & (counts == 1)), 0.0, energy)
    place = (energy / counts.clamp(min=1)).argmax(0, keepdim=True)
    values = torch.stack([value.double() for value in (counts, axes, net, energy, measure, extent)])
    at_place = values.index_select(1, place)[:, 0]
    found = torch.cat([place.double(), at_place]).tolist()  # one exchange with the device
    structure, n_atoms, kind, charge, cost, volume, length = found
    size = volume ** (1.0 / 3.0) if kind == 3 else length
    formula = f"k_e Q²/L, L = {size:.3g} Å"
    if kind == 2:
        formula = f"2π k_e Q² L/A, L = {size:.3g} Å, A = {volume:.4g} Å²"
    return _Found(int(structure), int(n_atoms), int(kind), charge, cost, formula)
