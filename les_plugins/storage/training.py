"""From a host's config file to a checkpoint: what `Host.train` of every adapter has in common."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from les_plugins.errors import (
    ConfigError,
    GeometryError,
    HostError,
    LesPluginsError,
    did_you_mean,
    in_one_line,
    innermost,
)
from les_plugins.storage.checkpoint import sha256


def check_keys(settings: Mapping[Any, Any], allowed: Collection[str], source: str) -> None:
    """Raise ConfigError for the first key that is not allowed; the message names a similar one, and all that are.

    Args:
        settings: a section of the user's file.
        allowed: keys that somebody reads.
        source: file and section, for the message.
    """
    for key in settings:
        if key not in allowed:
            raise ConfigError(
                f"{source}: unknown key {key!r}{did_you_mean(key, allowed)}; allowed: {', '.join(allowed)}"
            )


def check_section(value: Any, source: str) -> dict[Any, Any]:
    """The value, or ConfigError where it is no section of keys and values; `source` is its file and key."""
    if not isinstance(value, dict):
        raise ConfigError(f"{source} is {value!r}; expected a section of keys and values")
    return value


def check_number(
    given: Any, source: str, allowed: str = "", holds: Callable[[float], bool] = lambda value: True
) -> int | float:
    """A finite number of the user's file, also one that YAML took for text, as it does with 1e-3 without a point.

    Args:
        given: what stands there.
        source: file and key, for the message.
        allowed: which numbers, as the message ends: " above 0".
        holds: whether a number is one of them.

    Raises:
        ConfigError: something else.
    """
    value = given
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not holds(float(value)):
        raise ConfigError(f"{source} is {given!r}; allowed: a number{allowed}")
    # floats beyond 2⁵³ are all whole: an integer of as many digits is none that torch takes
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else value


def check_cutoff(value: Any, source: str) -> None:
    """Raise ConfigError for a cutoff that no host can use; `source` is its file and key."""
    if not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise ConfigError(f"{source} is {value!r}; allowed: a length in Å above 0")


class OptionParser(argparse.ArgumentParser):
    """For a host's own command-line options: what is wrong with them is a ConfigError, and no abbreviations are read.

    Args:
        command: the host's own command, which explains its options with --help.
    """

    def __init__(self, command: str) -> None:
        super().__init__(prog=command, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def plain_options(options: Mapping[Any, Any]) -> dict[str, Any]:
    """The options that say how a model was trained, for its metadata: JSON types, without paths of one machine."""
    kept: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            kept[str(key)] = plain_options(value)
        elif _is_plain(value):
            kept[str(key)] = value
        elif isinstance(value, list | tuple) and all(map(_is_plain, value)):
            kept[str(key)] = list(value)
    return kept


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and "/" not in value)


def file_facts(training: Iterable[Path], validation: Iterable[Path]) -> dict[str, Any]:
    """Names and hashes of the data files; to be taken before the training, which may last longer than they do."""
    sets = {"training_data": training, "validation_data": validation}
    return {key: [{"file": path.name, "sha256": sha256(path)} for path in paths] for key, paths in sets.items()}


@contextmanager
def fitting(program: str, source: Path) -> Iterator[None]:
    """A host's trainer runs inside; what it raises is a HostError in one line.

    Args:
        program: the trainer, as its users know it.
        source: the config file.
    """
    try:
        yield
    except Exception as error:  # hosts and torch raise whatever an option makes them
        if isinstance(error, LesPluginsError) and not isinstance(error, GeometryError):
            raise  # in our words already, whatever it came from
        reason = innermost(error)  # some hosts wrap what a model raises
        if isinstance(reason, GeometryError):  # every frame was looked at before: it comes from the weights
            hint = "the weights may have grown without bound: try a lower lr"
            raise HostError(f"{source}: {program} stopped with {in_one_line(reason)}; {hint}") from error
        if isinstance(reason, LesPluginsError):
            raise reason from None
        raise HostError(f"{source}: {program} stopped with {in_one_line(reason)}") from error


@contextmanager
def saving(target: Path, kept: Iterable[Path]) -> Iterator[None]:
    """The checkpoint of a trained model is written inside; where that fails, say which files of the host's own hold it.

    Args:
        target: the checkpoint's folder.
        kept: checkpoints that the host wrote itself.

    Raises:
        HostError: the checkpoint could not be written.
    """
    try:
        yield
    except Exception as error:  # nothing that happens here may lose the model
        names = ", ".join(sorted(path.name for path in kept)) or "none"
        raise HostError(
            f"{target}: the trained model could not be saved: {error}; checkpoints of the host beside it: {names}"
        ) from error
