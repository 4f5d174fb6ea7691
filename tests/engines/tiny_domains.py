"""A host with two layers of messages that runs domain by domain, and the same on a whole structure without domains."""

from __future__ import annotations

from typing import Any

import ase.neighborlist
import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from les_plugins import LongRangeConfig
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.domains import DomainGraph, DomainModel
from les_plugins.model.carriers import latent_total_charge
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.physical import LatentStructure

CUTOFF = 3.0
NUMBERS = (1, 8)
ELEMENTS = ("H", "O")
EPSILON, SUSCEPTIBILITY = 1.8, 0.2
CHANNELS = 6
#: Sections of the long-range part: heads on edges and conserved charge in the first, each kind of response once.
SECTIONS: dict[str, dict[str, Any]] = {
    "pairs": {
        "multipoles": ["charge", "dipole", "quadrupole"],
        "response": {"charge": "pairs", "dipole": "anisotropic"},
        "total_charge": "conserved",
        "initial_charges": {"H": 0.2, "O": -0.2},
        "element_charges": "fixed",
        "epsilon_infinity": EPSILON,
    },
    "atoms of edges": {
        "multipoles": ["charge", "dipole"],
        "response": {"charge": "pairs", "pair_softness": "edges", "solve": "self_consistent", "tolerance": 1e-12},
        "epsilon_infinity": EPSILON,
    },
    "mesh": {
        "multipoles": ["charge", "dipole", "quadrupole"],
        "response": {"charge": "onsite", "dipole": "isotropic"},
        "run": {"method": "mesh"},
        "epsilon_infinity": EPSILON,
    },
    "mutual": {
        "multipoles": ["charge", "dipole"],
        "response": {"charge": "onsite", "dipole": "anisotropic", "solve": "self_consistent", "tolerance": 1e-12},
        "run": {"method": "mesh"},
        "epsilon_infinity": EPSILON,
    },
    "given": {"multipoles": ["charge"], "total_charge": "given", "epsilon_infinity": EPSILON},
    "kept": {
        "multipoles": ["charge"],
        "neutralize": "keep",
        "response": {"charge": "onsite"},
        "epsilon_infinity": EPSILON,
    },
}


class Exchange(torch.autograd.Function):
    """Features of ghosts as hosts exchange them for ML-IAP."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, halo: Any) -> Tensor:
        ctx.halo = halo
        out = torch.empty_like(values)
        halo.forward_exchange(values, out, values.shape[1])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out = torch.empty_like(grad)
        ctx.halo.reverse_exchange(grad, out, grad.shape[1])
        return out, None


class TinyDomain(nn.Module, DomainModel):
    """Two layers: the second sees the first's features of neighbours, which other ranks have."""

    cutoff = CUTOFF
    elements = NUMBERS

    def __init__(self, section: dict[str, Any], seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        layout = FeatureLayout((LayerLayout(CHANNELS),), cutoff=CUTOFF, mean_neighbors=8.0, elements=ELEMENTS)
        config = LongRangeConfig.parse({"dl": 2.0, "hidden": 8, "net_charge_warning": None, **section})
        self.long_range = build_long_range(layout, config)
        self.embedding = nn.Embedding(2, CHANNELS)
        self.first, self.second = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.readout = nn.Linear(CHANNELS, 1)
        self.double().eval().requires_grad_(False)

    def evaluate(self, graph: DomainGraph) -> tuple[Tensor, NodeFeatures]:
        own, halo = graph.halo.own, graph.halo

        def everywhere(values: Tensor) -> Tensor:
            room = torch.cat([values, values.new_zeros(halo.ghosts, values.shape[1])])
            return Exchange.apply(room, halo)

        species = (graph.numbers == 8).long()
        return self.layers(species, graph.edges(torch.float64), own, everywhere)

    def layers(self, species: Tensor, edges: Edges, own: int, everywhere: Any) -> tuple[Tensor, NodeFeatures]:
        envelope = (1.0 - edges.vector.square().sum(1) / CUTOFF**2).clamp(min=0.0) ** 3
        embedded = self.embedding(species)

        def messages(values: Tensor) -> Tensor:
            return values.new_zeros(own, CHANNELS).index_add(
                0, edges.centre, envelope[:, None] * values[edges.neighbor]
            )

        hidden = torch.tanh(embedded[:own] + messages(torch.tanh(self.first(embedded))))
        hidden = torch.tanh(hidden + messages(torch.tanh(self.second(everywhere(hidden)))))
        energies = self.readout(hidden).squeeze(1)
        energies = energies + torch.zeros_like(energies).index_add(0, edges.centre, 2.0 * envelope**2)
        return energies, NodeFeatures([LayerFeatures(hidden)], edges, species[:own])


class Whole:
    """The same model on a whole structure in one process, by a neighbour list of ASE: what domains must give.

    Attributes:
        energy: eV; energies: (N,) eV; forces: (N, 3) eV/Å; virial: (3, 3) eV; structure: for physical results.
    """

    def __init__(
        self,
        model: TinyDomain,
        atoms: Atoms,
        total_charge: float = 0.0,
        susceptibility: float | None = SUSCEPTIBILITY,
    ) -> None:
        centre, neighbor, shifts = ase.neighborlist.neighbor_list("ijS", atoms, CUTOFF)
        own = torch.tensor(atoms.positions, requires_grad=True)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        deformation = torch.eye(3, dtype=torch.float64) + 0.5 * (strain + strain.T)
        positions, cell = own @ deformation, torch.tensor(atoms.cell.array) @ deformation
        i, j = torch.from_numpy(centre), torch.from_numpy(neighbor)
        vector = positions[j] - positions[i] + torch.from_numpy(shifts).double() @ cell
        species = torch.from_numpy((atoms.numbers == 8).astype(np.int64))
        model.long_range.electrostatics.ranks = None
        short, features = model.layers(species, Edges(i, j, vector), len(atoms), lambda values: values)
        pbc, batch = torch.ones(1, 3, dtype=torch.bool), torch.zeros(len(atoms), dtype=torch.long)
        given = None
        if model.long_range.total_charge is not None:
            given = torch.tensor([total_charge], dtype=torch.float64)
        latent = model.long_range(features, positions, cell[None], pbc, batch, total_charge=given)
        with torch.no_grad():
            mutual = model.long_range.with_collective_polarizability(latent, positions, cell[None], pbc, batch)
        latent = latent._replace(collective_polarizability=mutual.collective_polarizability)
        total = short.sum() + latent.energy.sum()
        slope, on_strain = torch.autograd.grad(total, (own, strain), retain_graph=True)
        self.energy, self.energies = float(total.detach()), (short + latent.atomic_energy).detach().numpy()
        self.forces, self.virial = -slope.numpy(), -on_strain.numpy()
        charge = latent_total_charge(model.long_range, latent, batch, 1, EPSILON)
        self.structure = LatentStructure(latent, own, cell[None], pbc, EPSILON, susceptibility, charge)


def water(count: int = 24, seed: int = 5) -> Atoms:
    """H and O, in equal number, in a skew cell as LAMMPS takes it, no two of them closer than 1.3 Å."""
    generator = np.random.default_rng(seed)
    cell = np.array([[7.5, 0.0, 0.0], [1.5, 6.5, 0.0], [-1.0, 1.2, 7.0]])
    atoms = Atoms(cell=cell, pbc=True)
    while len(atoms) < count:
        atoms.append("OH"[len(atoms) % 2])
        atoms.positions[-1] = generator.random(3) @ cell
        if len(atoms) > 1 and atoms.get_distances(-1, range(len(atoms) - 1), mic=True).min() < 1.3:
            del atoms[-1]
    atoms.set_velocities(0.02 * generator.normal(size=(count, 3)))
    return atoms
