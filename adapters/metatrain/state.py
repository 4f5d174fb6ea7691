"""A model of metatrain as JSON and tensors, and back: what a checkpoint keeps. Classes come from one list."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from metatensor.torch import load_buffer, save_buffer
from metatrain.utils.architectures import import_architecture
from metatrain.utils.data import DatasetInfo, TargetInfo
from torch import nn

from les_plugins.adapters.metatrain.model import ARCHITECTURES, LongRangeModel, architecture_of
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import as_json, dtype_name, dtype_of, known_name, rebuilt, state_of

#: What sizes follow from among the hyperparameters.
_SIZES = {
    "long_range": "free", "cutoff": "cutoff", "radius": "cutoff", "max_angular": "degree", "num_*layers": "depth",
    "*": "integers",
}  # fmt: skip


def take_apart(model: nn.Module) -> HostState:
    """Hyperparameters, targets and tensors of a model, with a long-range part or without.

    Raises:
        HostError: an architecture or layers that a checkpoint could not build again.
    """
    base: Any = model.base if isinstance(model, LongRangeModel) else model
    if any("lora_" in name for name, _ in base.named_parameters()):
        raise HostError("a checkpoint of les-plugins cannot hold the LoRA layers of this model; fine-tune with full")
    info = base.dataset_info
    description = {
        "architecture": architecture_of(base),
        "hypers": as_json(base.hypers),
        "length_unit": info.length_unit,
        "atomic_types": list(info.atomic_types),
        "targets": {name: _described(target) for name, target in info.targets.items()},
        "dtype": dtype_name(base),
    }
    return state_of("metatrain", model, description, section_of(model), ("metatrain", "metatensor-torch", "torch"))


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; refuses names that are not listed and tensors that do not fit."""
    description = dict(state.model)
    architecture = import_architecture(known_name("architecture", description.get("architecture"), ARCHITECTURES))
    if not isinstance(description.get("hypers"), dict):
        raise CheckpointError(f"config.json: hypers is {quoted(description.get('hypers'))}; expected a section")
    WeightSizes(state.tensors).settings(description["hypers"], _SIZES)
    types = description.get("atomic_types")
    if not isinstance(types, list) or not all(type(z) is int and 0 < z < 119 for z in types) or len(types) > 118:
        raise CheckpointError(f"config.json: atomic_types is {quoted(types)}; expected a list of atomic numbers")
    dtype = dtype_of(description.get("dtype"))

    def build() -> nn.Module:
        targets = {name: _target(target) for name, target in description["targets"].items()}
        info = DatasetInfo(description["length_unit"], types, targets)
        base = architecture.__model__(description["hypers"], info).to(dtype)
        for name, buffer in base.named_buffers():  # a trainer leaves composition and scale in float64
            saved = state.tensors.get(name if state.long_range is None else f"base.{name}")
            if saved is not None and not state.cast:
                buffer.data = buffer.data.to(saved.dtype)
        return base if state.long_range is None else LongRangeModel(base, state.long_range)  # type: ignore[no-any-return]

    model: Any = rebuilt(state, build, "model of this metatrain")
    read_tensor_maps(model)
    return model  # type: ignore[no-any-return]


def read_tensor_maps(model: Any) -> None:
    """After tensors were loaded: composition and scale, which metatrain keeps as objects too."""
    model.additive_models[0].sync_tensor_maps()
    model.scaler.sync_tensor_maps()


def _described(target: TargetInfo) -> dict[str, str]:
    layout = base64.b64encode(save_buffer(target.layout).numpy().tobytes()).decode()
    return {"quantity": target.quantity, "unit": target.unit, "description": target.description, "layout": layout}


def _target(description: dict[str, str]) -> TargetInfo:
    layout = np.frombuffer(base64.b64decode(description["layout"]), dtype=np.uint8)
    return TargetInfo(**{**description, "layout": load_buffer(torch.tensor(layout))})
