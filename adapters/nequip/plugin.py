"""Hooks of the NequIP and Allegro adapter. Imports NequIP only inside the hooks that need it."""

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

SUPPORTED = ">=0.19,<0.20"


@hookimpl
def les_host_info() -> HostInfo:
    """NequIP, as installed; Allegro is an extension of it."""
    return HostInfo.of_distribution("nequip", "nequip", SUPPORTED, extra="nequip")


@hookimpl
def les_attach(model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
    """Insert a long-range part before the energy sum of a GraphModel."""
    if not hasattr(model, "is_graph_model"):
        return None
    from les_plugins.adapters.nequip.model import attach_long_range

    attached: nn.Module = attach_long_range(model, config)
    return attached


@hookimpl
def les_feature_layout(model: nn.Module) -> FeatureLayout:
    """Irreps of every NequIP layer, or of the sums over Allegro's edges."""
    from les_plugins.adapters.nequip.model import feature_layout

    return feature_layout(model)


@hookimpl
def les_node_features(model: nn.Module, data: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> NodeFeatures:
    """The features that a model with a long-range part keeps; edges from the neighbour list."""
    from les_plugins.adapters.nequip.model import features_of

    return features_of(model, output)


@hookimpl
def les_calculator(model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
    """`LesNequIPCalculator`."""
    from les_plugins.adapters.nequip.calculator import LesNequIPCalculator

    return LesNequIPCalculator(model, device=device, metadata=metadata)


@hookimpl
def les_state(model: nn.Module) -> HostState:
    """The model section and every tensor."""
    from les_plugins.adapters.nequip.state import take_apart

    return take_apart(model)


@hookimpl
def les_rebuild(state: HostState) -> nn.Module:
    """The model again, from builders of NequIP and Allegro."""
    from les_plugins.adapters.nequip.state import rebuild

    return rebuild(state)


@hookimpl
def les_train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
    """`nequip-train` with the host's own config."""
    from les_plugins.adapters.nequip.train import train

    return train(config_file, arguments, metadata)


@hookimpl
def les_compile_targets() -> Sequence[str]:
    """NequIP's compilation while training, its targets of `nequip-compile`, and ours among them."""
    return ("train", "ase", "les_ase", "pair_nequip", "batch")


@hookimpl
def les_contract() -> Sequence[type[AdapterContract]]:
    """A tiny NequIP and a tiny Allegro under the contract."""
    from les_plugins.adapters.nequip.contract import AllegroContract, NequIPContract

    return NequIPContract, AllegroContract
