"""Takes a SevenNet model apart and puts it together with a long-range part. Hooks, seam and trainer call it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from e3nn.o3 import Irreps, TensorProduct
from sevenn import model_build
from sevenn.nn.sequential import AtomGraphSequential
from torch import Tensor, nn

from les_plugins.adapters.sevennet.modules import (
    KEPT,
    CheckGraph,
    ExplicitDerivatives,
    KeepFeatures,
    LongRangeEnergy,
    SpeciesInModelDtype,
    layer_layout,
    node_features,
)
from les_plugins.adapters.sevennet.seam import open_seam
from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, NodeFeatures
from les_plugins.model.long_range import LongRange
from les_plugins.precision import default_dtype

#: Names that SevenNet gives to the modules that we look for.
_GATE, _CONVOLUTION = "{}_equivariant_gate", "{}_convolution"
_SPECIES, _ATOMIC_ENERGY, _TOTAL, _FORCES = (
    "onehot_to_feature_x",
    "rescale_atomic_energy",
    "reduce_total_enegy",
    "force_output",
)
#: Names of ours; the first is the prefix of its tensors in a state dict.
PART, _SPECIES_DTYPE = "long_range", "long_range_species_dtype"


def build_model(config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> AtomGraphSequential:
    """What `sevenn.model_build.build_E3_equivariant_model` makes of a config, with a `long_range` section or without.

    The model remembers its config, so that it can be saved by `les_plugins.save`.

    Args:
        config: SevenNet's settings, numbers in place of the names of statistics.
        dtype: float32, SevenNet's own, or float64.
    """
    with default_dtype(dtype), open_seam():  # e3nn rounds its coefficients to the default dtype
        model = model_build.build_E3_equivariant_model(copy.deepcopy(dict(config)))
    return remember(model.to(dtype), config)


def remember(model: AtomGraphSequential, config: Mapping[str, Any]) -> AtomGraphSequential:
    """Note on a model the config that it was built from, for `les_plugins.save`."""
    model.host_config = dict(config)
    return model


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> AtomGraphSequential:
    """An AtomGraphSequential that shares the modules of `model` and has a long-range part.

    Args:
        model: a model of `build_model`, of SevenNet's own builder, or of a checkpoint.
        config: the `long_range:` section.

    Raises:
        HostError: a model with a long-range part already, a part of a parallel model, or one with an accelerator.
        ConfigError: heads that the features cannot feed.
    """
    if not isinstance(model, AtomGraphSequential):
        raise HostError(f"the long-range part can be attached to an AtomGraphSequential, not to {type(model).__name__}")
    if long_range_part(model) is not None:
        raise HostError("this model has a long-range part already")
    layers = with_long_range(OrderedDict(model.named_children()), config, float(model.cutoff))
    parameter = next(model.parameters())
    for name in layers.keys() - dict(model.named_children()).keys():
        layers[name].to(device=parameter.device, dtype=parameter.dtype)
    attached = AtomGraphSequential(
        layers,
        cutoff=model.cutoff,
        type_map=model.type_map,
        modal_map=model.modal_map,
        eval_type_map=bool(model.eval_type_map),
        eval_modal_map=bool(model.eval_modal_map),
        data_key_atomic_numbers=model.key_atomic_numbers,
        data_key_node_feature=model.key_node_feature,
        data_key_grad=model.key_grad,
    )
    attached.set_is_batch_data(model.is_batch_data)
    if (known := getattr(model, "host_config", None)) is not None:
        remember(attached, known)
    return attached.train(model.training)


def with_long_range(
    layers: Mapping[str, nn.Module], config: LongRangeConfig, cutoff: float
) -> OrderedDict[str, nn.Module]:
    """The named layers of a SevenNet model with ours among them; the layers themselves are not changed.

    Args:
        layers: all layers in order, as SevenNet's builder lists them.
        config: the `long_range:` section.
        cutoff: Å.
    """
    _check_layers(layers)
    irreps = _layer_irreps(layers)
    layout = _layout(layers, cutoff)
    for number, layer in enumerate(layout.layers):
        if layer.scalars < 1:
            raise ConfigError(
                f"layer {number} of this SevenNet has {irreps[number]} features; the heads need 0e in every layer"
            )
    combined: OrderedDict[str, nn.Module] = OrderedDict(long_range_input=CheckGraph())
    for name, module in with_species_in_model_dtype(layers).items():
        combined[name] = module
        number = name.split("_")[0]
        if number.isdigit() and name == _GATE.format(number):
            combined[KEPT.format(number)] = KeepFeatures(int(number))
        if name == _ATOMIC_ENERGY:
            combined[PART] = LongRangeEnergy(irreps, _vector(layers), layout, build_long_range(layout, config))
        if name == _FORCES:
            combined["long_range_derivatives"] = ExplicitDerivatives()
    return combined


def with_species_in_model_dtype(layers: Mapping[str, nn.Module]) -> OrderedDict[str, nn.Module]:
    """The layers with SevenNet's one-hot vectors cast, which are float32 whatever the model is."""
    cast: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in layers.items():
        if name == _SPECIES and _SPECIES_DTYPE not in layers:
            cast[_SPECIES_DTYPE] = SpeciesInModelDtype()
        cast[name] = module
    return cast


def long_range_part(model: nn.Module) -> LongRange | None:
    """The long-range part of a model, None without one."""
    return next((module for module in model.modules() if isinstance(module, LongRange)), None)


def feature_layout(model: nn.Module) -> FeatureLayout:
    """Channels of every layer of a SevenNet model, and its edges."""
    return _layout(dict(model.named_children()), float(model.cutoff))


def features_of(model: nn.Module, output: Mapping[str, Tensor]) -> NodeFeatures:
    """Features of a batch, from the output of a model with a long-range part.

    Raises:
        HostError: the output has no kept features: a bare model overwrites those of its inner layers.
    """
    part = next((module for module in model.modules() if isinstance(module, LongRangeEnergy)), None)
    if part is None or KEPT.format(0) not in output:
        raise HostError("a bare SevenNet keeps no features of inner layers: attach a long-range part")
    return node_features(part.layer_irreps, part.vector, output)


def _check_layers(layers: Mapping[str, nn.Module]) -> None:
    missing = [name for name in (_GATE.format(0), _ATOMIC_ENERGY, _TOTAL, _FORCES) if name not in layers]
    if missing:
        raise HostError(
            f"the long-range part can be attached to a whole SevenNet model; this one has no {missing[0]}: parts of a "
            "parallel model (LAMMPS e3gnn/parallel) and deployed ones pass edge vectors only, use ASE"
        )
    for name, module in layers.items():
        if name.endswith("_convolution") and getattr(module, "convolution_cls", None) is not TensorProduct:
            raise HostError(
                "the model uses cuEquivariance, FlashTP or OpenEquivariance, with which the long-range part has not "
                "been tested: build it without"
            )


def _layout(layers: Mapping[str, nn.Module], cutoff: float) -> FeatureLayout:
    vector = _vector(layers)
    channels = tuple(layer_layout(irreps, vector) for irreps in _layer_irreps(layers))
    denominator = layers[_CONVOLUTION.format(0)].denominator
    neighbors = float(torch.as_tensor(denominator).detach().reshape(-1)[0])
    return FeatureLayout(channels, cutoff=cutoff, mean_neighbors=neighbors)


def _layer_irreps(layers: Mapping[str, nn.Module]) -> list[str]:
    found: list[str] = []
    while (name := _GATE.format(len(found))) in layers:
        found.append(str(layers[name].gate.irreps_out))  # type: ignore[union-attr]
    return found


def _vector(layers: Mapping[str, nn.Module]) -> str:
    """1o; without parity (is_parity: false) SevenNet calls all of l = 1 even."""
    spherical: Any = layers["edge_embedding"].spherical
    return "1o" if Irreps(spherical.irreps_in).count("1o") else "1e"
