"""A SevenNet model on a domain with ghosts, by SevenNet's own exchange for ML-IAP. `plugin.py` names it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import sevenn._keys as keys
import torch
from sevenn.nn._ghost_exchange import MLIAPGhostExchangeModule
from torch import Tensor, nn

from les_plugins.adapters.sevennet.model import PART
from les_plugins.adapters.sevennet.modules import KEPT
from les_plugins.errors import HostError
from les_plugins.hosting.domains import DomainGraph, DomainModel, own_rows
from les_plugins.model.features import NodeFeatures
from les_plugins.model.irreps import layer_features

#: Modules of SevenNet that the walk below stops at, or passes by.
_TOTAL, _SPECIES, _CHECK = "reduce_total_enegy", "onehot_to_feature_x", "long_range_input"
#: What has a row for every atom.
_PER_ATOM = (keys.NODE_FEATURE, keys.NODE_ATTR, keys.ATOM_TYPE, keys.ATOMIC_NUMBERS)


class SevenNetDomain(DomainModel):
    """An AtomGraphSequential, with a long-range part or without, on the atoms of one rank; a copy of it.

    Args:
        model: in the dtype that it is to compute with.
        metadata: config.json of its checkpoint; not read.

    Raises:
        HostError: a model of several fidelities.
    """

    def __init__(self, model: nn.Module, metadata: Mapping[str, Any]) -> None:
        if model.modal_map:
            raise HostError("domains: a SevenNet of several fidelities; allowed: one")
        self._model: Any = copy.deepcopy(model)
        self._model.set_is_batch_data(False)
        self.cutoff = float(model.cutoff)
        self.elements = tuple(sorted(int(number) for number in model.type_map))
        part: Any = dict(self._model.named_children()).get(PART)
        self._part = part
        self.long_range = None if part is None else part.long_range
        self._dtype = next(model.parameters()).dtype
        self._exchange = MLIAPGhostExchangeModule(field=keys.NODE_FEATURE)

    def evaluate(self, graph: DomainGraph) -> tuple[Tensor, NodeFeatures | None]:
        """As `DomainModel`."""
        own, edges = graph.halo.own, graph.edges(self._dtype)
        graph = graph.never_empty(self.cutoff)
        rows = graph.halo.own
        data: Any = {
            keys.EDGE_VEC: graph.vector.to(self._dtype),
            keys.EDGE_IDX: torch.stack([graph.centre, graph.neighbor]),
            keys.ATOMIC_NUMBERS: graph.numbers,
            keys.NUM_ATOMS: torch.tensor(rows),
            keys.MLIAP_NUM_LOCAL_GHOST: torch.tensor([rows, graph.halo.ghosts]),
            keys.LAMMPS_DATA: graph.halo,
            keys.USE_MLIAP: torch.tensor(True),
        }
        data = self._model._preprocess(data)
        for name, module in self._model.named_children():
            if name in (PART, _TOTAL):
                break
            if name == _CHECK:
                continue
            if name == _SPECIES:
                _narrow(data, rows)
            if is_convolution := name.endswith("_convolution"):
                data[keys.NODE_FEATURE] = data[keys.NODE_FEATURE][:rows]
                data = self._exchange(data)
            data = module(data)
            if is_convolution:
                _narrow(data, rows)
        energies = data[keys.ATOMIC_ENERGY].view(-1)[:own]
        if self._part is None:
            return energies, None
        irreps, vector = self._part.layer_irreps, self._part.vector
        layers = [layer_features(data[KEPT.format(number)], one, vector) for number, one in enumerate(irreps)]
        return energies, NodeFeatures(own_rows(layers, own), edges, data[keys.ATOM_TYPE][:own])


def _narrow(data: Any, rows: int) -> None:
    """Own atoms alone."""
    for key in _PER_ATOM:
        if key in data:
            data[key] = data[key][:rows]
