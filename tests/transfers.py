"""A crystal without symmetry whose charge only moves between neighbours, for tests of what follows (theory 8.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.model.features import Edges
from les_plugins.model.heads import counter_charges
from les_plugins.model.long_range import LongRangeResult
from les_plugins.model.physical import LatentStructure

CUTOFF = 4.5
EPSILON = 2.5
ELEMENT = {11: 0.8, 17: -0.8, 8: -0.6, 1: 0.3}


def crystal(repeat: tuple[int, int, int] = (1, 1, 1), pbc: Any = True) -> Atoms:
    """Two formula units without symmetry in a triclinic cell."""
    generator = np.random.default_rng(3)
    cell = [[5.2, 0.3, -0.2], [0.9, 5.6, 0.4], [-0.5, 0.6, 6.1]]
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    atoms = Atoms("NaClNaCl", scaled_positions=places, cell=cell, pbc=pbc)
    atoms.positions += 0.15 * generator.normal(size=(4, 3))
    return atoms.repeat(repeat)


def model(atoms: Atoms, leaf: Tensor, layer: LatentElectrostatics, shift: float = 0.0) -> LongRangeResult:
    """A model of network charges, transfers, dipoles and polarizabilities that depend on neighbours."""
    centre, neighbor, images = neighbor_list("ijS", atoms, CUTOFF)
    i, j = torch.tensor(centre), torch.tensor(neighbor)
    vector = leaf[j] - leaf[i] + torch.tensor(images @ atoms.cell.array)
    square = vector.square().sum(1)
    weight = torch.exp(-square / 6.0) * (1.0 - square / CUTOFF**2) ** 3
    element = torch.tensor([ELEMENT[z] for z in atoms.numbers], dtype=torch.float64) + shift
    around = torch.zeros(len(atoms), dtype=torch.float64).index_add(0, i, weight * (1.0 + element[j]))
    transfers = counter_charges(0.5 * element * torch.tanh(around), Edges(i, j, vector), CUTOFF)
    charge = element + transfers.charges(len(atoms))
    dipole = torch.zeros(len(atoms), 3, dtype=torch.float64).index_add(0, i, 0.3 * weight[:, None] * vector)
    permanent, alpha = Multipoles(charge, dipole), 0.02 + 0.01 * torch.sigmoid(around)
    cell, pbc = torch.tensor(atoms.cell.array)[None], torch.tensor(atoms.pbc)[None]
    found = layer(leaf, cell, pbc, torch.zeros(len(atoms), dtype=torch.long), permanent, polarizability=alpha)
    return LongRangeResult(*found[:6], permanent, None, alpha, transfers=transfers, element_charges=element)


def evaluated(atoms: Atoms, total: float | None = None, solve: str = "one_shot", shift: float = 0.0) -> LatentStructure:
    leaf = torch.tensor(atoms.positions, requires_grad=True)
    latent = model(atoms, leaf, LatentElectrostatics(response=solve, net_charge_warning=None), shift)
    charge = None if total is None else torch.tensor([total], dtype=torch.float64)
    cell, pbc = torch.tensor(atoms.cell.array)[None], torch.tensor(atoms.pbc)[None]
    return LatentStructure(latent, leaf, cell, pbc, EPSILON, 0.4, charge)
