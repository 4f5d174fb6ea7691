"""What a long-range part reads of MatGL's TensorNet and M3GNet: channels, features of a batch, atomic energies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from matgl.models import M3GNet, TensorNet
from torch import Tensor, nn

from les_plugins.electrostatics.multipoles import cartesian_to_spherical
from les_plugins.errors import HostError
from les_plugins.model.features import FeatureLayout, LayerFeatures, LayerLayout


class Architecture(NamedTuple):
    """How one of MatGL's models is read.

    Attributes:
        kind: its class.
        layout: features of a model.
        layers: features of the graph that a model evaluated last, by its `feature_dict`.
        atomic_energy: (N,) of that batch, in the units of the model's output.
    """

    kind: type[nn.Module]
    layout: Callable[[Any], FeatureLayout]
    layers: Callable[[Any, Any], list[LayerFeatures]]
    atomic_energy: Callable[[Any], Tensor]


def architecture_of(model: nn.Module) -> str:
    """Name of a model's architecture in `ARCHITECTURES`.

    Raises:
        HostError: another architecture, or one that does not predict a total energy; says what is allowed.
    """
    name = next((name for name, known in ARCHITECTURES.items() if type(model) is known.kind), None)
    if name is None:
        raise HostError(
            f"the long-range part can be attached to {' and '.join(ARCHITECTURES)} of MatGL, not to "
            f"{type(model).__name__}; QET has electrostatics of its own, which would be counted twice"
        )
    if model.is_intensive:
        raise HostError(f"this {name} predicts an intensive property; build it with is_intensive=False for energies")
    if name == "TensorNet" and model._use_warp:
        raise HostError(
            "this TensorNet uses warp kernels, whose second derivatives and features are not supported: build it with "
            "use_warp=False"
        )
    return name


def last_layer(model: Any) -> list[nn.Module]:
    """The last interaction of a bare model, and its readout."""
    if architecture_of(model) == "TensorNet":
        return [*model.layers[-1:], model.out_norm, model.linear, model.final_layer]
    return [model.three_body_interactions[-1], model.graph_layers[-1], model.final_layer]


def _tensornet_layout(model: Any) -> FeatureLayout:
    units = int(model.units)
    return FeatureLayout.in_matter((LayerLayout(3 * units, units, units),), float(model.cutoff))


def _tensornet_layers(model: Any, graph: Any) -> list[LayerFeatures]:
    """Trace, antisymmetric and symmetric traceless part of the last tensors (N, C, 3, 3), beside the last scalars.

    All of them are sums over edges: of an atom without neighbours they do not know the element, which an ion's charge
    is made of. So the embedding of the element is there too.

    The antisymmetric part starts as the matrix of an edge's direction, r → -r under inversion, and stays one: inversion
    transposes every tensor, and MatGL's O(3) products (MY + YM) and X² commute with that. So its vector is polar (1o).
    """
    tensors = model.feature_dict[f"gc_{model.num_layers}" if model.num_layers else "embedding"]
    trace = tensors.diagonal(dim1=-2, dim2=-1).mean(-1)
    skew = 0.5 * (tensors - tensors.transpose(-2, -1))
    vectors = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
    element = model.tensor_embedding.emb(graph.node_type)
    scalars = torch.cat([model.feature_dict["readout"], trace, element], dim=1)
    return [LayerFeatures(scalars, vectors, cartesian_to_spherical(tensors))]


def _tensornet_energy(model: Any) -> Tensor:
    energy: Tensor = model.final_layer(model.feature_dict["readout"]).view(-1)
    return energy


def _m3gnet_layout(model: Any) -> FeatureLayout:
    layers = (LayerLayout(int(model.embedding.dim_node_embedding)),) * int(model.n_blocks)
    return FeatureLayout.in_matter(layers, float(model.cutoff))


def _m3gnet_layers(model: Any, graph: Any) -> list[LayerFeatures]:
    return [LayerFeatures(model.feature_dict[f"gc_{number + 1}"]["node_feat"]) for number in range(model.n_blocks)]


def _m3gnet_energy(model: Any) -> Tensor:
    energy: Tensor = model.feature_dict["readout"].view(-1)
    return energy


ARCHITECTURES = {
    "TensorNet": Architecture(TensorNet, _tensornet_layout, _tensornet_layers, _tensornet_energy),
    "M3GNet": Architecture(M3GNet, _m3gnet_layout, _m3gnet_layers, _m3gnet_energy),
}
