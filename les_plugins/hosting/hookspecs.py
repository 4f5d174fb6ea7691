"""Every hook of les-plugins: what a plugin adds. A plugin is a module (or object) with functions marked `@hookimpl`.

All plugins are asked, each for what it brings; a section then selects parts by name. `registry.py` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from les_plugins.config import LongRangeConfig
    from les_plugins.electrostatics import LatentElectrostatics
    from les_plugins.electrostatics.response.choice import ResponseModel
    from les_plugins.hosting.types import Host
    from les_plugins.model.features import FeatureLayout

    HeadsFactory: TypeAlias = Callable[[FeatureLayout, LongRangeConfig], nn.Module]
    SolverFactory: TypeAlias = Callable[[LongRangeConfig], LatentElectrostatics]
    ResponseFactory: TypeAlias = Callable[[LongRangeConfig], ResponseModel]

PROJECT = "les_plugins"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def les_hosts() -> Sequence[Host]:
    """Bring hosts; called once a process, before any host is used. Must not import a host framework.

    Returns:
        Objects of `les_plugins.hosting.types.Host`, one for each host framework.
    """
    raise NotImplementedError


def brings(*hosts: Host) -> Callable[[], Sequence[Host]]:
    """The hook `les_hosts` of a plugin that brings these hosts: `les_hosts = brings(MyHost())`."""
    hook: Callable[[], Sequence[Host]] = hookimpl(lambda: hosts)
    return hook


@hookspec
def les_heads() -> Mapping[str, HeadsFactory]:
    """Bring heads, selected by `heads: NAME`; called once a process.

    Returns:
        Name → function of the host's `FeatureLayout` and the `LongRangeConfig`, which returns a module from
        `NodeFeatures` to `LatentVariables`.
    """
    raise NotImplementedError


@hookspec
def les_solvers() -> Mapping[str, SolverFactory]:
    """Bring solvers of the electrostatics, selected by `run: {method: NAME}`; called once a process.

    Returns:
        Name → function of the `LongRangeConfig`, which returns a module with the call of `LatentElectrostatics`.
    """
    raise NotImplementedError


@hookspec
def les_responses() -> Mapping[str, ResponseFactory]:
    """Bring responses of the moments to potential and field, selected by `response: {solve: NAME}`; called once.

    Returns:
        Name → function of the `LongRangeConfig`, which returns a function with the call of `one_shot_response`, or an
        `InteractingResponse` where induced moments interact with each other.
    """
    raise NotImplementedError
