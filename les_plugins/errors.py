"""The one exception family. Every message names what was given, what is allowed, and the file or key it came from."""

from __future__ import annotations

import difflib
import reprlib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Longest message, in characters: a file may hold megabytes in the place of a number.
LONGEST_MESSAGE = 4000
#: Longest value that a message quotes.
LONGEST_VALUE = 200


class LesPluginsError(Exception):
    """Anything les-plugins refuses; the command line prints the message without a traceback."""

    def __str__(self) -> str:
        # not in __init__, which torch.compile would have to trace where the layer raises
        return shortened(super().__str__())


class ConfigError(LesPluginsError, ValueError):
    """A `long_range:` section or an option that cannot be used as written."""


class GeometryError(LesPluginsError, ValueError):
    """Positions, cell, boundary conditions or moments that the electrostatics cannot take."""


class DataError(LesPluginsError, ValueError):
    """A structure file that is missing, unreadable, unlabelled or holds what the model does not know."""


class CheckpointError(LesPluginsError):
    """A checkpoint that is damaged, incomplete, of another version, or not one of ours."""


class HostError(LesPluginsError, RuntimeError):
    """A host framework that is missing, of an unsupported version, or asked for what it cannot do."""


class DeviceError(LesPluginsError, RuntimeError):
    """A device was asked for that this machine does not have."""


class ResponseError(LesPluginsError, RuntimeError):
    """Induced moments that have no minimum, or were not found in the iterations allowed."""


class InterruptionError(LesPluginsError):
    """Ctrl-C or a signal ended a command; says what was kept and how to go on.

    Args:
        message: what was kept.
        exit_code: 128 and the number of the signal, as shells have it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LesPluginsWarning(UserWarning):
    """Something that is computed as asked for and is probably not meant; says what to do about it."""


def how_to_install(*extras: str) -> str:
    """The command that installs extras, as error messages give it; les-plugins is installed from a clone."""
    return f'pip install ".[{",".join(extras)}]" from a clone of les-plugins'


def in_one_line(error: BaseException) -> str:
    """What code of others raised, as one line; of an assertion without words, the line of code that failed."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not text and error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{last.line} ({Path(last.filename).name}, line {last.lineno})"
    return f"{type(error).__name__}: {text[:300]}"


def innermost(error: BaseException) -> BaseException:
    """The error that others were raised from: Hydra wraps what it calls into one that repeats the whole config."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


@contextmanager
def raising(kind: type[LesPluginsError], what: str) -> Iterator[None]:
    """Within it, what code of others raises is an error of ours: `what`, a colon, the reason in one line.

    Args:
        kind: of the error; those of the family pass as they are.
        what: file or key, and who cannot use it.
    """
    try:
        yield
    except LesPluginsError:
        raise
    except Exception as error:  # others raise whatever a strange value makes them
        raise kind(f"{what}: {in_one_line(innermost(error))}") from None


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """The text " (did you mean 'NAME'?)" where a name is like an allowed one, else nothing."""
    close = difflib.get_close_matches(str(name)[:LONGEST_VALUE], sorted(allowed), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def quoted(value: Any, longest: int = LONGEST_VALUE) -> str:
    """`repr` of a value for a message, cut to `longest` characters; nested and shared values are not written out."""
    short = reprlib.Repr()
    short.maxlevel, short.maxdict = 4, 12
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdeque = short.maxarray = 12
    short.maxstring = short.maxlong = short.maxother = longest
    try:
        return shortened(short.repr(value), longest)
    except Exception:  # an integer beyond Python's limit of digits, an object whose repr fails
        return f"a value of type {type(value).__name__} that cannot be written out"


def shortened(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """The text, or its beginning and its end with how much was left out between."""
    if len(text) <= longest:
        return text
    head = 2 * longest // 3
    tail = longest - head
    return f"{text[:head]} … ({len(text) - longest} characters left out) … {text[-tail:]}"
