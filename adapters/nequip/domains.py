"""A NequIP or Allegro model on a domain with ghosts, by NequIP's own exchange for ML-IAP. `plugin.py` names it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from ase.data import atomic_numbers
from nequip.data import AtomicDataDict
from nequip.nn._ghost_exchange_base import NoOpGhostExchangeModule
from nequip.nn._ghost_exchange_lmp_mliap import LAMMPSMLIAPGhostExchangeModule
from nequip.nn.model_modifier_utils import replace_submodules
from torch import Tensor, nn

from les_plugins.adapters.nequip.model import PART, energy_network, initialize_nequip
from les_plugins.adapters.nequip.modules import KEPT
from les_plugins.errors import HostError
from les_plugins.hosting.domains import DomainGraph, DomainModel, own_rows
from les_plugins.model.features import NodeFeatures
from les_plugins.model.irreps import layer_features

_TOTAL = "total_energy_sum"


class NequIPDomain(DomainModel):
    """A GraphModel, with a long-range part or without, on the atoms of one rank; a copy with ghost exchanges.

    Args:
        model: in the precision that it was built with.
        metadata: config.json of its checkpoint; not read.

    Raises:
        HostError: atom types that are no chemical symbols, a cutoff for each pair of types, a precision that is not
            the model's own.
    """

    def __init__(self, model: nn.Module, metadata: Mapping[str, Any]) -> None:
        initialize_nequip()
        about, whole = model.metadata, energy_network(model)
        if strange := [name for name in model.type_names if name not in atomic_numbers]:
            raise HostError(f"domains: atom type {strange[0]!r} is no chemical symbol")
        if about.get("per_edge_type_cutoff"):
            raise HostError("domains: a model with a cutoff for each pair of types; allowed: one cutoff")
        if any(value.dtype != model.model_dtype for value in whole.parameters() if value.is_floating_point()):
            raise HostError(
                f"domains: NequIP casts to the precision that a model was built with, {model.model_dtype}: leave "
                "--dtype out"
            )
        self.cutoff = float(about["r_max"])
        self.elements = tuple(atomic_numbers[name] for name in model.type_names)
        self._network = replace_submodules(copy.deepcopy(whole), NoOpGhostExchangeModule, _exchanging)
        part: Any = getattr(self._network, PART, None)
        self._irreps = [] if part is None else part.layer_irreps
        self.long_range = None if part is None else part.long_range
        self._place = torch.full((119,), -1, dtype=torch.long)
        self._place[list(self.elements)] = torch.arange(len(self.elements))

    def evaluate(self, graph: DomainGraph) -> tuple[Tensor, NodeFeatures | None]:
        """As `DomainModel`."""
        own, whole = graph.halo.own, graph
        graph = graph.never_empty(self.cutoff)
        species = self._place.to(graph.numbers.device)[graph.numbers]
        data: dict[str, Any] = {
            AtomicDataDict.EDGE_VECTORS_KEY: graph.vector,
            AtomicDataDict.EDGE_INDEX_KEY: torch.stack([graph.centre, graph.neighbor]),
            AtomicDataDict.ATOM_TYPE_KEY: species,
            # of no meaning: their number says how many nodes there are
            AtomicDataDict.POSITIONS_KEY: graph.vector.new_zeros(len(species), 3),
            AtomicDataDict.LMP_MLIAP_DATA_KEY: graph.halo,
            AtomicDataDict.NUM_LOCAL_GHOST_NODES_KEY: torch.tensor([graph.halo.own, graph.halo.ghosts]),
        }
        for name, module in self._network.named_children():
            if name in (PART, _TOTAL):
                break
            data = module(data)
        energies = data[AtomicDataDict.PER_ATOM_ENERGY_KEY].view(-1)[:own]
        if self.long_range is None:
            return energies, None
        layers = [layer_features(data[KEPT.format(number)], irreps) for number, irreps in enumerate(self._irreps)]
        edges = whole.edges(layers[0].scalars.dtype)
        return energies, NodeFeatures(own_rows(layers, own), edges, species[:own])


def _exchanging(module: Any) -> nn.Module:
    """NequIP's exchange in the place of none."""
    exchange: nn.Module = LAMMPSMLIAPGhostExchangeModule(field=module.field, irreps_in=module.irreps_in)
    return exchange
