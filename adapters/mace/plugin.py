"""Hooks of the MACE adapter. Imports MACE only inside the hooks that need it."""

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

SUPPORTED = ">=0.3.16,<0.4"


@hookimpl
def les_host_info() -> HostInfo:
    """MACE, as installed."""
    return HostInfo.of_distribution("mace", "mace-torch", SUPPORTED, extra="mace")


@hookimpl
def les_attach(model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
    """Compose a ScaleShiftMACE (or MACE) with a long-range part."""
    if not any(base.__module__.startswith("mace.") for base in type(model).__mro__):
        return None
    from les_plugins.adapters.mace.model import attach_long_range

    return attach_long_range(model, config)


@hookimpl
def les_feature_layout(model: nn.Module) -> FeatureLayout:
    """Irreps of every product block, scalars first."""
    from les_plugins.adapters.mace.model import feature_layout

    return feature_layout(model)


@hookimpl
def les_node_features(model: nn.Module, data: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> NodeFeatures:
    """`node_feats`, cut into layers and irreps; edges from the neighbour list."""
    from les_plugins.adapters.mace.model import node_features

    return node_features(feature_layout=les_feature_layout(model), data=data, output=output)


@hookimpl
def les_calculator(model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
    """`LesMACECalculator`."""
    from les_plugins.adapters.mace.calculator import LesMACECalculator

    return LesMACECalculator(model, device=device, metadata=metadata)


@hookimpl
def les_state(model: nn.Module) -> HostState:
    """Arguments and tensors of the model, buffers included."""
    from les_plugins.adapters.mace.state import take_apart

    return take_apart(model)


@hookimpl
def les_rebuild(state: HostState) -> nn.Module:
    """The model again, from MACE's own classes."""
    from les_plugins.adapters.mace.state import rebuild

    return rebuild(state)


@hookimpl
def les_train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
    """MACE's own trainer with a long-range part in the model."""
    from les_plugins.adapters.mace.train import train

    return train(config_file, arguments, metadata)


@hookimpl
def les_compile_targets() -> Sequence[str]:
    """One file that libtorch runs."""
    return ("torchscript",)


@hookimpl
def les_compile(
    model: nn.Module,
    output: Path,
    static_cell: tuple[float, float, float] | None,
    device: str,
    metadata: Mapping[str, Any],
) -> Path:
    """TorchScript, as MACE deploys."""
    from les_plugins.adapters.mace.torchscript import compile_model

    return compile_model(model, output, static_cell, device, metadata)


@hookimpl
def les_contract() -> type[AdapterContract]:
    """Tiny models of MACE under the contract."""
    from les_plugins.adapters.mace.contract import MACEContract

    return MACEContract
