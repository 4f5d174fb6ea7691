"""`LongRangeModel`: one of MatGL's energy models and a long-range part, as an energy model of MatGL's `Potential`.

It is no subclass of the host's model: MatGL's exports (LAMMPS, JAX) would take one for its base and drop the long-range
part without a word. Whoever makes the Potential, MatGL's trainer or `matgl.load_model` too, its graph holds the cell on
the edges, and what it scales by `data_std` is `Energies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from matgl.apps.pes import Potential
from matgl.graph._compute import compute_pair_vector_and_distance
from matgl.models import MatGLModel
from torch import Tensor, nn

from les_plugins.adapters.matgl.architectures import ARCHITECTURES, architecture_of
from les_plugins.adapters.matgl.graphs import LATTICE, TOTAL_CHARGE
from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.hosting.build import build_long_range, parse_section
from les_plugins.model.features import Edges, FeatureLayout, NodeFeatures
from les_plugins.model.long_range import LongRangeResult


class NoPairsError(HostError):
    """A periodic structure without pairs within the cutoff: MatGL's graph has no strained cell for it."""


@dataclass(frozen=True)
class Energies:
    """What a `LongRangeModel` returns: the first that Potential does with it is `data_std * energies`.

    Attributes:
        short_range: (B,), or () of one structure, in the units that `data_std` scales.
        long_range: of the same shape, eV.
    """

    short_range: Tensor
    long_range: Tensor

    def __rmul__(self, data_std: Tensor) -> Tensor:
        """Both in eV."""
        return data_std * self.short_range + self.long_range


class LongRangeModel(MatGLModel):
    """An energy model of MatGL with a long-range part; `Potential`, its trainer, calculator, save and load take it.

    Args:
        architecture: name of the host's model, "TensorNet" or "M3GNet".
        arguments: those of its class.
        long_range: the `long_range:` section.
    """

    __version__ = 1
    is_intensive = False

    def __init__(self, architecture: str, arguments: Mapping[str, Any], long_range: Mapping[str, Any]) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise HostError(f"architecture is {architecture!r}; allowed: {', '.join(ARCHITECTURES)}")
        base = ARCHITECTURES[architecture].kind(**arguments)
        self._assemble(base, parse_section(long_range, "LongRangeModel: long_range"))

    @classmethod
    def around(cls, base: nn.Module, config: LongRangeConfig) -> LongRangeModel:
        """A model that shares the weights of `base`."""
        model: LongRangeModel = cls.__new__(cls)
        MatGLModel.__init__(model)
        model._assemble(base, config)
        return model

    def _assemble(self, base: nn.Module, config: LongRangeConfig) -> None:
        self.architecture = architecture_of(base)
        arguments = dict(base._init_args)  # type: ignore[arg-type]
        # what MatGL writes to model.pt and gives back to __init__
        self._init_args = {
            "architecture": self.architecture,
            "arguments": arguments,
            "long_range": config.to_dict(),
        }
        self.base = base
        self.long_range = build_long_range(feature_layout(base), config).to(next(base.parameters()))

    @property
    def element_types(self) -> tuple[str, ...]:
        """Chemical symbols, in the order of the graph's node types."""
        return tuple(self.base.element_types)  # type: ignore[arg-type]

    @property
    def cutoff(self) -> float:
        """Å."""
        return float(self.base.cutoff)  # type: ignore[arg-type]

    @torch.compiler.disable
    def forward(self, g: Any, state_attr: Tensor | None = None, l_g: Any = None) -> Energies:
        """Energy of every structure; Potential adds the two parts.

        The host's `feature_dict` is kept without its graph; beside it: `atomic_energy` (N,) in the units of the host's
        output, `long_range_atomic_energy` (N,) in eV. `torch.compile` leaves this as it is: the number of reciprocal
        vectors depends on the cell.

        Args:
            g: graph as `Potential` prepares it.
            state_attr: as the host's.
            l_g: as the host's.

        Raises:
            HostError: called without a Potential, which knows cell and scale.
            NoPairsError: as of `strained_cells`.
        """
        if getattr(g, "lattice", None) is None:
            raise HostError(
                "a model with a long-range part needs cell and energy scale: call it through matgl.apps.pes.Potential"
            )
        base: Any = self.base
        short_range: Tensor = base(g=g, state_attr=state_attr, l_g=l_g)
        features = node_features(base, g)
        structure = structures(g)
        charge = None if self.long_range.total_charge is None else getattr(g, TOTAL_CHARGE, None)
        result: LongRangeResult = self.long_range(
            features, g.pos, *strained_cells(g, structure), structure, total_charge=charge
        )
        atomic = ARCHITECTURES[self.architecture].atomic_energy(base).detach()
        # detached: the graph would keep the model from being copied
        self.feature_dict = {
            **_detached(base.feature_dict),
            "atomic_energy": atomic,
            "long_range_atomic_energy": result.atomic_energy.detach().to(g.pos.dtype),
        }
        base.feature_dict = {}
        return Energies(short_range, result.energy.to(g.pos.dtype).view(short_range.shape))

    def predict_structure(
        self, structure: Any, state_feats: Tensor | None = None, graph_converter: Any = None
    ) -> Tensor:
        """Energy of a pymatgen Structure or Molecule, with scale one, as the host's models have it."""
        from matgl.ext.pymatgen import Molecule2Graph, Structure2Graph

        if graph_converter is None:
            converter = Structure2Graph if hasattr(structure, "lattice") else Molecule2Graph
            graph_converter = converter(element_types=self.element_types, cutoff=self.cutoff)
        graph, lattice, default = graph_converter.get_graph(structure)
        graph[LATTICE] = lattice.view(1, 3, 3)
        potential = Potential(self, calc_forces=False, calc_stresses=False).to(next(self.parameters()))
        state = torch.as_tensor(default) if state_feats is None else state_feats
        energy: Tensor = potential(graph, lattice, state)[0]
        return energy.detach()


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> nn.Module:
    """A model of the same kind, a bare one or a `Potential`, that shares the weights of `model`.

    Raises:
        HostError: none can be attached to this model.
        ConfigError: heads that the features cannot feed.
    """
    if not isinstance(model, Potential):
        return LongRangeModel.around(model, config).train(model.training)
    inner = LongRangeModel.around(energy_model(model), config).train(model.training)
    attached: Any = Potential(**{**model._init_args, "model": inner}).train(model.training)
    attached.element_refs = model.element_refs
    for name in ("data_mean", "data_std", "_eye3", "calc_forces", "calc_stresses", "calc_hessian"):
        setattr(attached, name, getattr(model, name))
    return attached  # type: ignore[no-any-return]


def feature_layout(model: nn.Module) -> FeatureLayout:
    """Channels of a bare model, or of that in a Potential, and its cutoff."""
    base = energy_model(model)
    return ARCHITECTURES[architecture_of(base)].layout(base)


def node_features(model: nn.Module, graph: Any) -> NodeFeatures:
    """Features and edges of the graph that a bare model evaluated last.

    Raises:
        HostError: the model was not evaluated.
    """
    base = energy_model(model)
    if not base.feature_dict:
        raise HostError(f"this {type(base).__name__} has no features: evaluate it first")
    vector, _ = compute_pair_vector_and_distance(graph.pos, graph.edge_index, graph.pbc_offshift)
    centre, neighbor = graph.edge_index.long()
    return NodeFeatures(ARCHITECTURES[architecture_of(base)].layers(base, graph), Edges(centre, neighbor, vector))


def energy_model(model: nn.Module) -> Any:
    """The host's own model inside a Potential, a LongRangeModel, or both."""
    inner: Any = model.model if isinstance(model, Potential) else model
    return inner.base if isinstance(inner, LongRangeModel) else inner


def atomic_energies(potential: Any, node_type: Tensor, structure: Tensor) -> Tensor:
    """(N,) eV of the batch that a Potential evaluated last: they add up to its energy.

    Args:
        potential: with a long-range part or without; `data_mean`, one number a structure, is divided among its atoms.
        node_type: (N,) number of each atom's element in `element_types`.
        structure: (N,) number of the structure that an atom belongs to.
    """
    model = potential.model
    if isinstance(model, LongRangeModel):
        own, long_range = model.feature_dict["atomic_energy"], model.feature_dict["long_range_atomic_energy"]
    else:
        own, long_range = ARCHITECTURES[architecture_of(model)].atomic_energy(model).detach(), 0.0
    counts = torch.bincount(structure)[structure]
    energy: Tensor = potential.data_std * own + long_range + potential.data_mean / counts
    if potential.element_refs is not None:
        energy = energy + potential.element_refs.property_offset[node_type]
    return energy


def structures(graph: Any) -> Tensor:
    """(N,) number of the structure that an atom belongs to."""
    batch = getattr(graph, "batch", None)
    if batch is None:
        return torch.zeros(len(graph.node_type), dtype=torch.long, device=graph.node_type.device)
    return batch.long()  # type: ignore[no-any-return]


def periodicity(lattice: Tensor) -> Tensor:
    """(B, 3) bool of (B, 3, 3) lattices: MatGL's converters give open structures the unit matrix, exactly.

    A periodic cell of 1 Å edges is none that atoms fit into. MatGL knows no slabs.
    """
    identity = torch.eye(3, dtype=lattice.dtype, device=lattice.device)
    return (lattice != identity).flatten(1).any(1)[:, None].expand(-1, 3)


def strained_cells(graph: Any, structure: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, 3) Å with the graph to the strain that Potential differentiates by, and (B, 3) bool pbc.

    Each structure's cell is that of its first edge, where Potential keeps it. One without edges has it from LATTICE.

    Raises:
        NoPairsError: a periodic structure without edges whose stress is asked for, or whose cell nobody handed over.
    """
    number, edges = getattr(graph, "num_graphs", 1), graph.edge_index.shape[1]
    source = structure[graph.edge_index[0]]
    order = torch.arange(edges, device=source.device)
    first = torch.full((number,), edges, device=source.device).scatter_reduce(0, source, order, "amin")
    bare = first == edges
    lattice = _handed_over(graph, structure, bare)
    if edges:
        lattice = torch.where(bare[:, None, None], lattice, graph.lattice[first.clamp(max=edges - 1)])
    pbc = periodicity(lattice.detach())
    if graph.lattice.requires_grad and bool((bare & pbc[:, 0]).any()):
        raise NoPairsError(
            "a periodic structure has no two atoms within the model's cutoff: MatGL's graph has no cell to strain for "
            "it, so there is no stress; leave it out or calculate without stress"
        )
    return lattice, pbc


def _handed_over(graph: Any, structure: Tensor, bare: Tensor) -> Tensor:
    """(B, 3, 3) Å, of structures without edges: LATTICE, or the unit matrix of those that are seen to be open."""
    if (given := getattr(graph, LATTICE, None)) is not None:
        return given.to(graph.pos.dtype).view(-1, 3, 3)  # type: ignore[no-any-return]
    if bool(bare.any()):
        # fractional coordinates of open structures are Cartesian; at the origin they would be so in any cell
        same = (graph.pos == graph.frac_coords).all(1)
        elsewhere = (graph.frac_coords != 0).any(1)
        is_open = torch.ones_like(bare).index_put((structure[~same],), torch.zeros_like(bare[:1]))
        is_off_origin = torch.zeros_like(bare).index_put((structure[elsewhere],), torch.ones_like(bare[:1]))
        if bool((bare & ~(is_open & is_off_origin)).any()):
            raise NoPairsError(
                "a structure has no two atoms within the model's cutoff, and MatGL's graph keeps no cell for it: "
                "convert it with les_plugins.adapters.matgl.graphs.Converter in the place of Atoms2Graph"
            )
    return torch.eye(3, dtype=graph.pos.dtype, device=graph.pos.device).expand(len(bare), 3, 3)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return {key: _detached(item) for key, item in value.items()} if isinstance(value, dict) else value
