"""Takes a SevenNet model apart and puts it together with a long-range part, for the host, trainer and checkpoints."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

import sevenn._keys as keys
import torch
from ase.data import chemical_symbols
from e3nn.o3 import Irreps, TensorProduct
from sevenn import model_build
from sevenn.nn.sequential import AtomGraphSequential
from torch import nn

from les_plugins.adapters.sevennet.modules import (
    KEPT,
    CheckGraph,
    ExplicitDerivatives,
    KeepFeatures,
    LongRangeEnergy,
    SpeciesInModelDtype,
)
from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.build import build_long_range, parse_section
from les_plugins.hosting.section_name import SECTION
from les_plugins.model.features import FeatureLayout
from les_plugins.model.irreps import layer_layout
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
    settings = {key: value for key, value in config.items() if key != SECTION}
    given = config.get(SECTION)
    section = None if given is None else parse_section(given, SECTION)
    with default_dtype(dtype):  # e3nn rounds its coefficients to the default dtype
        model = model_build.build_E3_equivariant_model(copy.deepcopy(settings))
        model = with_section(model, section, settings).to(dtype)
    return with_config(model, settings)


def with_section(
    model: AtomGraphSequential, section: LongRangeConfig | None, config: Mapping[str, Any]
) -> AtomGraphSequential:
    """A model that SevenNet's builder has just made of a config, with the long-range part of a section.

    Raises:
        HostError: a config that asks for an accelerator.
    """
    if section is None:
        own_dtype = torch.get_default_dtype() is torch.float32
        return model if own_dtype else _sequential(with_species_in_model_dtype(dict(model.named_children())), model)
    refuse_accelerators(config)
    with torch.random.fork_rng(devices=[]):
        # the host's own weights stay those of its seed, the heads' are others
        torch.manual_seed(torch.initial_seed() + 1)
        return attach_long_range(model, section)


def with_config(model: AtomGraphSequential, config: Mapping[str, Any]) -> AtomGraphSequential:
    """Note on a model the config that it was built from, for `les_plugins.save`."""
    model.host_config = dict(config)
    return model


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> AtomGraphSequential:
    """An AtomGraphSequential that shares the modules of `model`, with ours among them.

    Raises:
        HostError: a part of a parallel model, or one with an accelerator.
        ConfigError: heads that the features cannot feed.
    """
    if not isinstance(model, AtomGraphSequential):
        raise HostError(f"the long-range part can be attached to an AtomGraphSequential, not to {type(model).__name__}")
    layers = dict(model.named_children())
    _check_layers(layers)
    irreps, vector, layout = _features(model)
    part = LongRangeEnergy(irreps, vector, build_long_range(layout, config)).to(next(model.parameters()))
    combined: OrderedDict[str, nn.Module] = OrderedDict(long_range_input=CheckGraph())
    for name, module in with_species_in_model_dtype(layers).items():
        combined[name] = module
        number = name.split("_")[0]
        if number.isdigit() and name == _GATE.format(number):
            combined[KEPT.format(number)] = KeepFeatures(int(number))
        if name == _ATOMIC_ENERGY:
            combined[PART] = part
        if name == _FORCES:
            combined["long_range_derivatives"] = ExplicitDerivatives()
    return _sequential(combined, model)


def with_species_in_model_dtype(layers: Mapping[str, nn.Module]) -> OrderedDict[str, nn.Module]:
    """The layers with SevenNet's one-hot vectors cast, which are float32 whatever the model is."""
    cast: OrderedDict[str, nn.Module] = OrderedDict()
    for name, module in layers.items():
        if name == _SPECIES and _SPECIES_DTYPE not in layers:
            cast[_SPECIES_DTYPE] = SpeciesInModelDtype()
        cast[name] = module
    return cast


def last_layer(model: nn.Module) -> list[nn.Module]:
    """The last convolution of a SevenNet model with what belongs to it, and the readout."""
    layers = dict(model.named_children())
    number = sum(1 for _ in takewhile(layers.__contains__, map(_CONVOLUTION.format, count()))) - 1
    return [module for name, module in layers.items() if name.startswith((f"{number}_", "reduce_", "readout_"))]


def feature_layout(model: nn.Module) -> FeatureLayout:
    """Channels of every layer of a SevenNet model, and its edges."""
    return _features(model)[2]


def refuse_accelerators(config: Mapping[str, Any]) -> None:
    """Raise HostError for a config that asks for another backend than e3nn."""
    asked = {
        "cuEquivariance": (config.get(keys.CUEQUIVARIANCE_CONFIG) or {}).get("use"),
        "FlashTP": config.get(keys.USE_FLASH_TP),
        "OpenEquivariance": config.get(keys.USE_OEQ),
    }
    for name, flag in asked.items():
        if flag:
            raise HostError(f"{name} has not been tested with a long-range part; it cannot be combined with {SECTION}")


def _sequential(layers: OrderedDict[str, nn.Module], model: AtomGraphSequential) -> AtomGraphSequential:
    """The layers as a model that is used as another one is."""
    changed = AtomGraphSequential(
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
    changed.set_is_batch_data(model.is_batch_data)
    if (known := getattr(model, "host_config", None)) is not None:
        with_config(changed, known)
    return changed.train(model.training)


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


def _features(model: nn.Module) -> tuple[list[str], str, FeatureLayout]:
    """Irreps after the gate of every layer, what a vector is called among them, and both as channels.

    Raises:
        ConfigError: a layer without scalars.
    """
    layers: dict[str, Any] = dict(model.named_children())
    # without parity (is_parity: false) SevenNet calls all of l = 1 even
    vector = "1o" if Irreps(layers["edge_embedding"].spherical.irreps_in).count("1o") else "1e"
    gates = [layers[name] for name in takewhile(layers.__contains__, map(_GATE.format, count()))]
    irreps = [str(gate.gate.irreps_out) for gate in gates]
    channels = tuple(layer_layout(layer, vector) for layer in irreps)
    for number, layer in enumerate(channels):
        if layer.scalars < 1:
            raise ConfigError(
                f"layer {number} of this SevenNet has {irreps[number]} features; the heads need 0e in every layer"
            )
    neighbors = torch.as_tensor(layers[_CONVOLUTION.format(0)].denominator).detach().reshape(-1)[0]
    elements = tuple(chemical_symbols[number] for number in sorted(model.type_map, key=model.type_map.__getitem__))
    return irreps, vector, FeatureLayout(channels, float(model.cutoff), float(neighbors), elements)
