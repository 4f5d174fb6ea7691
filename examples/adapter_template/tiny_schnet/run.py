"""Batches, forces and stress, the ASE calculator and the trainer of TinySchNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor, nn


def make_batch(frames: Sequence[Atoms], cutoff: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """Input of a model: atoms and edges of all frames, one after the other."""
    edges, shifts, start = [], [], 0
    for atoms in frames:
        centre, neighbor, images = neighbor_list("ijS", atoms, cutoff)
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


def evaluate(model: nn.Module, batch: Mapping[str, Tensor], training: bool = False) -> dict[str, Tensor]:
    """The model's outputs with forces (N, 3) eV/Å and stress (B, 3, 3) eV/Å³, the latter zero for open frames."""
    positions = batch["positions"].requires_grad_(True)
    strain = torch.zeros_like(batch["cell"]).requires_grad_(True)
    symmetric = torch.eye(3, dtype=strain.dtype, device=strain.device) + 0.5 * (strain + strain.transpose(1, 2))
    strained = {
        **batch,
        "positions": torch.einsum("na,nab->nb", positions, symmetric[batch["batch"]]),
        "cell": batch["cell"] @ symmetric,
    }
    output = model(strained)
    by_position, by_strain = torch.autograd.grad(
        output["energy"].sum(), (positions, strain), create_graph=training, retain_graph=True
    )
    volume = torch.linalg.det(batch["cell"]).abs()[:, None, None]
    stress = torch.where(volume > 0, by_strain / torch.where(volume > 0, volume, 1.0), 0.0)
    return {**output, "forces": -by_position, "stress": stress}


class TinySchNetCalculator(Calculator):
    """Energy, forces and stress for ASE."""

    implemented_properties = ["energy", "energies", "forces", "stress"]  # noqa: RUF012 (as ASE has it)

    def __init__(self, model: nn.Module, device: str = "cpu") -> None:
        super().__init__()
        self.model, self.device = model.to(device), device

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """All of them at once; what the model returned beside them is kept as `output`, its input as `batch`."""
        super().calculate(atoms, properties, system_changes)
        dtype = next(self.model.parameters()).dtype
        cpu = make_batch([self.atoms], self.model.config["cutoff"], dtype)
        self.batch = {name: value.to(self.device) for name, value in cpu.items()}
        self.output = evaluate(self.model, self.batch)
        found = {name: value.detach().cpu().double().numpy() for name, value in self.output.items() if name != "latent"}
        self.results: dict[str, Any] = {
            "energy": float(found["energy"][0]),
            "energies": found["atomic_energy"],
            "forces": found["forces"],
        }
        if self.atoms.pbc.all():
            self.results["stress"] = full_3x3_to_voigt_6_stress(found["stress"][0])


def train(model: nn.Module, frames: Sequence[Atoms], epochs: int, learning_rate: float) -> None:
    """Adam on energies and forces, one frame a step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    dtype = next(model.parameters()).dtype
    for _ in range(epochs):
        for atoms in frames:
            optimizer.zero_grad()
            output = evaluate(model, make_batch([atoms], model.config["cutoff"], dtype), training=True)
            forces = torch.tensor(atoms.get_forces(), dtype=dtype)
            error = (output["energy"][0] - atoms.get_potential_energy()) / len(atoms)
            (error.square() + (output["forces"] - forces).square().mean()).backward()
            optimizer.step()
