"""Takes a NequIP or Allegro model apart and puts it together with a long-range part. Hooks and builder call it.

Classes are recognised by their interface: those of a packaged model live under other module names.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from nequip.data import AtomicDataDict
from nequip.nn import AtomwiseReduce, ForceStressOutput, GraphModel, SequentialGraphNetwork
from nequip.nn.compile import CompileGraphModel
from nequip.utils.global_state import global_state_initialized, set_global_state
from torch import nn

from les_plugins.adapters.nequip.modules import ALL_LATENT, EdgeFeatures, KeepFeatures, LongRangeEnergy
from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout
from les_plugins.model.irreps import layer_layout
from les_plugins.precision import default_dtype

#: Names that NequIP and Allegro give to the modules that we look for.
_TOTAL, _ALLEGRO, _LAYER = "total_energy_sum", "allegro", re.compile(r"layer(\d+)_convnet")
#: Names of ours, and how they begin; the first is the prefix of its tensors in a state dict.
PART, _EDGE_FEATURES, _OURS = "long_range", "les_edge_features", ("les_", "long_range")
#: Channels of l = 1 and of l = 2 that are made of Allegro's edges.
EDGE_CHANNELS = 16


def initialize_nequip() -> None:
    """Set NequIP's state of the process, such as its dtypes, unless it is set; no model is built or loaded before."""
    if not global_state_initialized():
        set_global_state()


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> GraphModel:
    """A GraphModel that shares the weights of `model`: built, loaded from a checkpoint or from a package.

    Raises:
        HostError: a model of another architecture.
        ConfigError: heads that the features cannot feed.
    """
    network = energy_network(model)
    parameter = next(model.parameters())
    with default_dtype(model.model_dtype):
        modules = _with_long_range(network, config, tuple(model.type_names))
        extended = SequentialGraphNetwork(modules)
        # GraphModel hands over the inputs that are named here only
        extended.irreps_in = {**extended.irreps_in, AtomicDataDict.PBC_KEY: None, ALL_LATENT: None}
        if config.total_charge == "given":
            extended.irreps_in[AtomicDataDict.TOTAL_CHARGE_KEY] = None
        whole = ForceStressOutput(extended, model.model.do_derivatives)
        # nequip-package builds one for each kind
        kind = CompileGraphModel if getattr(model, "is_compile_graph_model", False) else GraphModel
        wrapped = kind(model=whole, model_input_fields=whole.irreps_in)
    wrapped._metadata = copy.deepcopy(model._metadata)
    wrapped.type_names = list(model.type_names)
    wrapped.host_section = getattr(model, "host_section", None)
    return wrapped.to(parameter.device).train(model.training)


def last_layer(model: nn.Module) -> list[nn.Module]:
    """The last convolution of NequIP, or the last step of every part of Allegro, and what reads the energy off it."""
    network = energy_network(model)
    children = {name: module for name, module in network.named_children() if not name.startswith(_OURS)}
    names = list(children)
    first = max(number for number, name in enumerate(names) if name == _ALLEGRO or _LAYER.fullmatch(name))
    found = [children[name] for name in names[first:]]
    if names[first] == _ALLEGRO:
        parts = [part for part in found[0].children() if isinstance(part, nn.ModuleList) and len(part)]
        found[:1] = [part[-1] for part in parts]
    return found


def edge_features(model: nn.Module) -> list[nn.Module]:
    """The module that makes vectors of Allegro's edges for the heads, if there is one."""
    return [module for name, module in energy_network(model).named_children() if name == _EDGE_FEATURES]


def energy_network(model: nn.Module) -> Any:
    """The sequence of modules, from positions to total energy, inside a GraphModel.

    Raises:
        HostError: not a model whose parts can be told apart.
    """
    network = getattr(getattr(model, "model", None), "func", None)
    names = [name for name, _ in network.named_children()] if isinstance(network, nn.Module) else []
    if not names or names[-1] != _TOTAL or not any(name == _ALLEGRO or _LAYER.fullmatch(name) for name in names):
        raise HostError(
            f"the long-range part can be attached to NequIP and Allegro energy models; this {type(model).__name__} "
            f"has the parts: {', '.join(names) or 'none that are known'}"
        )
    return network


def _with_long_range(network: Any, config: LongRangeConfig, elements: tuple[str, ...]) -> dict[str, nn.Module]:
    """The modules of a network in order, with ours among them."""
    children, neighbors = dict(network.named_children()), _mean_neighbors(network)
    modules: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for name, module in children.items():
        if name == _TOTAL:
            break
        modules[name] = module
        if layer := _LAYER.fullmatch(name):
            ours: Any = KeepFeatures(int(layer[1]), dict(module.irreps_out))
            modules[f"les_features{layer[1]}"] = ours
        elif name == _ALLEGRO:
            ours = EdgeFeatures(*_edge_channels(config), neighbors, dict(module.irreps_out))
            modules[_EDGE_FEATURES] = ours
        else:
            continue
        kept[ours.field] = ours.irreps_out[ours.field]
    layout = FeatureLayout(
        tuple(layer_layout(str(irreps)) for irreps in kept.values()),
        cutoff=float(children["edge_norm"].r_max),
        mean_neighbors=neighbors,
        elements=elements,
    )
    irreps = list(modules.values())[-1].irreps_out
    modules[PART] = LongRangeEnergy(build_long_range(layout, config), {**irreps, **kept})
    modules[_TOTAL] = AtomwiseReduce(
        irreps_in=modules[PART].irreps_out,
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


def _mean_neighbors(network: nn.Module) -> float:
    """From the first normalisation of sums over edges that the host has; by atom type: their mean."""
    for name, value in network.named_buffers():
        if name.endswith("norm_const"):
            return float(torch.mean(value.detach() ** -2))
    return 1.0
