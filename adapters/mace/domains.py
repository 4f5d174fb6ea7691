"""A MACE model on a domain with ghosts, by MACE's own exchange for LAMMPS (`LAMMPS_MP`). `plugin.py` names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from les_plugins.adapters.mace.calculator import head_of
from les_plugins.adapters.mace.model import LongRangeMACE, components_first, layer_irreps
from les_plugins.errors import HostError
from les_plugins.hosting.domains import DomainGraph, DomainModel, own_rows
from les_plugins.model.features import NodeFeatures
from les_plugins.model.irreps import concatenated_features


class MACEDomain(DomainModel):
    """MACE, or a LongRangeMACE, on the atoms of one rank.

    Args:
        model: in the dtype that it is to compute with.
        metadata: config.json of its checkpoint, which may name the head.

    Raises:
        HostError: a model that reads a total charge or spin of the structure in its embedding.
    """

    def __init__(self, model: nn.Module, metadata: Mapping[str, Any]) -> None:
        is_long_range = isinstance(model, LongRangeMACE)
        self._base: Any = model.base if is_long_range else model
        if getattr(self._base, "embedding_specs", None):
            raise HostError("a MACE model that embeds a total charge or spin cannot be evaluated domain by domain")
        self.long_range = model.long_range if is_long_range else None
        self.cutoff = float(self._base.r_max)
        self.elements = tuple(self._base.atomic_numbers.tolist())
        self._irreps = layer_irreps(self._base)
        heads = list(getattr(self._base, "heads", None) or ["Default"])
        self._head = heads.index(head_of(model, metadata.get("head")))
        self._place = torch.full((119,), -1, dtype=torch.long)
        self._place[list(self.elements)] = torch.arange(len(self.elements))

    def evaluate(self, graph: DomainGraph) -> tuple[Tensor, NodeFeatures | None]:
        """As `DomainModel`."""
        own, edges, dtype = graph.halo.own, graph.edges(self._base.r_max.dtype), self._base.r_max.dtype
        graph = graph.never_empty(self.cutoff)
        rows = graph.halo.own
        species = self._place.to(graph.numbers.device)[graph.numbers]
        output = self._base(
            {
                # of MACE from neighbour to centre, the opposite of what LAMMPS' ML-IAP hands over
                "vectors": -graph.vector.to(dtype),
                "edge_index": torch.stack([graph.neighbor, graph.centre]),
                "node_attrs": nn.functional.one_hot(species, len(self.elements)).to(dtype),
                "batch": torch.zeros(rows, dtype=torch.long, device=species.device),
                "head": torch.full((1,), self._head, device=species.device),
                "lammps_class": graph.halo,
                "natoms": (rows, graph.halo.ghosts),
            },
            compute_force=False,
            lammps_mliap=True,
        )
        energies = output["node_energy"][:own]
        if self.long_range is None:
            return energies, None
        layers = concatenated_features(output["node_feats"], self._irreps, components_first(self._base))
        return energies, NodeFeatures(own_rows(layers, own), edges, species[:own])
