"""A model as what a checkpoint keeps, and back: for `Host.state` and `Host.rebuild` of every adapter."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.storage.checkpoint import load_tensors

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def state_of(
    host: str,
    model: nn.Module,
    arguments: Mapping[str, Any],
    long_range: LongRangeConfig | None,
    distributions: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> HostState:
    """A model taken apart: its description, and every parameter and buffer on the CPU.

    Args:
        host: name of the adapter.
        model: the whole model; it is not changed.
        arguments: JSON-compatible arguments that rebuild the host's own model.
        long_range: the `long_range:` section, or None for a short-range model.
        distributions: the host's, and those that the meaning of its tensors depends on.
        extra: JSON-compatible facts to be kept beside them.
    """
    kept = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in kept.items()}
    versions = {name: importlib.metadata.version(name) for name in distributions}
    return HostState(host, versions, arguments, long_range, tensors, extra or {})


def rebuilt(state: HostState, build: Callable[[], nn.Module], kind: str) -> nn.Module:
    """The model that `build` makes of a state, with the state's tensors, in evaluation mode.

    Args:
        state: what is to be rebuilt.
        build: makes the model with any weights; what it raises is the description's fault.
        kind: what the description should be of, for the message: "model of this SevenNet".

    Raises:
        CheckpointError: nothing can be built, or a tensor is missing, unknown, or of another shape or type.
    """
    try:
        model = build()
    except CheckpointError:
        raise
    except Exception as error:  # hosts raise whatever a nonsense argument makes them
        raise CheckpointError(f"config.json does not describe a {kind}: {error!r}") from None
    tensors = state.tensors
    if state.cast:
        own = model.state_dict()
        tensors = {
            name: value.to(own[name].dtype) if name in own and value.is_floating_point() else value
            for name, value in tensors.items()
        }
    load_tensors(model, tensors)
    return model.eval()


def in_precision(state: HostState, key: str, dtype: str) -> HostState:
    """The state of the same model in another floating-point type; parameters and buffers are cast as it is rebuilt.

    Args:
        state: of any model.
        key: of the description, with the type: `Host.dtype_key`.
        dtype: "float32" or "float64".

    Raises:
        HostError: another type, or a description that does not say its own.
    """
    if dtype not in _DTYPES:
        raise HostError(f"dtype is {quoted(dtype)}; allowed: {', '.join(_DTYPES)}")
    if key not in state.model:
        raise HostError(f"dtype is {quoted(dtype)}, but models of {state.host} have the type that they were saved in")
    return replace(state, model={**state.model, key: dtype}, cast=True)


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose arrays, tensors and numbers of NumPy are lists and numbers; what else JSON has not, as text."""
    text = json.dumps(dict(settings), default=lambda item: item.tolist() if hasattr(item, "tolist") else str(item))
    found: dict[str, Any] = json.loads(text)
    return found


def check_agreement(key: str, described: float, in_weights: float) -> None:
    """Raise CheckpointError where a number of the description, such as a cutoff, is not the one among the weights.

    Those may be in float32.
    """
    if abs(in_weights - described) > 1e-5 * abs(described):
        raise CheckpointError(f"config.json: {key} is {described}; in the weights it is {in_weights:g}")


def dtype_name(model: nn.Module) -> str:
    """Name of the dtype of a model's parameters, such as float64."""
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def dtype_of(name: object) -> torch.dtype:
    """The dtype that a description names.

    Raises:
        CheckpointError: another one than float32 and float64.
    """
    return _DTYPES[known_name("dtype", name, _DTYPES)]


def known_name(key: str, name: object, allowed: Collection[str]) -> str:
    """A name of a description, such as that of an architecture.

    Args:
        key: of the description.
        name: what stands there.
        allowed: the names in a list of the adapter's own; no code comes from a checkpoint.

    Raises:
        CheckpointError: another name.
    """
    if not isinstance(name, str) or name not in allowed:
        raise CheckpointError(f"config.json: {key} is {quoted(name)}; allowed: {', '.join(allowed)}")
    return name
