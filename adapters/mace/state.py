"""A MACE model as JSON and tensors, and back: what a checkpoint keeps. Classes come from MACE's own lists only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mace import modules
from mace.modules import blocks
from mace.modules.wrapper_ops import CUET_AVAILABLE
from mace.tools.scripts_utils import extract_config_mace_model
from torch import nn

from les_plugins.adapters.mace.accelerated import plain
from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.model.outputs import section_of
from les_plugins.precision import default_dtype
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import as_json, check_agreement, dtype_name, dtype_of, rebuilt, state_of

_BASES = {"MACE": modules.MACE, "ScaleShiftMACE": modules.ScaleShiftMACE}
_CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
_IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")
_GATES = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs}
_BLOCKS = {
    name: item
    for name, item in vars(blocks).items()
    if isinstance(item, type) and (issubclass(item, blocks.InteractionBlock) or name.endswith("ReadoutBlock"))
}
#: What the size of a MACE follows from (`WeightSizes.settings`).
_SIZES = {
    "r_max": "cutoff",
    "num_bessel": "width",
    "num_elements": "width",
    "radial_MLP": "width",
    "max_ell": "degree",
    "correlation": "depth",
    "*_irreps": "irreps",
}
#: Settings of every MACE.
_NEEDED = {
    *("r_max", "atomic_numbers", "num_interactions", "num_bessel", "num_elements", "max_ell", "correlation"),
    *("hidden_irreps", "MLP_irreps", "avg_num_neighbors"),
}
#: Settings that choose an accelerated backend, not a model.
_BACKEND = ("cueq_config", "oeq_config")


def take_apart(model: nn.Module) -> HostState:
    """Config and tensors of a LongRangeMACE, or of a bare MACE (long_range: None), in e3nn's form."""
    base = model.base if isinstance(model, LongRangeMACE) else model
    if type(base) not in _BASES.values():
        raise HostError(f"a checkpoint can hold {', '.join(_BASES)}; this model is a {type(base).__name__}")
    model = plain(model)
    base = model.base if isinstance(model, LongRangeMACE) else model
    config = extract_config_mace_model(base) if type(base) is modules.ScaleShiftMACE else _plain_mace_config(base)
    # what MACE was asked for, and did if the package was there
    config["use_reduced_cg"] = bool(config.get("use_reduced_cg")) and CUET_AVAILABLE
    encoded = as_json({key: _encode(key, value) for key, value in config.items() if key not in _BACKEND})
    described = {"class": type(base).__name__, "dtype": dtype_name(base), **encoded}
    heads = list(getattr(base, "heads", None) or [])
    extra = {"heads": heads} if len(heads) > 1 else {}
    return state_of("mace", model, described, section_of(model), ("mace-torch", "e3nn", "torch"), extra)


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; refuses names that MACE does not list and tensors that do not fit."""
    config = dict(state.model)
    kind, dtype = config.pop("class", None), dtype_of(config.pop("dtype", None))
    _listed(kind, _BASES, "class")
    _check_sizes(config, WeightSizes(state.tensors))

    def build() -> nn.Module:
        with default_dtype(dtype):
            model = build_base(kind, config)
            return model if state.long_range is None else LongRangeMACE(model, state.long_range)

    model = rebuilt(state, build, f"{kind} of this MACE")
    base = model.base if isinstance(model, LongRangeMACE) else model
    check_agreement("r_max", config["r_max"], float(base.r_max))
    if base.atomic_numbers.tolist() != config["atomic_numbers"]:
        raise CheckpointError(
            f"config.json: atomic_numbers is {quoted(config['atomic_numbers'])}; in the weights it is "
            f"{quoted(base.atomic_numbers.tolist())}"
        )
    return model


def build_base(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """A MACE or ScaleShiftMACE with random weights, of its arguments as a checkpoint has them."""
    model: nn.Module = _listed(kind, _BASES, "class")(**{key: _decode(key, value) for key, value in config.items()})
    return model


def _check_sizes(config: Mapping[str, Any], sizes: WeightSizes) -> None:
    """Every number that the size of a MACE follows from, against the tensors that its checkpoint holds."""
    if missing := sorted(_NEEDED - config.keys()):
        raise CheckpointError(f"config.json: {missing[0]} of the model is missing")
    neighbors, numbers, heads = config["avg_num_neighbors"], config["atomic_numbers"], config.get("heads") or []
    if isinstance(neighbors, bool) or not isinstance(neighbors, int | float) or neighbors <= 0:
        raise CheckpointError(f"config.json: avg_num_neighbors is {quoted(neighbors)}; allowed: above 0")
    if not isinstance(numbers, list) or not all(isinstance(z, int) and 0 < z <= 118 for z in numbers):
        raise CheckpointError(f"config.json: atomic_numbers is {quoted(numbers)}; allowed: a list of 1 … 118")
    if not isinstance(heads, list) or not all(isinstance(head, str) for head in heads):
        raise CheckpointError(f"config.json: heads is {quoted(heads)}; expected a list of names")
    sizes.settings(config, _SIZES)
    sizes.layers("num_interactions", config["num_interactions"], r"(?:^|\.)interactions\.(\d+)\.")
    # masks of the first interaction hold every harmonic of every channel, U_matrix_ν every product of ν harmonics
    harmonics = (config["max_ell"] + 1) ** 2
    hidden = sizes.irreps("hidden_irreps", config["hidden_irreps"])
    channels = sum(multiplicity for multiplicity, degree, parity in hidden if (degree, parity) == (0, "e"))
    sizes.mask("max_ell", config["max_ell"], harmonics * channels)
    orders = config["correlation"]
    order = max(orders, default=1) if isinstance(orders, list) else orders
    sizes.product("correlation", orders, harmonics**order)


def _plain_mace_config(base: nn.Module) -> dict[str, Any]:
    """MACE's extractor reads ScaleShiftMACE only: it is shown one that shares the modules, with a trivial scale."""
    shown = modules.ScaleShiftMACE.__new__(modules.ScaleShiftMACE)
    scale_shift = modules.ScaleShiftBlock(scale=1.0, shift=0.0)
    shown.__dict__.update(base.__dict__, _modules={**base._modules, "scale_shift": scale_shift})
    config = extract_config_mace_model(shown)
    return {key: value for key, value in config.items() if not key.startswith("atomic_inter_")}


def _encode(key: str, value: Any) -> Any:
    """Classes, irreps and functions by their names."""
    if value is None:
        return None
    if key in _CLASSES:
        return value.__name__
    if key in _IRREPS:
        return str(value)
    if key == "gate":
        names = [name for name, gate in _GATES.items() if gate is value]
        if not names:
            raise HostError(f"the gate {value!r} of this MACE cannot be saved; allowed: {', '.join(_GATES)}")
        return names[0]
    return value


def _decode(key: str, value: Any) -> Any:
    if key in _CLASSES:
        return _listed(value, _BLOCKS, key)
    if value is None:
        return None
    if key in _IRREPS:
        from e3nn import o3  # not at the top: e3nn 0.4.4 can only be imported after mace

        return o3.Irreps(value)
    if key == "gate":
        return _listed(value, _GATES, key)
    return np.array(value) if key == "atomic_energies" else value


def _listed(name: Any, allowed: Mapping[str, Any], key: str) -> Any:
    if not isinstance(name, str) or name not in allowed:
        raise CheckpointError(f"config.json: {key} is {quoted(name)}; allowed: {', '.join(sorted(allowed))}")
    return allowed[name]
