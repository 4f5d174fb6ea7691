"""Hooks of the SevenNet adapter. Imports SevenNet only inside the hooks that need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.hosting.registry import HostInfo, HostState
from les_plugins.model.features import FeatureLayout, NodeFeatures

if TYPE_CHECKING:
    from les_plugins.testing import AdapterContract

SUPPORTED = ">=0.13,<0.14"


@hookimpl
def les_host_info() -> HostInfo:
    """SevenNet, as installed."""
    return HostInfo.of_distribution("sevennet", "sevenn", SUPPORTED, extra="sevennet")


@hookimpl
def les_attach(model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
    """Insert a long-range part before the energy sum of an AtomGraphSequential."""
    if not any(base.__module__.startswith("sevenn.") for base in type(model).__mro__):
        return None
    from les_plugins.adapters.sevennet.model import attach_long_range

    attached: nn.Module = attach_long_range(model, config)
    return attached


@hookimpl
def les_feature_layout(model: nn.Module) -> FeatureLayout:
    """Irreps after the gate of every layer."""
    from les_plugins.adapters.sevennet.model import feature_layout

    return feature_layout(model)


@hookimpl
def les_node_features(model: nn.Module, data: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> NodeFeatures:
    """The features that a model with a long-range part keeps; edges from the neighbour list."""
    from les_plugins.adapters.sevennet.model import features_of

    return features_of(model, output)


@hookimpl
def les_calculator(model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
    """`LesSevenNetCalculator`."""
    from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator

    return LesSevenNetCalculator(model, device=device, metadata=metadata)


@hookimpl
def les_state(model: nn.Module) -> HostState:
    """The settings that SevenNet builds the model from, and every tensor."""
    from les_plugins.adapters.sevennet.state import take_apart

    return take_apart(model)


@hookimpl
def les_rebuild(state: HostState) -> nn.Module:
    """The model again, from SevenNet's own builder."""
    from les_plugins.adapters.sevennet.state import rebuild

    return rebuild(state)


@hookimpl
def les_train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
    """SevenNet's own trainer with a long-range part in the model."""
    from les_plugins.adapters.sevennet.train import train

    return train(config_file, arguments, metadata)


@hookimpl
def les_compile_targets() -> Sequence[str]:
    """Eager only, so far."""
    return ()


@hookimpl
def les_contract() -> type[AdapterContract]:
    """A tiny SevenNet under the contract."""
    from les_plugins.adapters.sevennet.contract import SevenNetContract

    return SevenNetContract
