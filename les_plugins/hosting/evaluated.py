"""For hosts without an ASE calculator: leaf and strain, forces and stress, and a calculator that is made of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor, nn

from les_plugins.devices import check_device
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.model.outputs import long_range_part


class HostResult(NamedTuple):
    """What a host says of a batch of structures, in its own dtype.

    Attributes:
        energy: (B,) eV.
        atomic_energy: (N,) eV, those that an MD engine would read.
        forces: (N, 3) eV/Å.
        stress: (B, 3, 3) eV/Å³, ASE's sign; of no meaning for open structures.
        positions: (N, 3) Å, the leaf that the host differentiated the energy by.
    """

    energy: Tensor
    atomic_energy: Tensor
    forces: Tensor
    stress: Tensor
    positions: Tensor


class StrainedFrames(NamedTuple):
    """A batch of structures with a leaf and a strain, by which one derivative gives forces and stresses.

    Attributes:
        counts: number of atoms of each structure.
        positions: (N, 3) Å, the leaf.
        strain: (B, 3, 3), zero.
        moved: (N, 3) Å, strained: what the host is given.
        cells: (B, 3, 3) Å, strained.
    """

    counts: tuple[int, ...]
    positions: Tensor
    strain: Tensor
    moved: Tensor
    cells: Tensor

    @classmethod
    def of(cls, frames: Sequence[Atoms], like: Tensor) -> StrainedFrames:
        """The structures on the device and in the dtype of a tensor, such as a parameter of the model."""
        counts = tuple(len(atoms) for atoms in frames)
        positions = torch.cat([torch.as_tensor(atoms.positions) for atoms in frames]).to(like.detach())
        positions.requires_grad_()
        cells = torch.stack([torch.as_tensor(atoms.cell.array) for atoms in frames]).to(positions)
        strain = torch.zeros_like(cells).requires_grad_()
        symmetric = torch.eye(3).to(cells) + 0.5 * (strain + strain.transpose(1, 2))
        parts = zip(positions.split(counts), symmetric, strict=True)
        moved = torch.cat([part @ deformation for part, deformation in parts])
        return cls(counts, positions, strain, moved, cells @ symmetric)

    def result(self, atomic_energy: Tensor, keep_graph: bool = False) -> HostResult:
        """Energies, forces and stresses.

        Args:
            atomic_energy: (N,) eV, with the graph to `moved` and `cells`.
            keep_graph: whether forces and stresses are to be differentiated, as in training.
        """
        energy = torch.stack([part.sum() for part in atomic_energy.split(self.counts)])
        slopes = torch.autograd.grad(energy.sum(), (self.positions, self.strain), create_graph=keep_graph)
        volume = torch.linalg.det(self.cells.detach()).abs().clamp(min=1e-9)[:, None, None]
        return HostResult(energy, atomic_energy, -slopes[0], slopes[1] / volume, self.positions)


class EvaluatedCalculator(LongRangeCalculator, Calculator):
    """The ASE calculator of a host that has none: an adapter writes `evaluate`.

    Args:
        model: with a long-range part, or a bare one.
        elements: atomic numbers that it knows.
        metadata, device, epsilon_infinity: as of `LongRangeCalculator`.
    """

    def __init__(
        self,
        model: nn.Module,
        elements: Iterable[int],
        metadata: Mapping[str, Any] | None = None,
        device: str = "cpu",
        epsilon_infinity: float | None = None,
    ) -> None:
        check_device(device)
        Calculator.__init__(self)
        self.model: Any = model.to(device).eval()
        self.implemented_properties = ["energy", "energies", "forces", "stress"]
        self.adopt(long_range_part(model), elements, metadata, epsilon_infinity)

    @abstractmethod
    def evaluate(self, frames: Sequence[Atoms]) -> HostResult:
        """One evaluation of the model for one or several structures; those of a float32 model are by the origin."""

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """All at once."""
        found = self.evaluate([self.near(atoms)])
        energy, energies, forces, stress = (value.detach().cpu().double().numpy() for value in found[:4])
        self.results = {"energy": float(energy[0]), "energies": energies, "forces": forces}
        self.results["stress"] = full_3x3_to_voigt_6_stress(stress[0])

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor]:
        """In one evaluation."""
        found = self.evaluate([self.near(atoms) for atoms in frames])
        return found.energy, found.forces, found.stress
