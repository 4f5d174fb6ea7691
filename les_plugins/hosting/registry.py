"""The one plugin manager: finds adapters through the entry-point group `les_plugins`, imports a host when asked."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pluggy
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.hosting import defaults as physics
from les_plugins.hosting import hookspecs, nvalchemi

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

#: Entry-point group in which adapters and physics parts are found.
GROUP = "les_plugins"
#: Hooks of hosts, and what each gives.
_OF_HOSTS = {
    "les_host_info": "description of the host",
    "les_attach": "model with a long-range part",
    "les_feature_layout": "layout of features",
    "les_node_features": "features of atoms",
    "les_calculator": "ASE calculator",
    "les_state": "state of the model",
    "les_rebuild": "model of a state",
    "les_train": "trainer",
    "les_compile_targets": "names of compile targets",
    "les_compile": "compiler",
    "les_contract": "class for the adapter contract",
}
#: Those of them that may return None.
_MAY_BE_NONE = ("les_attach", "les_train")


@dataclass(frozen=True)
class HostInfo:
    """A host framework as it is found on this machine.

    Attributes:
        name: short name, as in `les-plugins train NAME`.
        distribution: what pip calls it.
        supported: version range that the adapter was written for, as in a requirement.
        version: installed version, or None.
        problem: why it cannot be used, in words, or None.
        extra: extra of les-plugins that installs it, or None for a third party's.
        compile_targets: what its models can be compiled to, as its adapter says; empty when eager is all there is.
    """

    name: str
    distribution: str
    supported: str
    version: str | None = None
    problem: str | None = None
    extra: str | None = None
    compile_targets: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether the host can be used."""
        return self.problem is None

    @classmethod
    def of_distribution(cls, name: str, distribution: str, supported: str, extra: str | None = None) -> HostInfo:
        """Look a distribution up in the installed packages, without importing it."""
        hint = f"pip install 'les-plugins[{extra}]'" if extra else f"pip install '{distribution}{supported}'"
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return cls(name, distribution, supported, None, f"{distribution} is not installed: {hint}", extra)
        problem = None
        if not _specifiers(supported).contains(version, prereleases=True):
            problem = f"{distribution} {version} is installed, supported is {supported}: {hint}"
        return cls(name, distribution, supported, version, problem, extra)


@dataclass(frozen=True)
class HostState:
    """A model taken apart for a checkpoint.

    Attributes:
        host: name of the adapter.
        versions: version of the host and of what its tensors depend on, by distribution.
        model: JSON-compatible arguments that rebuild the host's own model.
        long_range: the `long_range:` section, or None for a short-range model.
        tensors: every parameter and buffer, by name.
        extra: JSON-compatible facts to be kept beside them.
    """

    host: str
    versions: Mapping[str, str]
    model: Mapping[str, Any]
    long_range: LongRangeConfig | None
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Any] = field(default_factory=dict)


@cache
def manager() -> pluggy.PluginManager:
    """The plugin manager with our physics and every entry point that could be imported."""
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugins.register(physics, name="les_plugins.hosting.defaults")
    plugins.register(nvalchemi, name="les_plugins.hosting.nvalchemi")
    for entry in importlib.metadata.entry_points(group=GROUP):
        if plugins.has_plugin(entry.name):
            continue
        try:
            plugins.register(entry.load(), name=entry.name)
            plugins.check_pending()
        except Exception as error:  # a broken third-party plugin must not take the others down
            _failures()[entry.name] = f"{entry.value} could not be loaded: {type(error).__name__}: {error}"
            if plugins.has_plugin(entry.name):
                plugins.unregister(name=entry.name)
    return plugins


@cache
def _failures() -> dict[str, str]:
    return {}


def hosts() -> list[HostInfo]:
    """Every adapter found, usable or not, with the reason; imports no host."""
    found = []
    for name, plugin in manager().list_name_plugin():
        if plugin is not None and hasattr(plugin, "les_host_info"):
            found.append(_host_info(name))
    found += [HostInfo(name, "?", "?", None, problem) for name, problem in _failures().items()]
    return sorted(found, key=lambda info: info.name)


def _host_info(name: str) -> HostInfo:
    try:
        info: HostInfo = _host_caller(name).les_host_info()
        hooks = _host_caller(name)
        targets = tuple(hooks.les_compile_targets()) if hooks.offers("les_compile_targets") else ()
    except Exception as error:  # as above
        return HostInfo(name, "?", "?", None, f"its les_host_info failed: {type(error).__name__}: {error}")
    # the name of the entry point is the one that hooks are called by
    return replace(info, name=name, compile_targets=targets)


class HookCaller:
    """Hooks of one host only, or of all plugins, with the calling syntax of pluggy."""

    def __init__(self, leave_out: list[Any], host: str | None = None) -> None:
        self._leave_out, self._host = leave_out, host

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The hook of that name.

        Raises:
            HostError: the host's adapter has no such hook, or its hook returned nothing where something is needed.
        """
        if not hasattr(hookspecs, name):
            raise AttributeError(name)
        caller: Callable[..., Any] = manager().subset_hook_caller(name, self._leave_out)
        return caller if self._host is None else partial(self._answer, name, caller)

    def offers(self, name: str) -> bool:
        """Whether a plugin has the hook of that name."""
        return bool(manager().subset_hook_caller(name, self._leave_out).get_hookimpls())

    def _answer(self, name: str, caller: Callable[..., Any], **arguments: Any) -> Any:
        """What a host's hook returns: without the hook pluggy would return None, which reads as success."""
        if not self.offers(name):
            offered = ", ".join(hook for hook in _OF_HOSTS if self.offers(hook)) or "none"
            raise HostError(f"{self._host}: its adapter has no {_OF_HOSTS[name]} (hook {name}); its hooks: {offered}")
        answer = caller(**arguments)
        if answer is None and name not in _MAY_BE_NONE:
            raise HostError(
                f"{self._host}: the hook {name} of its adapter returned None; expected the {_OF_HOSTS[name]}"
            )
        return answer


def host(name: str) -> HookCaller:
    """Hooks of one host.

    Raises:
        HostError: no adapter of that name, or the host is missing or of an unsupported version; says what to install.
    """
    infos = {info.name: info for info in hosts()}
    if name not in infos:
        raise HostError(f"no adapter for the host {name!r}; found: {', '.join(infos) or 'none'}")
    if not infos[name].available:
        raise HostError(f"{name}: {infos[name].problem}")
    return _host_caller(name)


def physics_hooks() -> HookCaller:
    """Hooks of every plugin: for physics, the first that answers is used."""
    return HookCaller([])


def attach(model: nn.Module, config: LongRangeConfig | Mapping[str, Any]) -> nn.Module:
    """Add a long-range part to a host model that exists; the host's weights are kept.

    Args:
        model: a model of any supported host.
        config: the `long_range:` section, as a mapping or a `LongRangeConfig`.

    Returns:
        The host's own kind of model: train it, save it, evaluate it as before.

    Raises:
        ConfigError: the section cannot be used as written.
        HostError: no adapter knows this kind of model.
    """
    parsed = LongRangeConfig.parse(config, "attach: long_range")
    for info in hosts():
        if not info.available or not (hooks := host(info.name)).offers("les_attach"):
            continue
        attached: nn.Module | None = hooks.les_attach(model=model, config=parsed)
        if attached is not None:
            return attached
    known = ", ".join(f"{info.name} ({info.problem or 'available'})" for info in hosts())
    raise HostError(f"no adapter knows a model of type {type(model).__module__}.{type(model).__name__}; hosts: {known}")


def _host_caller(name: str) -> HookCaller:
    plugins = manager()
    return HookCaller([plugin for other, plugin in plugins.list_name_plugin() if other != name], name)


def _specifiers(supported: str) -> SpecifierSet:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(supported)
