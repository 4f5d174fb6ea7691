"""Options of a host's own config file, each with its check: tables that adapters write, or that signatures give.

Hosts stumble over a wrong value hours later without saying where it stands, or train with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, TypeAlias

from les_plugins.errors import ConfigError
from les_plugins.storage.training import check_cutoff, check_keys, check_number, check_section

#: From a value and the place where it stands to the value that the host is given; raises ConfigError.
Check: TypeAlias = Callable[[Any, str], Any]


def anything(value: Any, where: str) -> Any:
    """For what the host checks itself."""
    return value


def number(allowed: str = "", holds: Callable[[float], bool] = lambda value: True, words: Sequence[Any] = ()) -> Check:
    """A finite number, also one that YAML took for text.

    Args:
        allowed: which numbers, as a message ends: " above 0".
        holds: whether a number is one of them.
        words: what else may stand there.
    """

    def check(value: Any, where: str) -> Any:
        return value if value in words else check_number(value, where, allowed, holds)

    return check


NOT_NEGATIVE: Check = number(" from 0 on", lambda value: value >= 0.0)
POSITIVE: Check = number(" above 0", lambda value: value > 0.0)
WHOLE: Check = number(" without a fraction, 1 or more", lambda value: value >= 1.0 and value.is_integer())


def one_of(*allowed: Any) -> Check:
    """One of some values."""

    def check(value: Any, where: str) -> Any:
        if value not in allowed:
            raise ConfigError(f"{where} is {value!r}; allowed: {', '.join(map(str, allowed))}")
        return value

    return check


def flag(value: Any, where: str) -> Any:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where} is {value!r}; allowed: true, false")
    return value


def cutoff(value: Any, where: str) -> Any:
    """A length in Å."""
    check_cutoff(value, where)
    return value


def structure_file(value: Any, where: str) -> Any:
    """The name of a file of frames, which has to be given."""
    if not isinstance(value, str):
        raise ConfigError(f"{where} is missing: give an extended XYZ file")
    return value


def arguments_of(host_class: Callable[..., Any], *without: str) -> dict[str, Check]:
    """Arguments of a host's class, each with the check that its default asks for.

    Args:
        host_class: whose signature is read; `**kwargs` are left out.
        without: arguments that are no options of the file, as patterns: "*config".

    Returns:
        Name → `flag`, `NOT_NEGATIVE` for numbers, `cutoff` for names that end so, or `anything`.
    """
    found = {}
    for name, argument in inspect.signature(host_class).parameters.items():
        if argument.kind != argument.VAR_KEYWORD and not any(fnmatch(name, pattern) for pattern in without):
            found[name] = _check_of(name, argument.default)
    return found


def check_options(section: Any, options: Mapping[str, Check], where: str) -> None:
    """Check a section and give it the values that its checks return.

    Args:
        section: of the user's file.
        options: every key that is allowed, with its check.
        where: file and section, for messages.

    Raises:
        ConfigError: no section, an unknown key, a value that is not allowed or a `structure_file` that is not given;
            names file and key.
    """
    check_keys(check_section(section, where), options, where)
    for key, check in options.items():
        if key in section or check is structure_file:
            section[key] = check(section.get(key), f"{where}.{key}")


def _check_of(name: str, default: Any) -> Check:
    if name.endswith("_cutoff"):
        return cutoff
    if isinstance(default, bool):
        return flag
    return NOT_NEGATIVE if isinstance(default, int | float) else anything
