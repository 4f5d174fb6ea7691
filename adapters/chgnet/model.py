"""`LongRangeCHGNet`: a CHGNet whose energy, before it is differentiated, has a long-range part. CHGNet's trainer,
calculator and checkpoints take it as their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase.data import chemical_symbols
from chgnet.graph import CrystalGraph
from chgnet.model.composition_model import AtomRef
from chgnet.model.model import BatchedGraph, CHGNet
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.hosting.build import build_long_range, parse_section
from les_plugins.hosting.logs import quiet
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures

#: GPa in eV/Å³, as CHGNet has it.
EV_PER_A3 = 160.21766208


class References(AtomRef):
    """CHGNet's energies of elements in the precision of their weights: its own class counts atoms in float32."""

    def __init__(self, is_intensive: bool) -> None:
        super().__init__(is_intensive=is_intensive)
        self.fitted = True

    def _assemble_graphs(self, graphs: list[CrystalGraph]) -> Tensor:
        counted = [torch.bincount(graph.atomic_number - 1, minlength=self.max_num_elements) for graph in graphs]
        counts = torch.stack(counted).to(self.fc.weight.dtype)
        return counts / counts.sum(1, keepdim=True) if self.is_intensive else counts


class LongRangeCHGNet(CHGNet):
    """A CHGNet with a long-range part, called as the bare one is; its trainer, calculator and `from_file` take it.

    Args:
        long_range: the `long_range:` section.
        arguments: those of CHGNet.
    """

    def __init__(self, *, long_range: Mapping[str, Any], **arguments: Any) -> None:
        super().__init__(**arguments)
        config = parse_section(long_range, "LongRangeCHGNet: long_range")
        self.model_args["long_range"] = config.to_dict()
        self.long_range = build_long_range(feature_layout(self), config)

    def forward(
        self,
        graphs: Sequence[CrystalGraph],
        *,
        task: str = "e",
        return_site_energies: bool = False,
        return_atom_feas: bool = False,
        return_crystal_feas: bool = False,
    ) -> dict[str, Any]:
        """As CHGNet's, for graphs of crystals, and for `BoundedGraph`s of slabs and molecules.

        `s` of a structure that is not periodic along three axes has no meaning.
        """
        batch = BatchedGraph.from_graphs(
            graphs, self.bond_basis_expansion, self.angle_basis_expansion, compute_stress="s" in task
        )
        found: dict[str, Any] = self._compute(
            batch,
            compute_magmom="m" in task,
            return_site_energies=True,
            return_atom_feas=True,
            return_crystal_feas=return_crystal_feas,
        )
        sites, features = torch.cat(found["site_energies"]), torch.cat(found["atom_fea"])
        charge = None
        if self.long_range.total_charge is not None:
            charge = sites.new_tensor([getattr(graph, "total_charge", 0.0) for graph in graphs])
        latent = self.long_range(*_inputs(graphs, batch, features), total_charge=charge)
        own, atomic = latent.energy.to(sites.dtype), latent.atomic_energy.to(sites.dtype)
        energy = sites.sum() + own.sum()
        leaves = [*(batch.atom_positions if "f" in task else ()), *(batch.strains if "s" in task else ())]
        # one backward pass for both, CHGNet makes two; the graph is kept, in evaluation too, as CHGNet's is
        slopes = torch.autograd.grad(energy, leaves, create_graph=True) if leaves else ()
        if "f" in task:
            found["f"] = [-slope for slope in slopes[: len(graphs)]]
        if "s" in task:
            scales = 1 / batch.volumes * EV_PER_A3
            found["s"] = [slope * scale for slope, scale in zip(slopes[-len(graphs) :], scales, strict=True)]
        counts = found["atoms_per_graph"]
        found["e"] = found["e"] + (own / counts if self.is_intensive else own)
        if self.composition_model is not None:
            found["e"] = found["e"] + self.composition_model(graphs)
            sites = sites + torch.cat(self.composition_model.get_site_energies(graphs))
        found["site_energies"] = torch.split(sites + atomic, counts.tolist())
        for name, wanted in (("site_energies", return_site_energies), ("atom_fea", return_atom_feas)):
            if not wanted:
                del found[name]
        return found


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> nn.Module:
    """A CHGNet with a long-range part that shares the weights of `model`.

    Raises:
        HostError: a model without atomic energies, or of other energies of elements than CHGNet's `AtomRef`.
        ConfigError: heads that the features cannot feed.
    """
    base: Any = model
    references = base.composition_model
    arguments = {**base.model_args, "composition_model": None, "long_range": config.to_dict()}
    check_supported(base)
    with quiet():
        attached: Any = LongRangeCHGNet(**arguments)
    for name, child in base.named_children():
        setattr(attached, name, child)
    if references is not None:
        attached.composition_model = precise(references)
    attached.model_args = {**attached.model_args, "composition_model": base.model_args["composition_model"]}
    attached.long_range.to(next(base.parameters()))
    return attached.train(base.training)


def check_supported(base: Any) -> None:
    """Raise HostError for a CHGNet that no long-range part can be attached to."""
    if not base.mlp_first:
        raise HostError("this CHGNet pools its features before the energy: build it with mlp_first=True")
    if base.n_conv < 2:
        raise HostError(f"this CHGNet has n_conv={base.n_conv}; allowed with a long-range part: 2 or more")
    if not isinstance(base.composition_model, AtomRef | None):
        raise HostError(f"composition_model is a {type(base.composition_model).__name__}; allowed: AtomRef, None")
    if base.composition_model is not None and base.composition_model.is_intensive != base.is_intensive:
        raise HostError(
            f"is_intensive is {base.is_intensive}, that of composition_model is not: CHGNet would add an energy an "
            "atom to one of a cell; MPF goes with is_intensive=False, MPtrj and MP-r2SCAN with True"
        )


def precise(references: AtomRef) -> References:
    """The same energies of elements, which share their weights, in a class that float64 can use."""
    found = References(references.is_intensive)
    found.fc, found.fitted = references.fc, references.fitted
    return found


def last_layer(model: Any) -> list[nn.Module]:
    """The last convolution of atoms, and the readout behind it."""
    return [model.atom_conv_layers[-1], model.mlp, *(() if model.readout_norm is None else (model.readout_norm,))]


def feature_layout(model: Any) -> FeatureLayout:
    """Scalars of the layer that CHGNet reads its magnetic moments from, its edges and elements."""
    cutoff = float(model.graph_converter.atom_graph_cutoff)
    elements = tuple(chemical_symbols[1 : model.atom_embedding.embedding.num_embeddings + 1])
    return FeatureLayout.in_matter((LayerLayout(model.atom_fea_dim),), cutoff, elements)


def _inputs(
    graphs: Sequence[CrystalGraph], batch: BatchedGraph, features: Tensor
) -> tuple[NodeFeatures, Tensor, Tensor, Tensor, Tensor]:
    """Features, positions (N, 3) Å, cells (B, 3, 3) Å, pbc (B, 3) and structures (N,), strained as CHGNet's edges."""
    cells = []
    for graph, strain in zip(graphs, batch.strains, strict=True):
        lattice = graph.lattice
        cells.append(lattice if strain is None else lattice @ (torch.eye(3).to(strain) + strain))
    # of one structure the very tensor that its features were made of: properties are derivatives by it
    positions = batch.atom_positions[0] if len(graphs) == 1 else torch.cat(list(batch.atom_positions))
    images = [graph.neighbor_image @ cell for graph, cell in zip(graphs, cells, strict=True)]
    centre, neighbor = batch.batched_atom_graph.long().unbind(1)
    edges = Edges(centre, neighbor, positions[neighbor] + torch.cat(images) - positions[centre])
    flags = [getattr(graph, "pbc", (True, True, True)) for graph in graphs]
    pbc = torch.tensor(flags, device=positions.device)
    nodes = NodeFeatures([LayerFeatures(features)], edges, batch.atomic_numbers.long() - 1)
    return nodes, positions, torch.stack(cells), pbc, batch.atom_owners.long()
