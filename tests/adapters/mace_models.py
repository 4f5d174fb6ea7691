"""Tiny MACE models and structures, always the same, for every test of the MACE adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from mace import data, modules
from mace.modules.models import o3  # e3nn by way of mace: imported before mace it fails
from mace.tools import AtomicNumberTable, torch_geometric

from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.config import LongRangeConfig

ELEMENTS = (1, 8)
CUTOFF = 3.5
#: Everything on: all moments, both responses.
FULL = LongRangeConfig.parse({"response": {"charge": True, "dipole": "anisotropic"}, "epsilon_infinity": 1.78})


def tiny_mace(irreps: str = "4x0e + 4x1o", layers: int = 2, seed: int = 1, **changes: Any) -> modules.ScaleShiftMACE:
    """A ScaleShiftMACE of `layers` layers for water, float64."""
    settings: dict[str, Any] = {
        "r_max": CUTOFF,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        "interaction_cls_first": modules.interaction_classes["RealAgnosticInteractionBlock"],
        "num_interactions": layers,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": o3.Irreps(irreps),
        "MLP_irreps": o3.Irreps("4x0e"),
        "gate": torch.nn.functional.silu,
        "atomic_energies": np.array([[-1.0, -2.0]]),
        "avg_num_neighbors": 6.0,
        "atomic_numbers": list(ELEMENTS),
        "correlation": 2,
        "radial_type": "bessel",
        "atomic_inter_scale": 1.0,
        "atomic_inter_shift": 0.0,
    } | changes
    return _in_float64(seed, lambda: modules.ScaleShiftMACE(**settings))


def tiny_long_range(config: LongRangeConfig = FULL, seed: int = 1, **changes: Any) -> LongRangeMACE:
    """The tiny MACE with a long-range part, float64."""
    base = tiny_mace(seed=seed, **changes)
    return _in_float64(seed + 1, lambda: LongRangeMACE(base, config))


def water(n_molecules: int = 2, periodic: bool = True, seed: int = 0) -> Atoms:
    """Water molecules at random places of a skewed cell, or in the open."""
    random = np.random.default_rng(seed)
    molecule = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    places = np.array([[0.0, 0.0, 0.0], [2.4, 0.5, 2.6], [0.4, 2.8, 0.3], [2.9, 2.7, 3.2]])[:n_molecules]
    rotations = [np.linalg.qr(random.normal(size=(3, 3)))[0] for _ in places]
    positions = np.concatenate([place + molecule @ q.T for place, q in zip(places, rotations, strict=True)])
    cell = [[5.6, 0.0, 0.0], [0.5, 5.4, 0.0], [-0.3, 0.4, 5.8]] if periodic else None
    return Atoms("OHH" * n_molecules, positions, cell=cell, pbc=periodic)


def batch_of(*structures: Atoms, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """MACE's input for a batch of structures."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        table = AtomicNumberTable(list(ELEMENTS))
        graphs = [
            data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=CUTOFF)
            for atoms in structures
        ]
        loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False)
        return next(iter(loader)).to_dict()  # type: ignore[no-any-return]
    finally:
        torch.set_default_dtype(before)


def _in_float64(seed: int, make: Any) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    try:
        return make()
    finally:
        torch.set_default_dtype(before)
