"""A SevenNet model as JSON and tensors, and back: what a checkpoint keeps. SevenNet's builder builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import sevenn._keys as keys
from torch import nn

from les_plugins.adapters.sevennet.model import attach_long_range, build_model
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import as_json, dtype_name, dtype_of, rebuilt, state_of

#: Settings that make a model; a checkpoint holds these and no others.
SETTINGS = (
    *("cutoff", "channel", "irreps_manual", "lmax", "lmax_edge", "lmax_node", "is_parity", "num_convolution_layer"),
    *("radial_basis", "cutoff_function", "act_radial", "act_scalar", "act_gate", "weight_nn_hidden_neurons"),
    *("conv_denominator", "train_denominator", "train_shift_scale", "use_bias_in_linear", "_normalize_sph"),
    *("readout_as_fcn", "readout_fcn_hidden_neurons", "readout_fcn_activation", "self_connection_type"),
    *("interaction_type", "shift", "scale", "_type_map", "_number_of_species"),
    *("use_modality", "_modal_map", "_number_of_modalities", "use_modal_node_embedding", "use_modal_self_inter_intro"),
    *("use_modal_self_inter_outro", "use_modal_output_block", "use_modal_wise_shift", "use_modal_wise_scale"),
)
_CONSTANT = "._tensor_constant"
#: What sizes follow from (`WeightSizes.settings`): all integers that are no energies or degrees.
_SIZES = {
    **dict.fromkeys(("shift", "scale", "conv_denominator", "num_convolution_layer", "lmax*"), "free"),
    **dict.fromkeys(("channel", "_number_of_*", "*_hidden_neurons"), "width"),
    "irreps_manual": "irreps",
    "*": "integers",
}


def take_apart(model: nn.Module) -> HostState:
    """Settings and tensors of an AtomGraphSequential, with a long-range part or without.

    Raises:
        HostError: a model whose config is not known.
    """
    config = getattr(model, "host_config", None)
    if config is None:
        raise HostError(
            "the config that this SevenNet was built from is not known: build it with "
            "les_plugins.adapters.sevennet.model.build_model(config), or read it with "
            "les_plugins.adapters.sevennet.train.load_checkpoint, which note it"
        )
    kept = {key: config[key] for key in SETTINGS if key in config}
    denominators = [
        float(module.denominator) for name, module in model.named_children() if name.endswith("_convolution")
    ]
    kept[keys.CONV_DENOMINATOR] = denominators  # what was trained with; old checkpoints of SevenNet say 0.0
    kept[keys.TYPE_MAP] = {str(number): index for number, index in config[keys.TYPE_MAP].items()}
    arguments = {**as_json(kept), "dtype": dtype_name(model)}
    return _without_constants(state_of("sevennet", model, arguments, section_of(model), ("sevenn", "e3nn", "torch")))


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; raises for settings that SevenNet does not know and tensors that do not fit."""
    state = _without_constants(state)
    config = dict(state.model)
    dtype = dtype_of(config.pop("dtype", None))
    if strange := sorted(config.keys() - set(SETTINGS)):
        raise CheckpointError(
            f"config.json: unknown key {quoted(strange[0])} of the model; allowed: settings of SevenNet"
        )
    _check_sizes(config, WeightSizes(state.tensors))

    def build() -> nn.Module:
        config[keys.TYPE_MAP] = {int(number): int(index) for number, index in config[keys.TYPE_MAP].items()}
        model = build_model(config, dtype)
        return model if state.long_range is None else attach_long_range(model, state.long_range)

    return rebuilt(state, build, "model of this SevenNet")


def _without_constants(state: HostState) -> HostState:
    """Without numbers of e3nn's compiled code, which become tensors of a model when it is copied."""
    return replace(state, tensors={name: value for name, value in state.tensors.items() if _CONSTANT not in name})


def _check_sizes(config: Mapping[str, Any], sizes: WeightSizes) -> None:
    """Every number that the size of a SevenNet follows from, against the tensors that its checkpoint holds."""
    sizes.cutoff(keys.CUTOFF, config.get(keys.CUTOFF))
    sizes.layers(keys.NUM_CONVOLUTION, config.get(keys.NUM_CONVOLUTION), r"^(\d+)_convolution\.")
    if keys.LMAX not in config:
        raise CheckpointError(f"config.json: {keys.LMAX} of the model is missing")
    for key in (keys.LMAX, keys.LMAX_EDGE, keys.LMAX_NODE):
        sizes.degree(key, config.get(key, -1), -1)
        sizes.product(key, config.get(key), (config.get(key, -1) + 1) ** 2)
    sizes.settings(config, _SIZES)
    if config[keys.NUM_CONVOLUTION] > 1 and not config.get(keys.IRREPS_MANUAL):  # a single layer makes scalars only
        lmax = config[keys.LMAX_NODE] if config.get(keys.LMAX_NODE, -1) > 0 else config[keys.LMAX]
        channels = config.get(keys.NODE_FEATURE_MULTIPLICITY)
        sizes.width(keys.NODE_FEATURE_MULTIPLICITY, channels, 1)
        sizes.mask(keys.LMAX, lmax, (lmax + 1) ** 2 * channels)
