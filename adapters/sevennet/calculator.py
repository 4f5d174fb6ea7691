"""`LesSevenNetCalculator`: SevenNet's own ASE calculator with charges, dipole, polarizability and Born charges."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import sevenn._keys as keys
from ase import Atoms
from ase.calculators.calculator import Calculator
from sevenn.calculator import SevenNetCalculator
from sevenn.nn.sequential import AtomGraphSequential
from torch import Tensor, nn
from torch_geometric.data import Batch

from les_plugins.adapters.sevennet.graphs import follow_positions, graph_of, stress_of
from les_plugins.data.frames import check_elements
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.model.outputs import long_range_part

#: One for each model: it keeps whether it is given batches, and so serves one thread at a time.
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_ADDING = threading.Lock()


class LesSevenNetCalculator(LongRangeCalculator, SevenNetCalculator):  # type: ignore[misc]
    """ASE calculator of a SevenNet model with a long-range part, or without.

    Args, beside those of `LongRangeCalculator`:
        modal: fidelity, of a model that has several.

    Raises:
        HostError: atomic virials or an accelerator with a long-range part; the path of a file in place of its model.
        ConfigError: a fidelity that the model does not have, or none for a model with several.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        epsilon_infinity: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        modal: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_device(device)
        if not isinstance(model, AtomGraphSequential):
            raise HostError(f"LesSevenNetCalculator takes an AtomGraphSequential, not a {type(model).__name__}")
        part = long_range_part(model)
        for option in ("compute_atomic_virial", "enable_cueq", "enable_flash", "enable_oeq"):
            if part is not None and kwargs.get(option):
                raise HostError(f"{option} cannot be combined with a long-range part")
        if model.modal_map and modal not in model.modal_map:
            raise ConfigError(
                f"modal is {modal!r}; this model has the fidelities {', '.join(model.modal_map)}: choose one with "
                "LesSevenNetCalculator(model, modal=...)"
            )
        with _set_to(model, batches=False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No tensor product accelerator")  # a hint that suits large GPU runs
            super().__init__(model, "model_instance", device, modal=modal, **kwargs)
        self.adopt(part, sorted(int(number) for number in self.type_map), metadata, epsilon_infinity)

    def set_atoms(self, atoms: Atoms) -> None:
        """Called by ASE; raises DataError for an element that the model does not know."""
        check_elements([atoms], self.known_elements, "structure")

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """One evaluation of SevenNet's graph, whose edge vectors follow the positions."""
        Calculator.calculate(self, atoms, properties, system_changes)
        data = self._graph(atoms)
        if self.has_long_range:  # SevenNet differentiates by edge vectors; Born charges need the positions behind them
            self.start_from(follow_positions(data))
        with _set_to(self.model, batches=False):
            self.results = self.output_to_results(self.model(data))

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """A batch of SevenNet's graphs."""
        batch = Batch.from_data_list([self._graph(atoms) for atoms in frames])
        with _set_to(self.model, batches=True):
            output = self.model(batch)
        return output[keys.PRED_TOTAL_ENERGY], output[keys.PRED_FORCE], stress_of(output)

    def _graph(self, atoms: Atoms) -> Any:
        data = graph_of(self.with_total_charge(atoms), float(self.cutoff), next(self.model.parameters()).dtype)
        if self.modal:
            data[keys.DATA_MODALITY] = self.modal
        return data.to(self.device)


@contextmanager
def _set_to(model: AtomGraphSequential, batches: bool) -> Iterator[None]:
    """The model set to batches or to single structures inside the block; left so, other evaluations would go wrong."""
    with _ADDING:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock:
        before = model.is_batch_data
        model.set_is_batch_data(batches)
        try:
            yield
        finally:
            model.set_is_batch_data(before)
