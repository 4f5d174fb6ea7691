"""A host of which nothing is implemented but its description, and one of a linear map; tests fill in the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from les_plugins import LongRangeConfig
from les_plugins.errors import CheckpointError
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.hosting.types import Host, HostInfo, HostState

SECTION = LongRangeConfig.parse({"dl": 2.0, "epsilon_infinity": 1.78})


class BareHost(Host):
    """Found, and good for nothing."""

    name = "toy"
    distribution = "toy"

    def info(self) -> HostInfo:
        return HostInfo(self.name, self.distribution, ">=1", "1.0")

    def attach(self, model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
        return None

    def calculator(self, model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
        raise NotImplementedError

    def state(self, model: nn.Module) -> HostState:
        raise NotImplementedError

    def rebuild(self, state: HostState) -> nn.Module:
        raise NotImplementedError


class ToyHost(BareHost):
    """A host whose model is one linear map, and whose calculator says on which device it is."""

    def state(self, model: nn.Module) -> HostState:
        return HostState("toy", {"toy": "1.0"}, {"width": 3}, SECTION, model.state_dict(), {"frames": 4})

    def rebuild(self, state: HostState) -> nn.Module:
        model = nn.Linear(state.model["width"], 1)
        if state.tensors.keys() != model.state_dict().keys():
            raise CheckpointError("weights: tensors do not fit")
        model.load_state_dict(dict(state.tensors))
        return model

    def calculator(self, model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
        return model, metadata, device


class BringsHosts:
    """A plugin that brings some hosts."""

    def __init__(self, *hosts: Host) -> None:
        self.hosts = hosts

    @hookimpl
    def les_hosts(self) -> Sequence[Host]:
        return self.hosts


class Distribution:
    """As importlib.metadata's."""

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version
