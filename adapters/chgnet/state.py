"""A CHGNet as JSON and tensors, and back: what a checkpoint keeps. No file of CHGNet's own, which are pickles."""

from __future__ import annotations

from typing import Any

from chgnet.model.model import CHGNet
from torch import nn

from les_plugins.adapters.chgnet.model import References, attach_long_range, check_supported
from les_plugins.hosting.logs import quiet
from les_plugins.hosting.types import HostState
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import as_json, dtype_name, dtype_of, rebuilt, state_of

#: What sizes follow from (`WeightSizes.settings`).
_SIZES = {
    **dict.fromkeys(("n_conv", "cutoff_coeff"), "free"),
    **dict.fromkeys(("*_dim", "*_dims", "num_*"), "width"),
    "*_cutoff": "cutoff",
    "*": "integers",
}


def take_apart(model: nn.Module) -> HostState:
    """Arguments and tensors of a CHGNet, with a long-range part or without."""
    base: Any = model
    check_supported(base)
    kept = {key: value for key, value in base.model_args.items() if key not in ("composition_model", "long_range")}
    references = None if base.composition_model is None else base.composition_model.is_intensive
    arguments = {**as_json(kept), "references_are_intensive": references, "dtype": dtype_name(model)}
    return state_of("chgnet", model, arguments, section_of(model), ("chgnet", "torch"))


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; raises for settings that CHGNet cannot use and tensors that do not fit."""
    arguments = dict(state.model)
    intensive, dtype = arguments.pop("references_are_intensive", None), dtype_of(arguments.pop("dtype", None))
    sizes = WeightSizes(state.tensors)
    sizes.settings(arguments, _SIZES)
    sizes.layers("n_conv", arguments.get("n_conv"), r"atom_conv_layers\.(\d+)\.")

    def build() -> nn.Module:
        references = None if intensive is None else References(bool(intensive))
        with quiet():
            model = CHGNet(**arguments, composition_model=references).to(dtype)
        return model if state.long_range is None else attach_long_range(model, state.long_range)

    return rebuilt(state, build, "CHGNet of this version")
