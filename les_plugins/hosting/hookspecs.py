"""Every hook of les-plugins. A host adapter or a piece of physics is a module (or object) that implements some of them.

Hosts implement the first group and are called one at a time, by the name of their entry point. Physics parts implement
the second; the first that returns something other than None is used, third parties before ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from les_plugins.config import LongRangeConfig
    from les_plugins.electrostatics import LatentElectrostatics
    from les_plugins.electrostatics.layer import ResponseModel
    from les_plugins.hosting.registry import HostInfo, HostState
    from les_plugins.model.features import FeatureLayout, NodeFeatures
    from les_plugins.testing import AdapterContract

PROJECT = "les_plugins"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def les_host_info() -> HostInfo:
    """Describe the host framework; called by `les-plugins hosts` and before any other hook of the host.

    Must not import the host, and must not fail when it is missing.

    Returns:
        Name, distribution, supported and installed version, and why the host cannot be used if it cannot.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_attach(model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
    """Put a long-range part behind a host model; called by `les_plugins.attach`.

    Args:
        model: a model of any host.
        config: the `long_range:` section.

    Returns:
        The host's own kind of model, long-range energy in its total and per-atom energies; None for another host's.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_feature_layout(model: nn.Module) -> FeatureLayout:
    """Say which features a host model has; called when the heads are built.

    Args:
        model: a bare model of this host.

    Returns:
        Channels of every layer, and the cutoff if edges are handed over.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_node_features(model: nn.Module, data: Mapping[str, Tensor], output: Mapping[str, Tensor]) -> NodeFeatures:
    """Collect the features of a batch; called at every evaluation, in the order of `les_feature_layout`.

    Args:
        model: the bare model of this host.
        data: the host's own input.
        output: the host's own output, features among it.

    Returns:
        Features with their graph to the positions.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_calculator(model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
    """Make the ASE calculator of a model; called by `les_plugins.load`.

    Args:
        model: the model with its long-range part.
        metadata: the checkpoint's config.json.
        device: a torch device name.

    Returns:
        An ASE calculator with energy, forces, stress, charges, dipole and born_effective_charges.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_state(model: nn.Module) -> HostState:
    """Take a model apart for a checkpoint; called by `les_plugins.save`.

    Args:
        model: the model with its long-range part.

    Returns:
        JSON-compatible host config, all tensors with buffers, and the `LongRangeConfig`.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_rebuild(state: HostState) -> nn.Module:
    """Put a model together from a checkpoint; called by `les_plugins.load`. No code may come from the checkpoint.

    Args:
        state: what `les_state` returned, read back from disk.

    Returns:
        The model, on the CPU.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
    """Train with the host's own trainer; called by `les-plugins train HOST`.

    Args:
        config_file: the host's own config file, with a `long_range:` section or without.
        arguments: further options in the host's own syntax.
        metadata: facts to keep in the checkpoint, such as the command and the licence of the data.

    Returns:
        The checkpoint that was written, or None when the host's options asked for no training.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_compile_targets() -> Sequence[str]:
    """Name what a model of this host can be compiled to; called by `les-plugins hosts`.

    Returns:
        Names such as "torchscript" or "aotinductor"; empty when eager is all there is.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_compile(
    model: nn.Module,
    output: Path,
    static_cell: tuple[float, float, float] | None,
    device: str,
    metadata: Mapping[str, Any],
) -> Path:
    """Compile a model and write it to a file; called by `les-plugins compile`.

    Args:
        model: the model with its long-range part; it is not changed.
        output: the file to write.
        static_cell: longest lattice vectors to be covered, Å; None for those of the model's own section.
        device: torch device that the file is to run on.
        metadata: JSON-compatible facts to keep in the file, such as the hash of the checkpoint.

    Returns:
        The file.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_contract() -> type[AdapterContract] | Sequence[type[AdapterContract]]:
    """Give the class that runs the adapter contract on a tiny model of this host; called by `les-plugins check`.

    Returns:
        A subclass of `les_plugins.testing.AdapterContract`, or several, one for each kind of model, told apart by
        `model_name`; the adapter's own tests subclass them too.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_make_heads(features: FeatureLayout, config: LongRangeConfig) -> nn.Module | None:
    """Make the heads; called once when a long-range part is built.

    Args:
        features: the host's features.
        config: the `long_range:` section.

    Returns:
        A module from `NodeFeatures` to `LatentVariables`, or None to leave it to the next plugin.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_make_solver(config: LongRangeConfig) -> LatentElectrostatics | None:
    """Make the electrostatic layer; called once when a long-range part is built.

    Args:
        config: the `long_range:` section.

    Returns:
        A module with the call of `LatentElectrostatics`, or None to leave it to the next plugin.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def les_make_response(config: LongRangeConfig) -> ResponseModel | None:
    """Make the response of the moments to potential and field; called once when a long-range part is built.

    Args:
        config: the `long_range:` section.

    Returns:
        A function with the call of `one_shot_response`, an `InteractingResponse` where induced moments answer each
        other, or None to leave it to the next plugin.
    """
    raise NotImplementedError
