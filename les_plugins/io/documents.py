"""JSON and YAML files that somebody else wrote: read with limits, and every failure is an error that names the file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from les_plugins.errors import CheckpointError, ConfigError, quoted

#: Largest JSON document, bytes: metadata of a checkpoint are some 10 kB.
LARGEST_JSON = 16 * 2**20
#: Largest YAML file, bytes: PyYAML reads 100 kB a second.
LARGEST_YAML = 2**20
#: Values that a YAML file may stand for once its aliases are written out.
MOST_VALUES = 100_000
#: Levels of brackets in a document. Python's own limit is no guard: a library may have raised it, and then the parser,
#: which is compiled, overflows the stack of the process.
DEEPEST = 500


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint or of the zoo.

    Raises:
        CheckpointError: a file that is missing, too large or no JSON, no object in it, a key that is there twice.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path} is missing")
        document = parse_json(_text(path, LARGEST_JSON))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path} cannot be read: {error or type(error).__name__}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return document


def parse_json(text: str) -> Any:
    """What a JSON text stands for.

    Raises:
        ValueError: no JSON, a key that is given twice, nested too deeply.
    """
    _check_nesting(text, strings=True)
    return json.loads(text, object_pairs_hook=_no_key_twice)


def read_yaml(config_file: Path) -> dict[str, Any]:
    """Keys and values of a host's YAML file.

    Raises:
        ConfigError: a file that cannot be read, is no YAML, holds something else than keys and values, a key twice, or
            aliases that make it endless.
    """
    try:
        text = _text(config_file, LARGEST_YAML)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config_file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    settings = parse_yaml(text, str(config_file)) or {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{config_file}: expected keys and values, got {type(settings).__name__}")
    return settings


def parse_yaml(text: str, source: str) -> Any:
    """What a YAML text stands for.

    Args:
        text: the document.
        source: file or option that it came from, for the message.

    Raises:
        ConfigError: no YAML, a key that is given twice, or aliases that make it endless.
    """
    try:
        _check_nesting(text, strings=False)  # YAML has other strings too; none of them is full of open brackets
        value = yaml.load(text, Loader=_Loader)
        size = _written_out(value, {})
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply") from None
    except Exception as error:  # constructors of YAML raise whatever int(), float() and datetime do
        raise ConfigError(f"{source}: not valid YAML: {_one_line(error)}") from None
    if size > MOST_VALUES:
        raise ConfigError(f"{source}: its aliases stand for more than {MOST_VALUES} values")
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses keys that are given twice and merges that multiply."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        given = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in given and not getattr(node, "merged", False):
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {quoted(key.value)} is given twice", key.start_mark
                    )
                given.add((key.tag, key.value))
        super().flatten_mapping(node)
        node.merged = True  # type: ignore[attr-defined]
        if len(node.value) > MOST_VALUES // 10:
            raise yaml.constructor.ConstructorError(None, None, "merges more keys than allowed", node.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Names the place of a scalar that YAML takes for a date or a number and that is none."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:
            value = quoted(node.value) if isinstance(node, yaml.ScalarNode) else "a value"
            raise yaml.constructor.ConstructorError(None, None, f"{value}: {error}", node.start_mark) from None


def _text(path: Path, largest: int) -> str:
    """A regular file as UTF-8 text; OSError or ValueError where it is none, or too large."""
    if not path.is_file():
        raise OSError(None, "is not a file" if path.exists() else "no such file")
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"larger than {largest // 2**20} MiB")
    return data.decode("utf-8-sig")


def _check_nesting(text: str, strings: bool) -> None:
    """ValueError where brackets are nested beyond DEEPEST; with `strings`, those in double quotes do not count."""
    depth, in_string = 0, False
    for match in re.finditer(r'\\.|["\[{\]}]', text, re.DOTALL):
        token = match.group()
        if token == '"':
            in_string = strings and not in_string
        elif not in_string and token in "[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError("nested too deeply")
        elif not in_string and token in "]}":
            depth -= 1


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"key {quoted(twice)} is given twice")
    return document


def _written_out(value: Any, known: dict[int, int]) -> int:
    """How many values a document stands for when shared parts are written out; RecursionError where it is endless."""
    if not isinstance(value, Mapping | list | tuple | set):
        return 1
    if id(value) in known:
        if known[id(value)] == 0:
            raise yaml.constructor.ConstructorError(None, None, "an alias stands for what it is part of", None)
        return known[id(value)]
    known[id(value)] = 0
    items = [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)
    size = 1 + sum(_written_out(item, known) for item in items)
    known[id(value)] = size
    return size


def _one_line(error: Exception) -> str:
    """PyYAML's message, which spans several lines, in one."""
    return " ".join(str(error).split())
