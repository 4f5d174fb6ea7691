"""`LesCHGNetCalculator`: CHGNet's own ASE calculator with charges, dipole, polarizability and Born charges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress
from chgnet.model.dynamics import CHGNetCalculator
from torch import Tensor, nn

from les_plugins.adapters.chgnet.graphs import graph_of
from les_plugins.devices import check_device
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.hosting.logs import quiet
from les_plugins.model.outputs import long_range_part


class LesCHGNetCalculator(LongRangeCalculator, CHGNetCalculator):
    """ASE calculator of a CHGNet with a long-range part, or without, for crystals, slabs and molecules.

    Arguments are those of `LongRangeCalculator`, and CHGNet's. `energies` and `magmoms` are properties too; the stress
    is in eV/Å³ in Voigt order.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        epsilon_infinity: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_device(device)
        with quiet():
            super().__init__(model.eval(), use_device=device, **kwargs)
        self.implemented_properties = list(CHGNetCalculator.implemented_properties)
        elements = range(1, self.model.atom_embedding.embedding.num_embeddings + 1)
        self.adopt(long_range_part(self.model), elements, metadata, epsilon_infinity)

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """CHGNet's `predict_graph`, on a graph that knows boundaries and charge."""
        found = self.model.predict_graph(self._graph(atoms), return_crystal_feas=True, return_site_energies=True)
        energy = float(found["e"]) * self._counts([atoms])[0].item()
        stress = full_3x3_to_voigt_6_stress(found["s"]) * self.stress_weight
        self.results = {"energy": energy, "free_energy": energy, "stress": stress, "crystal_fea": found["crystal_fea"]}
        self.results.update(forces=found["f"], magmoms=found["m"], energies=found["site_energies"])

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """A batch of CHGNet's graphs."""
        found = self.model([self._graph(atoms) for atoms in frames], task="efs")
        tensors = torch.stack(found["s"]) * self.stress_weight
        return found["e"] * self._counts(frames), torch.cat(found["f"]), tensors

    def _graph(self, atoms: Atoms) -> Any:
        return graph_of(self.near(self.with_total_charge(atoms)), self.model).to(self.device)

    def _counts(self, frames: Sequence[Atoms]) -> Tensor:
        """(B,) by which CHGNet divides the energies of structures."""
        counts = [len(atoms) if self.model.is_intensive else 1 for atoms in frames]
        return torch.tensor(counts, device=self.device)
