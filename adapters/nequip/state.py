"""A NequIP or Allegro model as JSON and tensors, and back: what a checkpoint keeps. Builders come from one list."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from nequip.nn._tp_scatter_base import TensorProductScatter
from torch import Tensor, nn

from les_plugins.adapters.nequip.builder import LongRangeModel
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import as_json, check_agreement, rebuilt, state_of

#: Everything that a model section may name: nothing else is looked up when a checkpoint is loaded.
BUILDERS = (
    "nequip.model.NequIPGNNModel",
    "nequip.model.FullNequIPGNNModel",
    "nequip.model.PresetNequIPGNNModel",
    "allegro.model.AllegroModel",
    "allegro.model.FullAllegroModel",
)
PARTS = (
    "allegro.nn.TwoBodyBesselScalarEmbed",
    "allegro.nn.TwoBodySplineScalarEmbed",
    "nequip.nn.pair_potential.ZBL",
)
#: What sizes follow from (`WeightSizes.settings`).
_SIZES = {
    "num_layers": "free",
    "l_max": "degree",
    "*irreps*": "irreps",
    "*depth": "depth",
    **dict.fromkeys(("num_*", "*_width", "*_dim", "*_num_features", "*num_grids"), "width"),
}


def take_apart(model: nn.Module) -> HostState:
    """Model section and tensors of a GraphModel, with a long-range part or without.

    Raises:
        HostError: a model whose section is not known, or that a checkpoint could not build again.
    """
    section = getattr(model, "host_section", None)
    if section is None:
        raise HostError(
            "the model section that this model was built from is not known: build it with "
            "les_plugins.adapters.nequip.LongRangeModel, which notes it"
        )
    problem = next(_problems(section), None)
    if problem is not None:
        raise HostError(f"a checkpoint of les-plugins cannot hold this model: {problem}")
    packages = ["nequip", "e3nn", "torch"] + ["nequip-allegro"] * section["_target_"].startswith("allegro.")
    state = state_of("nequip", model, as_json(section), section_of(model), packages)
    return dataclasses.replace(state, tensors=_without_kernels(model, state.tensors))


def _without_kernels(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those of kernels that NequIP's modifiers have put beside e3nn's tensor products."""
    kernels = [
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, TensorProductScatter) and type(module) is not TensorProductScatter
    ]
    own = {name for name in tensors for kernel in kernels if name.startswith(f"{kernel}tp.")}
    added = {name for name in tensors for kernel in kernels if name.startswith(kernel)} - own
    return {name: value for name, value in tensors.items() if name not in added}


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; refuses builders that are not listed and tensors that do not fit."""
    problem = next(_problems(state.model), None)
    if problem is not None:
        raise CheckpointError(f"config.json: {problem}")
    _check_sizes(state.model, WeightSizes(state.tensors))
    section = {} if state.long_range is None else {"long_range": state.long_range.to_dict()}
    model = rebuilt(state, lambda: LongRangeModel(model=state.model, **section), "model of this NequIP")
    model.requires_grad_(True)  # what the run froze that it comes from
    for name, value in state.tensors.items():  # one number, or one of each pair of types
        if name.endswith("edge_norm._rmax_recip") and value.numel() == 1:
            check_agreement("r_max", state.model["r_max"], 1.0 / float(value))
    return model


def _check_sizes(section: Mapping[str, Any], sizes: WeightSizes) -> None:
    """Every number that the size of a model follows from, by the names that NequIP and Allegro give to arguments."""
    sizes.cutoff("r_max", section.get("r_max"))
    sizes.settings(section, _SIZES)
    layers, l_max, features = section.get("num_layers", 1), section.get("l_max"), section.get("num_features")
    if "num_layers" in section:
        is_allegro = section["_target_"].startswith("allegro.")
        sizes.layers("num_layers", layers, r"\.allegro\.latents\.(\d+)\." if is_allegro else r"\.layer(\d+)_convnet\.")
    if l_max is not None:
        sizes.product("l_max", l_max, (l_max + 1) ** 2)
    if l_max is not None and layers > 1 and features is not None:
        of_degree = features if isinstance(features, list) else [features] * (l_max + 1)
        sizes.mask("l_max", l_max, sum((2 * degree + 1) * channels for degree, channels in enumerate(of_degree)))


def _problems(section: Any) -> Iterator[str]:
    """What in a model section a checkpoint must not hold, in words."""
    if not isinstance(section, Mapping) or section.get("_target_") not in BUILDERS:
        target = section.get("_target_") if isinstance(section, Mapping) else section
        yield f"_target_ of the model is {quoted(target)}; allowed: {', '.join(BUILDERS)}"
        return
    for value in section.values():
        yield from _inner_problems(value)


def _inner_problems(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "_target_":
                if item not in PARTS:
                    yield f"_target_ is {quoted(item)}; allowed inside a model: {', '.join(PARTS)}"
            elif str(key).startswith("_"):
                yield f"key {quoted(key)} inside a model; allowed: arguments and _target_"
            else:
                yield from _inner_problems(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _inner_problems(item)
    elif isinstance(value, str) and "${" in value:
        yield f"{quoted(value)} is an interpolation; allowed: plain values"
    elif not isinstance(value, str | bool | int | float | type(None) | torch.Tensor) and not hasattr(value, "item"):
        yield f"a {type(value).__name__} inside a model; allowed: JSON types"
