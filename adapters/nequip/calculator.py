"""`LesNequIPCalculator`: NequIP's own ASE calculator with charges, dipole, polarizability and Born charges."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from ase import Atoms
from ase.data import atomic_numbers
from nequip.data import AtomicDataDict
from nequip.integrations.ase import NequIPCalculator
from nequip.integrations.utils import basic_transforms
from nequip.nn import ForceStressOutput
from torch import Tensor, nn

from les_plugins.adapters.nequip.model import initialize_nequip
from les_plugins.data.frames import without_labels
from les_plugins.devices import check_device
from les_plugins.errors import HostError
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.hosting.current import CURRENT
from les_plugins.model.outputs import long_range_part


class CalculatorOfTypes(LongRangeCalculator, NequIPCalculator):  # type: ignore[misc]
    """NequIP's calculator for structures of ASE, by the chemical symbols of a model's atom types.

    Args:
        model: eager or compiled.
        device: torch device, which exists.
        types: names of the model's atom types.
        about: NequIP's metadata of the model, its cutoff among them.
        elements: chemical symbol of every atom type, where type names are not symbols themselves.
        kwargs: as for NequIP's calculator.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str,
        types: Sequence[str],
        about: Mapping[str, Any],
        elements: Mapping[str, str] | None,
        **kwargs: Any,
    ) -> None:
        symbols = dict(elements or {name: name for name in types})
        unknown = next((name for name in types if symbols.get(name) not in atomic_numbers), None)
        if unknown is not None:
            raise HostError(f"atom type {unknown!r} is no chemical symbol: give elements={{{unknown!r}: 'H', ...}}")
        transforms = basic_transforms(
            about, float(about["r_max"]), list(types), {symbols[name]: name for name in types}
        )
        super().__init__(model.eval(), device, transforms=transforms, **kwargs)
        self.energy_unit, self.length_unit = self.energy_units_to_eV, self.length_units_to_A
        self.known_elements = sorted(atomic_numbers[symbols[name]] for name in types)

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """NequIP's own evaluation; its energy is an array."""
        super().evaluate_host(atoms, properties, system_changes)
        self.results["energy"] = self.results["free_energy"] = float(self.results["energy"])

    def atoms_to_data(self, atoms: Atoms) -> dict[str, Tensor]:
        """NequIP's input. Labels stay outside: NequIP takes the `dipole` of a structure for one of every atom."""
        data: dict[str, Tensor] = super().atoms_to_data(without_labels(atoms))
        if self.takes_total_charge:
            data[AtomicDataDict.TOTAL_CHARGE_KEY] = torch.tensor(
                [[self.total_charge_of(atoms)]], dtype=torch.float64, device=self.device
            )
        return data


#: How many evaluations in progress want the graph of a force module kept, and what guards the number.
_KEPT: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_COUNTING = threading.Lock()


@contextmanager
def _keeping_graph(model: nn.Module) -> Iterator[None]:
    """NequIP's force module keeps its graph inside the block, as it does in training."""
    modules = [module for module in model.modules() if isinstance(module, ForceStressOutput)]
    with _COUNTING:
        for module in modules:
            _KEPT[module] = _KEPT.get(module, 0) + 1
            module.training = True  # of it alone: it says whether forces can be differentiated
    try:
        yield
    finally:
        with _COUNTING:
            for module in modules:
                _KEPT[module] -= 1
                module.training = _KEPT[module] > 0


class LesNequIPCalculator(CalculatorOfTypes):
    """ASE calculator of a NequIP or Allegro model with a long-range part, or without.

    Args, beside those of `LongRangeCalculator`:
        elements: chemical symbol of every atom type of the model, where its type names are not symbols themselves.

    Raises:
        HostError: type names that are no chemical symbols, without `elements`.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        epsilon_infinity: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        elements: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_device(device)
        initialize_nequip()
        super().__init__(model, device, model.type_names, model.metadata, elements, **kwargs)
        self.adopt(long_range_part(model), self.known_elements, metadata, epsilon_infinity)
        self.keeps_force_graph = any(isinstance(module, ForceStressOutput) for module in model.modules())

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """NequIP's own evaluation, its graph kept where a current is wanted."""
        wanted = self.keeps_force_graph and CURRENT in (*properties, *self.always)
        with _keeping_graph(self.model) if wanted else nullcontext():
            super().evaluate_host(atoms, properties, system_changes)

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """NequIP's own batch."""
        batch = AtomicDataDict.batched_from_list([self.atoms_to_data(atoms) for atoms in frames])
        output = self.call_model(batch)
        names = (AtomicDataDict.TOTAL_ENERGY_KEY, AtomicDataDict.FORCE_KEY, AtomicDataDict.STRESS_KEY)
        return self.in_ase_units(*(output[name] for name in names))
