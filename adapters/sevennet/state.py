"""A SevenNet model as JSON and tensors, and back: what a checkpoint keeps. SevenNet's builder builds it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

import sevenn._keys as keys
import torch
from torch import nn

from les_plugins.adapters.sevennet.model import attach_long_range, build_model, long_range_part
from les_plugins.adapters.sevennet.seam import SECTION
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.storage.checkpoint import load_tensors
from les_plugins.storage.sizes import WeightSizes

#: Settings that make a model; a checkpoint holds these and no others.
SETTINGS = (
    keys.CUTOFF,
    keys.NODE_FEATURE_MULTIPLICITY,
    keys.IRREPS_MANUAL,
    keys.LMAX,
    keys.LMAX_EDGE,
    keys.LMAX_NODE,
    keys.IS_PARITY,
    keys.NUM_CONVOLUTION,
    keys.RADIAL_BASIS,
    keys.CUTOFF_FUNCTION,
    keys.ACTIVATION_RADIAL,
    keys.ACTIVATION_SCARLAR,
    keys.ACTIVATION_GATE,
    keys.CONVOLUTION_WEIGHT_NN_HIDDEN_NEURONS,
    keys.CONV_DENOMINATOR,
    keys.TRAIN_DENOMINTAOR,
    keys.TRAIN_SHIFT_SCALE,
    keys.USE_BIAS_IN_LINEAR,
    keys.READOUT_AS_FCN,
    keys.READOUT_FCN_HIDDEN_NEURONS,
    keys.READOUT_FCN_ACTIVATION,
    keys.SELF_CONNECTION_TYPE,
    keys.INTERACTION_TYPE,
    keys._NORMALIZE_SPH,
    keys.SHIFT,
    keys.SCALE,
    keys.TYPE_MAP,
    keys.NUM_SPECIES,
    keys.USE_MODALITY,
    keys.MODAL_MAP,
    keys.NUM_MODALITIES,
    keys.USE_MODAL_NODE_EMBEDDING,
    keys.USE_MODAL_SELF_INTER_INTRO,
    keys.USE_MODAL_SELF_INTER_OUTRO,
    keys.USE_MODAL_OUTPUT_BLOCK,
    keys.USE_MODAL_WISE_SHIFT,
    keys.USE_MODAL_WISE_SCALE,
)
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


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
    part = long_range_part(model)
    kept = {key: config[key] for key in SETTINGS if key in config}
    kept[keys.TYPE_MAP] = {str(number): index for number, index in config[keys.TYPE_MAP].items()}
    plain = json.loads(json.dumps(kept, default=_plain))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    versions = {name: importlib.metadata.version(name) for name in ("sevenn", "e3nn", "torch")}
    long_range = None if part is None else part.config
    return HostState("sevennet", versions, {**plain, "dtype": dtype}, long_range, tensors)


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; refuses settings that SevenNet does not know and tensors that do not fit."""
    config = dict(state.model)
    dtype = _DTYPES.get(str(config.pop("dtype", None)))
    if dtype is None:
        raise CheckpointError(f"config.json: dtype of the model is none of {', '.join(_DTYPES)}")
    if strange := sorted(config.keys() - set(SETTINGS)):
        raise CheckpointError(
            f"config.json: unknown key {quoted(strange[0])} of the model; allowed: settings of SevenNet"
        )
    _check_sizes(config, WeightSizes(state.tensors))
    try:
        config[keys.TYPE_MAP] = {int(number): int(index) for number, index in config[keys.TYPE_MAP].items()}
        model: nn.Module = build_model(config, dtype)
        if state.long_range is not None:
            model = attach_long_range(model, state.long_range)
    except CheckpointError:
        raise
    except Exception as error:  # SevenNet and e3nn raise whatever a nonsense argument makes them
        raise CheckpointError(f"config.json does not describe a model of this SevenNet: {error!r}") from None
    load_tensors(model, state.tensors)
    return model.eval()


def _check_sizes(config: Mapping[str, Any], sizes: WeightSizes) -> None:
    """Every number that the size of a SevenNet follows from, against the tensors that its checkpoint holds."""
    sizes.cutoff(keys.CUTOFF, config.get(keys.CUTOFF))
    sizes.layers(keys.NUM_CONVOLUTION, config.get(keys.NUM_CONVOLUTION), r"^(\d+)_convolution\.")
    if keys.LMAX not in config:
        raise CheckpointError(f"config.json: {keys.LMAX} of the model is missing")
    for key in (keys.LMAX, keys.LMAX_EDGE, keys.LMAX_NODE):
        sizes.degree(key, config.get(key, -1), -1)
        sizes.product(key, config.get(key), (config.get(key, -1) + 1) ** 2)
    if config[keys.NUM_CONVOLUTION] > 1 and not config.get(keys.IRREPS_MANUAL):  # a single layer makes scalars only
        lmax = config[keys.LMAX_NODE] if config.get(keys.LMAX_NODE, -1) > 0 else config[keys.LMAX]
        channels = config.get(keys.NODE_FEATURE_MULTIPLICITY)
        sizes.width(keys.NODE_FEATURE_MULTIPLICITY, channels, 1)
        sizes.mask(keys.LMAX, lmax, (lmax + 1) ** 2 * channels)
    for key in (
        keys.NODE_FEATURE_MULTIPLICITY,
        keys.NUM_SPECIES,
        keys.NUM_MODALITIES,
        keys.CONVOLUTION_WEIGHT_NN_HIDDEN_NEURONS,
        keys.READOUT_FCN_HIDDEN_NEURONS,
    ):
        if config.get(key) is not None:
            sizes.width(key, config[key])
    if config.get(keys.IRREPS_MANUAL):
        if not isinstance(config[keys.IRREPS_MANUAL], list):
            raise CheckpointError(
                f"config.json: {keys.IRREPS_MANUAL} is {quoted(config[keys.IRREPS_MANUAL])}; not a list"
            )
        sizes.depth(keys.IRREPS_MANUAL, len(config[keys.IRREPS_MANUAL]))
        for irreps in config[keys.IRREPS_MANUAL]:
            sizes.irreps(keys.IRREPS_MANUAL, irreps)
    for key in (keys.RADIAL_BASIS, keys.CUTOFF_FUNCTION, keys.TYPE_MAP, keys.MODAL_MAP):
        value = config.get(key) or {}
        if not isinstance(value, Mapping):
            raise CheckpointError(f"config.json: {key} is {quoted(value)}; expected keys and values")
        sizes.listed(key, value)
        for name, number in value.items():
            if isinstance(number, int):
                sizes.width(f"{key}.{name}", number)


def section_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `long_range:` section in a config of SevenNet, None without one."""
    section = config.get(SECTION)
    return None if section is None else dict(section)


def _plain(value: Any) -> Any:
    """Numbers, tensors and arrays as JSON has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
