"""A NequIP or Allegro model as JSON and tensors, and back: what a checkpoint keeps. Builders come from one list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from les_plugins.adapters.nequip.builder import LongRangeModel
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import rebuilt, state_of

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
    plain = json.loads(json.dumps(dict(section), default=float))
    return state_of("nequip", model, plain, section_of(model), packages)


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; refuses builders that are not listed and tensors that do not fit."""
    problem = next(_problems(state.model), None)
    if problem is not None:
        raise CheckpointError(f"config.json: {problem}")
    _check_sizes(state.model, WeightSizes(state.tensors))
    section = {} if state.long_range is None else {"long_range": state.long_range.to_dict()}
    model = rebuilt(state, lambda: LongRangeModel(model=state.model, **section), "model of this NequIP")
    r_max = state.model["r_max"]
    for name, value in state.tensors.items():  # one number, or one of each pair of types; maybe in float32
        own = name.endswith("edge_norm._rmax_recip") and value.numel() == 1
        if own and abs(float(value) * r_max - 1.0) > 1e-5:
            raise CheckpointError(f"config.json: r_max is {r_max}; in the weights it is {1 / float(value):g}")
    return model


def _check_sizes(section: Mapping[str, Any], sizes: WeightSizes) -> None:
    """Every number that the size of a model follows from, by the names that NequIP and Allegro give to arguments."""
    sizes.cutoff("r_max", section.get("r_max"))
    if "num_layers" in section:
        pattern = (
            r"\.allegro\.latents\.(\d+)\." if section["_target_"].startswith("allegro.") else r"\.layer(\d+)_convnet\."
        )
        sizes.layers("num_layers", section["num_layers"], pattern)
    if "l_max" in section:
        sizes.degree("l_max", section["l_max"])
        sizes.product("l_max", section["l_max"], (section["l_max"] + 1) ** 2)
    _check_arguments(section, sizes)
    features = section.get("num_features")
    if "l_max" in section and section.get("num_layers", 1) > 1 and features is not None:
        of_degree = features if isinstance(features, list) else [features] * (section["l_max"] + 1)
        sizes.mask(
            "l_max", section["l_max"], sum((2 * degree + 1) * channels for degree, channels in enumerate(of_degree))
        )


def _check_arguments(section: Mapping[str, Any], sizes: WeightSizes) -> None:
    for key, value in section.items():
        if isinstance(value, Mapping):
            sizes.listed(key, value)
            _check_arguments(value, sizes)
        elif value is None or key in ("seed", "num_layers", "l_max"):
            continue
        elif "irreps" in key:
            for irreps in value if isinstance(value, list | tuple) else [value]:
                (sizes.degree if isinstance(irreps, int) else sizes.irreps)(key, irreps)
        elif key.endswith("depth"):
            sizes.depth(key, value)
        elif key.startswith("num_") or key.endswith(("_width", "_dim", "_num_features", "num_grids")):
            sizes.width(key, value)
        elif isinstance(value, list | tuple):
            sizes.listed(key, value)
            for item in value:
                if isinstance(item, Mapping):
                    _check_arguments(item, sizes)


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
