"""Hooks of the MatGL adapter. Imports MatGL only inside the hooks that need it."""

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

SUPPORTED = ">=4.1,<4.2"


@hookimpl
def les_host_info() -> HostInfo:
    """MatGL, as installed."""
    return HostInfo.of_distribution("matgl", "matgl", SUPPORTED, extra="matgl")


@hookimpl
def les_attach(model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
    """Put a long-range part behind a TensorNet or M3GNet, or behind the one in a Potential."""
    if not any(kind.__module__.startswith("matgl.") for kind in type(model).__mro__):
        return None
    from les_plugins.adapters.matgl.model import attach_long_range

    return attach_long_range(model, config)


@hookimpl
def les_feature_layout(model: nn.Module) -> FeatureLayout:
    """Channels of TensorNet's last tensors, or of M3GNet's layers."""
    from les_plugins.adapters.matgl.model import feature_layout

    return feature_layout(model)


@hookimpl
def les_node_features(model: nn.Module, data: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> NodeFeatures:
    """The features that the host's model keeps of its last evaluation; `data` is the graph."""
    from les_plugins.adapters.matgl.model import node_features

    return node_features(model, data)


@hookimpl
def les_calculator(model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
    """`LesMatGLCalculator`."""
    from les_plugins.adapters.matgl.calculator import LesMatGLCalculator

    return LesMatGLCalculator(model, device=device, metadata=metadata)


@hookimpl
def les_state(model: nn.Module) -> HostState:
    """Arguments of the host's classes and every tensor."""
    from les_plugins.adapters.matgl.state import take_apart

    return take_apart(model)


@hookimpl
def les_rebuild(state: HostState) -> nn.Module:
    """The model again, from the host's own classes."""
    from les_plugins.adapters.matgl.state import rebuild

    return rebuild(state)


@hookimpl
def les_train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
    """`MGLPotentialTrainer`, from a YAML file of its own arguments."""
    from les_plugins.adapters.matgl.train import train

    return train(config_file, arguments, metadata)


@hookimpl
def les_compile_targets() -> Sequence[str]:
    """Eager only, so far."""
    return ()


@hookimpl
def les_contract() -> Sequence[type[AdapterContract]]:
    """A tiny TensorNet and a tiny M3GNet under the contract."""
    from les_plugins.adapters.matgl.contract import M3GNetContract, TensorNetContract

    return TensorNetContract, M3GNetContract
