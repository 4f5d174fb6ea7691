"""What all plugins bring: hosts, heads, solvers, responses, each found by name. Entry-point group `les_plugins`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pluggy

from les_plugins.errors import HostError
from les_plugins.hosting import defaults, hookspecs
from les_plugins.hosting.types import API_VERSION, Host, HostInfo, Part
from les_plugins.version import __version__

#: Entry-point group in which plugins are found.
GROUP = "les_plugins"
#: What a plugin can bring.
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("les_"))
#: Hooks of 0.1, which named one host by its entry point; a plugin that has them is told what has taken their place.
_FORMER_HOOKS = {
    "les_make_heads": "les_heads() -> Mapping[str, HeadsFactory]",
    "les_make_solver": "les_solvers() -> Mapping[str, SolverFactory]",
    "les_make_response": "les_responses() -> Mapping[str, ResponseFactory]",
    **dict.fromkeys(
        ("les_host_info", "les_attach", "les_calculator", "les_state", "les_rebuild", "les_train", "les_contract"),
        "les_hosts() -> Sequence[Host]",
    ),
}


@dataclass(frozen=True)
class Offered:
    """A factory that a plugin brings, and what a checkpoint keeps of it."""

    factory: Any
    part: Part


@cache
def manager() -> pluggy.PluginManager:
    """The plugin manager with our own parts and every entry point that could be imported."""
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugins.register(defaults, name="les_plugins.hosting.defaults")
    seen: dict[str, str] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        first = seen.setdefault(entry.name, entry.value)
        if first != entry.value:  # the same one may be found twice, in two folders of the path
            _problems()[f"{entry.name} ({entry.value})"] = f"left out: {first} has the entry point {entry.name!r} too"
        if plugins.has_plugin(entry.name) or first != entry.value:
            continue
        try:
            plugin = entry.load()
            _refuse_former_hooks(plugin)
            plugins.register(plugin, name=entry.name)
            plugins.check_pending()
            if not plugins.get_hookcallers(plugin):
                raise HostError(f"it has no hook; mark one of {', '.join(HOOKS)} with @hookimpl")
        except Exception as error:  # a broken third-party plugin must not take the others down
            _problems()[entry.name] = f"{entry.value} could not be loaded: {type(error).__name__}: {error}"
            if plugins.has_plugin(entry.name):
                plugins.unregister(name=entry.name)
    return plugins


def forget() -> None:
    """Look for plugins again when one is next asked for."""
    for found in (manager, _problems, _hosts, _parts):
        found.cache_clear()


def hosts() -> list[HostInfo]:
    """Every host found, usable or not, with the reason, and every plugin that failed; imports no host."""
    found = [_info(each) for each in _hosts().values()]
    found += [HostInfo(name, "?", "?", None, problem) for name, problem in _problems().items()]
    return sorted(found, key=lambda info: info.name)


def host(name: str) -> Host:
    """One host, ready to be used.

    Raises:
        HostError: no host of that name, or it is missing or of an unsupported version; says what to install.
    """
    infos = {info.name: info for info in hosts()}
    if name not in infos:
        raise HostError(f"no adapter for the host {name!r}; found: {', '.join(infos) or 'none'}")
    if not infos[name].available:
        raise HostError(f"{name}: {infos[name].problem}")
    return _hosts()[name]


def heads() -> Mapping[str, Offered]:
    """Heads by name."""
    return _parts("les_heads")


def solvers() -> Mapping[str, Offered]:
    """Solvers of the electrostatics by name."""
    return _parts("les_solvers")


def responses() -> Mapping[str, Offered]:
    """Responses by name."""
    return _parts("les_responses")


@cache
def _problems() -> dict[str, str]:
    """What is wrong with plugins, by the names of their entry points."""
    return {}


@cache
def _hosts() -> dict[str, Host]:
    found: dict[str, Host] = {}
    for plugin, brought in _brought("les_hosts"):
        for each in brought:
            if not isinstance(each, Host):
                kind = each.__name__ if isinstance(each, type) else type(each).__name__
                _problems()[plugin] = f"its les_hosts returned a {kind}; expected objects of Host"
            elif each.name in found:
                _problems()[plugin] = f"its host {each.name!r} is left out: another plugin brings one of that name"
            else:
                found[each.name] = each
    return found


@cache
def _parts(hook: str) -> dict[str, Offered]:
    found: dict[str, Offered] = {}
    for plugin, brought in _brought(hook):
        for name, factory in dict(brought).items():
            if name in found:
                owner = found[name].part.provider
                _problems()[plugin] = f"{name!r} of its {hook} is left out: {owner} brings one of that name"
            else:
                found[name] = Offered(factory, Part(name, *_provider(plugin)))
    return found


def _brought(hook: str) -> list[tuple[str, Any]]:
    """What each plugin returned, ours first; a plugin that fails is left out."""
    answers = []
    for implementation in getattr(manager().hook, hook).get_hookimpls():
        try:
            answers.append((implementation.plugin_name, implementation.function() or ()))
        except Exception as error:  # as above
            _problems()[implementation.plugin_name] = f"its {hook} failed: {type(error).__name__}: {error}"
    return sorted(answers, key=lambda pair: not pair[0].startswith("les_plugins."))


def _info(each: Host) -> HostInfo:
    try:
        version = each.api_version
        if version != API_VERSION:
            problem = (
                f"its adapter was written for version {version} of the interface, this les-plugins "
                f"({__version__}) has {API_VERSION}"
            )
            return HostInfo(each.name, "?", "?", None, problem)
        return replace(each.info(), name=each.name, compile_targets=tuple(each.compile_targets))
    except Exception as error:  # as above
        return HostInfo(each.name, "?", "?", None, f"its info failed: {type(error).__name__}: {error}")


def _provider(plugin: str) -> tuple[str, str]:
    """Distribution and version of a plugin, given by the name of its entry point."""
    if plugin.startswith("les_plugins."):
        return OURS, __version__
    for entry in importlib.metadata.entry_points(group=GROUP):
        if entry.name == plugin:
            distribution = getattr(entry, "dist", None)
            if distribution is not None:
                return distribution.name, distribution.version
            return entry.value.split(":")[0].split(".")[0], "?"
    return plugin, "?"


#: Provider of our own parts.
OURS = "les-plugins"


def _refuse_former_hooks(plugin: Any) -> None:
    for name, new in _FORMER_HOOKS.items():
        if hasattr(plugin, name):
            raise HostError(f"{name} is a hook of les-plugins 0.1; now it is {new} (docs/reference/hooks.md)")
