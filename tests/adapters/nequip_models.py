"""Tiny NequIP and Allegro models and batches for the tests of that adapter; imported by them, never by the package."""

from __future__ import annotations

from typing import Any

import ase
import nequip.model  # noqa: F401 (registers NequIP's builders and extensions)
import numpy as np
import torch
from allegro.model import AllegroModel  # noqa: F401 (named in configs)
from ase import Atoms
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.utils.global_state import set_global_state

from les_plugins.adapters.nequip import LongRangeModel

SPECIES = ["H", "O"]
CUTOFF = 3.5

COMMON = {
    "seed": 3,
    "model_dtype": "float64",
    "type_names": SPECIES,
    "r_max": CUTOFF,
    "avg_num_neighbors": 4.0,
    "per_type_energy_shifts": {"H": -1.0, "O": -3.0},
    "per_type_energy_scales": {"H": 1.0, "O": 1.0},
}
HOST_SECTIONS: dict[str, dict[str, Any]] = {
    "nequip": {
        "_target_": "nequip.model.NequIPGNNModel",
        **COMMON,
        "num_layers": 2,
        "l_max": 1,
        "num_features": 4,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 8,
        "num_bessels": 4,
    },
    "allegro": {
        "_target_": "allegro.model.AllegroModel",
        **COMMON,
        "l_max": 1,
        "num_layers": 1,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "allegro_mlp_hidden_layers_width": 8,
        "scalar_embed_mlp_hidden_layers_width": 8,
        "readout_mlp_hidden_layers_width": 8,
        "radial_chemical_embed": {
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": 4,
            "bessel_trainable": False,
            "polynomial_cutoff_p": 6,
        },
    },
}


def tiny_host(architecture: str = "nequip", **changes: Any) -> torch.nn.Module:
    """A bare model with random weights, through the host's own builder, in evaluation mode."""
    set_global_state()
    return LongRangeModel({**HOST_SECTIONS[architecture], **changes}).eval()


def tiny_long_range(architecture: str = "nequip", config: Any = None, **changes: Any) -> torch.nn.Module:
    """The same with a long-range part, as the YAML of a user builds it, moments of natural size."""
    section = {**HOST_SECTIONS[architecture], **changes}
    return amplify(LongRangeModel(model=section, long_range=config or {}).eval())


def part(model: torch.nn.Module) -> Any:
    from les_plugins.adapters.nequip.model import long_range_part

    found = long_range_part(model)
    assert found is not None
    return found


def amplify(model: torch.nn.Module, factor: float = 20.0) -> torch.nn.Module:
    """Give fresh heads moments of natural size (some 0.1 e), so that the long-range part is seen in every test."""
    with torch.no_grad():
        for name, parameter in part(model).named_parameters():
            if name.endswith(("mix.weight", "left.weight", "right.weight", "tensors.weight", "out.weight")) or (
                ".linear." in name
            ):
                parameter.mul_(factor)
            if ".charge.network" in name:
                parameter.mul_(2.0)
    return model


def waters(n: int = 4, seed: int = 0, pbc: bool = True, edge: float = 7.0) -> Atoms:
    """n water molecules at random, well apart, in a slightly triclinic cell."""
    generator = np.random.default_rng(seed)
    molecule = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)])[:n]
    positions, numbers = [], []
    for place in grid:
        rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        positions.append(molecule @ rotation + (place + 0.5) * edge / 2 + generator.normal(scale=0.1, size=3))
        numbers += [8, 1, 1]
    cell = np.array([[edge, 0.0, 0.0], [0.4, edge, 0.0], [-0.3, 0.5, edge]])
    return ase.Atoms(numbers, np.concatenate(positions), cell=cell if pbc else None, pbc=pbc)


def batch_of(frames: list[Atoms]) -> dict[str, torch.Tensor]:
    """NequIP's input of some frames, made with NequIP's own data pipeline (which is float64 always)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        transforms = [
            ChemicalSpeciesToAtomTypeMapper(SPECIES, {name: name for name in SPECIES}),
            NeighborListTransform(r_max=CUTOFF),
        ]
        items = []
        for atoms in frames:
            data = from_ase(atoms)
            for transform in transforms:
                data = transform(data)
            items.append(data)
        return AtomicDataDict.batched_from_list(items)
    finally:
        torch.set_default_dtype(before)
