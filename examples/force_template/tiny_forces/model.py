"""`TinyForces`: energies from distances and directions of neighbours; `forward` returns forces and stress as well."""

import math

import numpy as np
import torch
from ase.neighborlist import neighbor_list
from torch import nn


class TinyForces(nn.Module):
    """Atoms with scalar and vector channels; one step along edges.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: radius of the neighbourhood, Å.
        channels: of scalars and of vectors.
        mean_neighbors: mean number of neighbours, which normalises sums over them.
    """

    def __init__(self, elements=(1, 8), cutoff=3.5, channels=6, mean_neighbors=4.0):
        super().__init__()
        self.settings = {"elements": list(elements), "cutoff": cutoff, "channels": channels}
        self.settings["mean_neighbors"] = mean_neighbors
        self.embedding = nn.Embedding(119, channels)
        self.radial = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 2 * channels))
        self.mix = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.readout = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1))

    def forward(self, batch):
        """Energy (B,), atomic_energy (N,) eV, forces (N, 3) eV/Å, stress (B, 3, 3) eV/Å³, scalars, vectors."""
        positions = batch["positions"]
        if not positions.requires_grad:
            positions.requires_grad_(True)
        strain = torch.zeros_like(batch["cell"]).requires_grad_(True)
        symmetric = torch.eye(3, dtype=strain.dtype, device=strain.device) + 0.5 * (strain + strain.transpose(1, 2))
        strained = (positions[:, None] @ symmetric[batch["batch"]])[:, 0]
        scalars, vectors = self.features(batch, edge_vectors(batch, strained, batch["cell"] @ symmetric))
        atomic = self.readout(scalars).squeeze(1)
        energy = atomic.new_zeros(len(strain)).index_add(0, batch["batch"], atomic)
        slopes = torch.autograd.grad(energy.sum(), (positions, strain), create_graph=self.training)
        volume = torch.linalg.det(batch["cell"]).abs().clamp(min=1e-9)[:, None, None]
        output = {"energy": energy, "atomic_energy": atomic, "forces": -slopes[0], "stress": slopes[1] / volume}
        return {**output, "scalars": scalars, "vectors": vectors}

    def features(self, batch, vector):
        """Scalars (N, channels) and vectors (N, channels, 3) of the atoms; vector (E, 3) Å from centre to neighbour."""
        centre, neighbor = batch["edge_index"]
        cutoff, norm = self.settings["cutoff"], math.sqrt(self.settings["mean_neighbors"])
        length = torch.linalg.norm(vector, dim=1, keepdim=True)
        grid = torch.linspace(0.0, cutoff, 8, dtype=length.dtype, device=length.device)
        smooth = (1.0 - (length / cutoff) ** 2).clamp(min=0.0) ** 3 / norm
        weights = self.radial(torch.exp(-2.0 * (length - grid) ** 2)) * smooth
        own = self.embedding(batch["numbers"])
        for_scalars, for_vectors = (weights * own[neighbor].repeat(1, 2)).chunk(2, dim=1)
        scalars = torch.zeros_like(own).index_add(0, centre, for_scalars)
        directed = for_vectors[:, :, None] * (vector / length)[:, None]
        vectors = own.new_zeros(*own.shape, 3).index_add(0, centre, directed)
        return own + self.mix(torch.cat([own * scalars, vectors.square().sum(2)], 1)), vectors


def edge_vectors(batch, positions, cell):
    """(E, 3) Å, from centre to neighbour, of the edges of a batch."""
    centre, neighbor = batch["edge_index"]
    lattice = cell[batch["batch"][centre]]
    return positions[neighbor] - positions[centre] + (batch["shifts"][:, None] @ lattice)[:, 0]


def make_batch(frames, model):
    """The model's input: atoms and edges of all frames, one after the other."""
    dtype = next(model.parameters()).dtype
    edges, shifts, start = [], [], 0
    for atoms in frames:
        centre, neighbor, images = neighbor_list("ijS", atoms, model.settings["cutoff"])
        edges.append(np.stack([centre, neighbor]) + start)
        shifts.append(images)
        start += len(atoms)
    counts = torch.tensor([len(atoms) for atoms in frames])
    return {
        "positions": torch.tensor(np.concatenate([atoms.positions for atoms in frames]), dtype=dtype),
        "numbers": torch.tensor(np.concatenate([atoms.numbers for atoms in frames])),
        "cell": torch.tensor(np.stack([atoms.cell.array for atoms in frames]), dtype=dtype),
        "pbc": torch.tensor(np.stack([atoms.pbc for atoms in frames])),
        "batch": torch.repeat_interleave(torch.arange(len(frames)), counts),
        "edge_index": torch.tensor(np.concatenate(edges, 1)),
        "shifts": torch.tensor(np.concatenate(shifts), dtype=dtype),
    }


def train(model, frames, epochs, learning_rate):
    """Adam on energies and forces, one frame a step; returns the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.train()
    for _ in range(epochs):
        for atoms in frames:
            optimizer.zero_grad()
            output = model(make_batch([atoms], model))
            energy = (output["energy"][0] - atoms.get_potential_energy()) / len(atoms)
            forces = output["forces"] - torch.as_tensor(atoms.get_forces(), dtype=energy.dtype)
            loss = energy**2 + (forces**2).mean()
            loss.backward()
            optimizer.step()
    return float(loss.detach())
