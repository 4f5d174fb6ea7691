"""`evaluate`: energies, forces and stresses of ASE structures; and the ASE calculator made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from metatensor.torch import detach_block
from metatomic.torch import ModelOutput, System, register_autograd_neighbors
from metatrain.utils.neighbor_lists import get_requested_neighbor_lists, get_system_with_neighbor_lists
from torch import Tensor, nn

from les_plugins.adapters.metatrain.model import energy_target, places
from les_plugins.hosting.evaluated import EvaluatedCalculator, HostResult, StrainedFrames


def evaluate(model: Any, frames: Sequence[Atoms], keep_graph: bool = False) -> HostResult:
    """One batch of periodic, slab and open structures.

    Args:
        model: of metatrain, with a long-range part or without, in evaluation mode.
        frames: structures.
        keep_graph: whether the forces are to be differentiated.
    """
    batch, target = StrainedFrames.of(frames, next(model.parameters())), energy_target(model)
    lists = get_requested_neighbor_lists(model)
    strained = zip(frames, batch.moved.split(batch.counts), batch.cells, strict=True)
    systems = [_system(atoms, positions, cell, lists) for atoms, positions, cell in strained]
    block = model(systems, {target: ModelOutput(unit="eV", sample_kind="atom")})[target].block()
    values = block.values[:, 0]
    return batch.result(torch.empty_like(values).index_copy(0, places(block, systems), values), keep_graph)


def _system(atoms: Atoms, positions: Tensor, cell: Tensor, lists: Sequence[Any]) -> System:
    """With metatrain's neighbour lists. System wants cell vectors of zero where a structure is not periodic."""
    types, pbc = (torch.as_tensor(value, device=positions.device) for value in (atoms.numbers.astype("i4"), atoms.pbc))
    cell = cell * pbc[:, None]
    bare = get_system_with_neighbor_lists(System(types, positions.detach(), cell.detach(), pbc), lists)
    found = System(types, positions, cell, pbc)
    for options in lists:
        neighbors = detach_block(bare.get_neighbor_list(options))
        register_autograd_neighbors(found, neighbors)
        found.add_neighbor_list(options, neighbors)
    return found


class LesMetatrainCalculator(EvaluatedCalculator):
    """ASE calculator of a model of metatrain with a long-range part, or without; arguments as `LongRangeCalculator`."""

    def __init__(self, model: nn.Module, metadata: Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(model, model.dataset_info.atomic_types, metadata, **options)  # type: ignore[union-attr]

    def evaluate(self, frames: Sequence[Atoms]) -> HostResult:
        """In evaluation mode, which the model is in."""
        return evaluate(self.model, frames)
