"""`evaluate`: energies, forces and stresses of ASE structures; and the ASE calculator made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress
from metatensor.torch import detach_block
from metatomic.torch import ModelOutput, System, register_autograd_neighbors
from metatrain.utils.neighbor_lists import get_requested_neighbor_lists, get_system_with_neighbor_lists
from torch import Tensor, nn

from les_plugins.adapters.metatrain.model import energy_target
from les_plugins.devices import check_device
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.model.outputs import long_range_part


def evaluate(model: Any, frames: Sequence[Atoms], keep_graph: bool = False) -> dict[str, Tensor]:
    """One batch: energy (B,) eV, energies (N,) eV, forces (N, 3) eV/Å, stress (B, 3, 3) eV/Å³, positions (N, 3) Å.

    Args:
        model: of metatrain, with a long-range part or without, in evaluation mode.
        frames: structures, periodic, slabs and open ones mixed; the stress means something for the first alone.
        keep_graph: whether the forces are to be differentiated; `positions` is the leaf.
    """
    weights = next(model.parameters())
    counts = [len(atoms) for atoms in frames]
    positions = torch.cat([_like(atoms.positions, weights) for atoms in frames]).requires_grad_()
    strain = weights.new_zeros(len(frames), 3, 3).requires_grad_()
    symmetric = torch.eye(3).to(weights) + 0.5 * (strain + strain.transpose(1, 2))
    strained = zip(frames, positions.split(counts), symmetric, strict=True)
    lists = get_requested_neighbor_lists(model)
    systems = [_system(atoms, part, matrix, lists) for atoms, part, matrix in strained]
    target = energy_target(model)
    block = model(systems, {target: ModelOutput(unit="eV", sample_kind="atom")})[target].block()
    first = torch.tensor([0, *counts], device=weights.device).cumsum(0)
    system, atom = (block.samples.column(name).long() for name in ("system", "atom"))
    energies = torch.empty_like(block.values[:, 0]).index_copy(0, first[system] + atom, block.values[:, 0])
    energy = torch.stack([part.sum() for part in energies.split(counts)])
    slopes = torch.autograd.grad(energy.sum(), (positions, strain), create_graph=keep_graph)
    cells = torch.stack([_like(atoms.cell.array, weights) for atoms in frames])
    volume = torch.linalg.det(cells).abs().clamp(min=1e-9)[:, None, None]
    found = {"energy": energy, "energies": energies, "forces": -slopes[0], "stress": slopes[1] / volume}
    return {**found, "positions": positions}


def _system(atoms: Atoms, positions: Tensor, deformation: Tensor, lists: Sequence[Any]) -> System:
    """With metatrain's neighbour lists. System wants cell vectors of zero where a structure is not periodic."""
    types, pbc = (torch.as_tensor(value, device=positions.device) for value in (atoms.numbers.astype("i4"), atoms.pbc))
    cell = _like(atoms.cell.array, positions) * pbc[:, None]
    bare = get_system_with_neighbor_lists(System(types, positions.detach(), cell, pbc), lists)
    found = System(types, positions @ deformation, cell @ deformation, pbc)
    for options in lists:
        neighbors = detach_block(bare.get_neighbor_list(options))
        register_autograd_neighbors(found, neighbors)
        found.add_neighbor_list(options, neighbors)
    return found


def _like(values: Any, other: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=other.dtype, device=other.device)


class LesMetatrainCalculator(LongRangeCalculator, Calculator):  # type: ignore[misc]
    """ASE calculator of a model of metatrain with a long-range part, or without; arguments as `LongRangeCalculator`."""

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        epsilon_infinity: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        check_device(device)
        Calculator.__init__(self)
        self.model: Any = model.to(device).eval()
        self.implemented_properties = ["energy", "energies", "forces", "stress"]
        self.adopt(long_range_part(model), self.model.dataset_info.atomic_types, metadata, epsilon_infinity)

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """All at once."""
        found = evaluate(self.model, [self.near(atoms)])
        energy, energies, forces, stress = (
            found[name].detach().cpu().double().numpy() for name in ("energy", "energies", "forces", "stress")
        )
        self.results = {"energy": float(energy[0]), "energies": energies, "forces": forces}
        self.results["stress"] = full_3x3_to_voigt_6_stress(stress[0])

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor]:
        """In one evaluation."""
        found = evaluate(self.model, [self.near(atoms) for atoms in frames])
        return found["energy"], found["forces"], found["stress"]
