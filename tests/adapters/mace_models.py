"""Tiny MACE models and batches for the tests of the MACE adapter; imported by them, never by the package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mace  # noqa: F401 (before e3nn: with e3nn 0.4.4 the other order fails on torch >= 2.6)
import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from mace import data, modules, tools
from mace.tools import torch_geometric

SPECIES = [1, 8]
CUTOFF = 3.5


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tiny_mace(
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    hidden: str = "4x0e+4x1o",
    layers: int = 2,
    species: list[int] | None = None,
    correlation: int = 2,
) -> torch.nn.Module:
    """A ScaleShiftMACE with random weights, a few thousand parameters."""
    species = species or SPECIES
    torch.manual_seed(seed)
    interaction = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    with default_dtype(dtype):
        return modules.ScaleShiftMACE(
            r_max=CUTOFF,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=interaction,
            interaction_cls_first=interaction,
            num_interactions=layers,
            num_elements=len(species),
            hidden_irreps=o3.Irreps(hidden),
            MLP_irreps=o3.Irreps("4x0e"),
            atomic_energies=np.array([-1.0, -3.0] + [0.0] * (len(species) - 2)),
            avg_num_neighbors=4.0,
            atomic_numbers=species,
            correlation=correlation,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )


def amplify(model: torch.nn.Module, factor: float = 20.0) -> torch.nn.Module:
    """Give fresh heads moments of natural size (some 0.1 e), so that the long-range part is seen in every test."""
    with torch.no_grad():
        for name, parameter in model.les_readouts.named_parameters():
            if name.endswith(("linear.0.weight", "linear.1.weight", "mix.weight", "left.weight", "right.weight")) or (
                name.endswith(("tensors.weight", "out.weight"))
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
    return Atoms(numbers, np.concatenate(positions), cell=cell if pbc else None, pbc=pbc)


def batch_of(
    frames: list[Atoms], dtype: torch.dtype = torch.float64, species: list[int] | None = None
) -> dict[str, torch.Tensor]:
    """MACE's input of some frames, made with MACE's own data pipeline."""
    table = tools.AtomicNumberTable(species or SPECIES)
    with default_dtype(dtype):
        items = [
            data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=CUTOFF) for atoms in frames
        ]
        loader = torch_geometric.dataloader.DataLoader(items, batch_size=len(items), shuffle=False)
        return next(iter(loader)).to_dict()
