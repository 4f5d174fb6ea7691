"""`LesMatGLCalculator`: MatGL's own `PESCalculator` with charges, dipole, polarizability and Born effective charges."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.data import atomic_numbers
from matgl.apps.pes import Potential
from matgl.ext.ase import PESCalculator
from torch import Tensor, nn
from torch_geometric.data import Batch

from les_plugins.adapters.matgl.graphs import Converter, host_dtype
from les_plugins.adapters.matgl.model import NoPairsError, atomic_energies
from les_plugins.data.frames import check_no_slabs
from les_plugins.devices import check_device
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.model.outputs import long_range_part


class LesMatGLCalculator(LongRangeCalculator, PESCalculator):
    """ASE calculator of a MatGL model with a long-range part, or without, in ASE's units.

    Arguments are those of `LongRangeCalculator`; `model` is a Potential, or an energy model, which gets one. It has the
    property `energies` too. A periodic structure without pairs has no stress.

    Raises:
        DataError: also for a structure that is periodic along some axes only.
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
        potential = _with_stress(model).to(device).eval()
        super().__init__(potential, **{"stress_unit": "eV/A3", "use_voigt": True, **kwargs})
        self._atoms2graph = Converter(self.element_types, self.cutoff)  # in the place of the base's
        self._dtype = potential.data_mean.dtype
        self.implemented_properties = [*type(self).implemented_properties, "energies"]
        elements = [atomic_numbers[symbol] for symbol in self.element_types]
        self.adopt(long_range_part(potential), elements, metadata, epsilon_infinity)

    def check(self, atoms: Atoms, where: str = "structure") -> None:
        """As every calculator's; and MatGL would take a slab for a molecule."""
        super().check(atoms, where)
        check_no_slabs([atoms], where)

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """MatGL's, and the energies of atoms."""
        types = torch.tensor([self.known_elements.index(z) for z in atoms.numbers], device=self._device)
        with host_dtype(self._dtype):
            self._host_calculate(self.near(self.with_total_charge(atoms)), properties, system_changes)
            # inside: the model keeps them, and the next thread's evaluation replaces them
            energies = atomic_energies(self.potential, types, torch.zeros_like(types))
        self.atoms = atoms.copy()  # the host's is the one that it was given
        self.results["energies"] = _array(energies)

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """A batch of MatGL's graphs; none where a periodic structure has no pairs."""
        with host_dtype(self._dtype):
            items = (self._atoms2graph.get_graph(self.near(self.with_total_charge(atoms))) for atoms in frames)
            graphs, lattices, _ = zip(*items, strict=True)
            try:
                found = self.potential(
                    Batch.from_data_list(list(graphs)).to(self._device), torch.cat(lattices).to(self._device)
                )
            except NoPairsError:
                return None
        return found[0], found[1], found[2].view(-1, 3, 3) * self.conversion_factor

    def _host_calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        try:
            super().evaluate_host(atoms, properties, system_changes)
        except NoPairsError:
            self.potential.calc_stresses = self.compute_stress = False
            try:
                super().evaluate_host(atoms, properties, system_changes)
            finally:
                self.potential.calc_stresses = self.compute_stress = True
            self.results.pop("stress", None)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.potential.data_mean.device
        return device

    def geometry(self, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor]:
        """Positions (N, 3), cell (1, 3, 3) and pbc (1, 3) of a structure."""
        positions = torch.tensor(atoms.positions, device=self._device)
        cell = torch.tensor(atoms.cell.array[None], dtype=self._dtype, device=self._device)
        return positions, cell, torch.tensor(atoms.pbc[None], device=self._device)


def _with_stress(model: nn.Module) -> Any:
    """A Potential of the model that computes forces and stress; a Potential of the user's is not changed."""
    if not isinstance(model, Potential):
        parameter = next(model.parameters())
        return Potential(model, calc_stresses=True).to(device=parameter.device, dtype=parameter.dtype)
    potential = copy.copy(model)
    potential.calc_forces = potential.calc_stresses = True
    return potential


def _array(values: Tensor) -> Any:
    return values.detach().cpu().double().numpy()
