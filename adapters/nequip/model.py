"""Takes a NequIP or Allegro model apart and puts it together with a long-range part. Hooks and builder call it.

Classes are recognised by their interface: those of a packaged model live under other module names.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from nequip.data import AtomicDataDict
from nequip.nn import AtomwiseReduce, ForceStressOutput, GraphModel, SequentialGraphNetwork
from nequip.nn.compile import CompileGraphModel
from torch import Tensor, nn

from les_plugins.adapters.nequip.modules import (
    ALL_LATENT,
    KEPT,
    EdgeFeatures,
    KeepFeatures,
    LongRangeEnergy,
    node_features,
)
from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, LayerLayout, NodeFeatures
from les_plugins.model.irreps import layer_layout
from les_plugins.model.long_range import LongRange
from les_plugins.precision import default_dtype

#: Names that NequIP and Allegro give to the modules that we look for.
_TOTAL, _ALLEGRO, _LAYER = "total_energy_sum", "allegro", "layer{}_convnet"
#: Name of ours, and so the prefix of its tensors in a state dict.
PART = "long_range"
#: Channels of l = 1 and of l = 2 that are made of Allegro's edges.
EDGE_CHANNELS = 16


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> GraphModel:
    """A GraphModel that shares the weights of `model` and has a long-range part.

    Args:
        model: a GraphModel of NequIP or Allegro, built, loaded from a checkpoint or from a package.
        config: the `long_range:` section.

    Raises:
        HostError: a model with a long-range part already, or of another architecture.
        ConfigError: heads that the features cannot feed.
    """
    network = energy_network(model)
    if long_range_part(model) is not None:
        raise HostError("this model has a long-range part already")
    parameter = next(model.parameters())
    with default_dtype(model.model_dtype):
        modules = _with_long_range(network, config, tuple(model.type_names))
        extended = SequentialGraphNetwork(modules)
        # GraphModel hands over the inputs that are named here only
        extended.irreps_in = {**extended.irreps_in, AtomicDataDict.PBC_KEY: None, ALL_LATENT: None}
        whole = ForceStressOutput(extended, model.model.do_derivatives)
        # nequip-package builds one for each kind
        kind = CompileGraphModel if getattr(model, "is_compile_graph_model", False) else GraphModel
        wrapped = kind(model=whole, model_input_fields=whole.irreps_in)
    wrapped._metadata = copy.deepcopy(model._metadata)
    wrapped.type_names = list(model.type_names)
    wrapped.host_section = getattr(model, "host_section", None)
    return wrapped.to(parameter.device).train(model.training)


def energy_network(model: nn.Module) -> Any:
    """The sequence of modules, from positions to total energy, inside a GraphModel.

    Raises:
        HostError: not a model whose parts can be told apart.
    """
    network = getattr(getattr(model, "model", None), "func", None)
    names = [name for name, _ in network.named_children()] if isinstance(network, nn.Module) else []
    if not names or names[-1] != _TOTAL or not (_ALLEGRO in names or _LAYER.format(0) in names):
        raise HostError(
            f"the long-range part can be attached to NequIP and Allegro energy models; this {type(model).__name__} "
            f"has the parts: {', '.join(names) or 'none that are known'}"
        )
    return network


def long_range_part(model: nn.Module) -> LongRange | None:
    """The long-range part of a model, None without one."""
    return next((module for module in model.modules() if _is_a(module, LongRange)), None)


def feature_layout(model: nn.Module) -> FeatureLayout:
    """Channels of every layer of a NequIP model, or of the sums over edges of an Allegro model."""
    children = dict(energy_network(model).named_children())
    if _ALLEGRO in children:
        scalars = children[_ALLEGRO].irreps_out[AtomicDataDict.EDGE_FEATURES_KEY].dim
        layers = [LayerLayout(scalars, EDGE_CHANNELS, EDGE_CHANNELS)]
    else:
        layers = [layer_layout(str(layer.irreps_out[AtomicDataDict.NODE_FEATURES_KEY])) for layer in _layers(children)]
    elements = tuple(model.type_names)
    return FeatureLayout(
        tuple(layers), cutoff=_cutoff(children), mean_neighbors=_mean_neighbors(model), elements=elements
    )


def features_of(model: nn.Module, output: Mapping[str, Tensor]) -> NodeFeatures:
    """Features of a batch, from the output of a model with a long-range part.

    Raises:
        HostError: the output has no kept features: a bare NequIP model overwrites those of its inner layers.
    """
    part: Any = next((module for module in model.modules() if _is_a(module, LongRangeEnergy)), None)
    if part is None or KEPT.format(0) not in output:
        raise HostError("a bare NequIP or Allegro model keeps no features of inner layers: attach a long-range part")
    return node_features(part.layer_irreps, dict(output))


def _is_a(module: nn.Module, kind: type[nn.Module]) -> bool:
    """By name: the classes of a packaged model are copies that came with it."""
    return type(module).__qualname__ == kind.__qualname__


def _with_long_range(network: Any, config: LongRangeConfig, elements: tuple[str, ...]) -> dict[str, nn.Module]:
    """The modules of a network in order, with ours among them."""
    modules: dict[str, nn.Module] = {}
    children = dict(network.named_children())
    kept: dict[str, Any] = {}
    neighbors = _mean_neighbors(network)
    layers = list(_layers(children))
    for name, module in children.items():
        if name == _TOTAL:
            break
        modules[name] = module
        if name == _ALLEGRO:
            vectors, tensors = _edge_channels(config)
            modules["les_edge_features"] = EdgeFeatures(vectors, tensors, neighbors, dict(module.irreps_out))
        elif any(module is layer for layer in layers):
            number = int(name.removeprefix("layer").removesuffix("_convnet"))
            modules[f"les_features{number}"] = KeepFeatures(number, dict(module.irreps_out))
        kept.update({key: ir for key, ir in _last(modules).irreps_out.items() if key.startswith(KEPT.format(""))})
    layout = FeatureLayout(
        tuple(layer_layout(str(kept[KEPT.format(number)])) for number in range(len(kept))),
        cutoff=_cutoff(children),
        mean_neighbors=neighbors,
        elements=elements,
    )
    modules[PART] = LongRangeEnergy(build_long_range(layout, config), {**_last(modules).irreps_out, **kept})
    modules[_TOTAL] = AtomwiseReduce(
        irreps_in=_last(modules).irreps_out,
        reduce="sum",
        field=AtomicDataDict.PER_ATOM_ENERGY_KEY,
        out_field=AtomicDataDict.TOTAL_ENERGY_KEY,
    )
    return modules


def _edge_channels(config: LongRangeConfig) -> tuple[int, int]:
    """Channels of l = 1 and 2 that the heads of a config read: others would be parameters that never train."""
    if config.heads == "edge" or config.order == 0:
        return 0, 0
    reads_tensors = config.order >= 2 or config.response.dipole == "anisotropic"
    return EDGE_CHANNELS, EDGE_CHANNELS if reads_tensors else 0


def _last(modules: dict[str, nn.Module]) -> Any:
    return list(modules.values())[-1]


def _layers(children: Mapping[str, Any]) -> list[Any]:
    layers: list[Any] = []
    while (name := _LAYER.format(len(layers))) in children:
        layers.append(children[name])
    return layers


def _cutoff(children: Mapping[str, Any]) -> float:
    return float(children["edge_norm"].r_max)


def _mean_neighbors(network: nn.Module) -> float:
    """From the first normalisation of sums over edges that the host has; by atom type: their mean."""
    for name, value in network.named_buffers():
        if name.endswith("norm_const"):
            return float(torch.mean(value.detach() ** -2))
    return 1.0
