"""What is done about the net charge of periodic structures, which a background neutralises unseen (PHYSICS 2, 8)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.local import to_atoms, to_structures
from les_plugins.electrostatics.reduction import Ranks, reduce_sum
from les_plugins.errors import GeometryError, LesPluginsWarning

NEUTRALIZE = ("background", "shift", "refuse")
#: Net charge, e, up to which a structure is neutral: rounding of float32 charges, and 1e-5 eV in a cell of 10 Å.
NEUTRAL = 1e-3


def neutralized(charge: Tensor, pbc: Tensor, batch: Tensor, ranks: Ranks | None = None) -> Tensor:
    """Charges less their mean over each periodic structure or slab; those of open structures as they are.

    Args:
        charge: (N,) or (N, channels) e.
        pbc: (B, 3) bool.
        batch: (N,) integer.
        ranks: over which the atoms of each structure are spread, if they are.
    """
    n_structures = pbc.shape[0]
    counts, net = to_structures(torch.stack([torch.ones_like(charge), charge], 1), batch, n_structures).unbind(1)
    if ranks is not None:
        counts, net = ranks.sum(counts), reduce_sum(net, ranks)
    mean = net / counts.clamp(min=1.0)
    periodic = pbc.any(1).view(-1, *[1] * (charge.dim() - 1))
    return charge - to_atoms(torch.where(periodic, mean, torch.zeros_like(mean)), batch)


def refuse_net_charge(charge: Tensor, pbc: Tensor, batch: Tensor, ranks: Ranks | None = None) -> None:
    """Raise GeometryError for a periodic structure or slab with more than NEUTRAL of net charge; arguments as above."""
    if is_traced():
        raise GeometryError(
            "neutralize: refuse looks at the charges, which a compiler does not have; allowed in traced and "
            "compiled code: background, shift"
        )
    if (found := _most_charged(charge, pbc, batch, ranks)) is not None and abs(found[1]) > NEUTRAL:
        raise GeometryError(
            f"structure {found[0]} is periodic and carries a net charge of {found[1]:.4g} e; allowed with neutralize: "
            f"refuse: at most {NEUTRAL} e; shift takes the mean off every atom, background leaves k = 0 out of the sum"
        )


def warn_of_net_charge(charge: Tensor, pbc: Tensor, batch: Tensor, threshold: float) -> bool:
    """Warn where a periodic structure or slab carries more than `threshold` (e per atom); says whether it did."""
    atoms = to_structures(torch.ones_like(batch, dtype=charge.dtype), batch, pbc.shape[0]).clamp(min=1.0)
    mean = charge / to_atoms(atoms, batch).view(-1, *[1] * (charge.dim() - 1))
    found = _most_charged(mean, pbc, batch)
    if found is None or abs(found[1]) <= threshold:
        return False
    net = found[1] * float(atoms[found[0]])
    warnings.warn(
        f"structure {found[0]} is periodic and carries a net charge of {net:.4g} e, {found[1]:.2g} e an atom, more "
        f"than net_charge_warning: {threshold:g} e an atom; its energy and pressure depend on the size of the cell. "
        "neutralize: shift takes the mean charge off every atom; net_charge_warning: null silences this",
        LesPluginsWarning,
        stacklevel=2,
    )
    return True


def _most_charged(charge: Tensor, pbc: Tensor, batch: Tensor, ranks: Ranks | None = None) -> tuple[int, float] | None:
    """Structure with the largest net charge of those with a periodic axis, and that charge."""
    net = to_structures(charge.detach(), batch, pbc.shape[0])
    net = net if ranks is None else ranks.sum(net)
    net = net if net.dim() == 2 else net[:, None]
    if net.numel() == 0:
        return None
    net = torch.where(pbc.any(1)[:, None], net, 0.0)
    place = int(net.abs().argmax())
    return place // net.shape[1], float(net.flatten()[place])
