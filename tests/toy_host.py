"""A host of which nothing is implemented but its description; tests fill in what they look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from les_plugins import LongRangeConfig
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.hosting.types import Host, HostInfo, HostState


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
