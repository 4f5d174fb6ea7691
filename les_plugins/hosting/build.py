"""The long-range part of a section: heads, solver and response by the names that it gives. Every adapter calls it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics.response.choice import takes_pairs
from les_plugins.errors import CheckpointError, ConfigError, LesPluginsWarning, did_you_mean, quoted
from les_plugins.hosting.registry import OURS, Offered, heads, responses, solvers
from les_plugins.hosting.types import Part
from les_plugins.model.features import FeatureLayout
from les_plugins.model.long_range import LongRange


def build_long_range(layout: FeatureLayout, config: LongRangeConfig) -> LongRange:
    """The long-range part of a model.

    Args:
        layout: the host's features.
        config: the `long_range:` section.

    Raises:
        ConfigError: a part that no installed plugin brings, or that cannot be made of this section; a response with
            a solver that has no `response_model`.
    """
    chosen = _chosen(config, "long_range")
    layer = chosen["solver"].factory(config)
    if config.has_response:
        if not hasattr(layer, "response_model"):
            raise ConfigError(
                f"long_range: the solver {config.run.method!r} (run.method) has no response; leave `response` out, or "
                "take another solver"
            )
        layer.response_model = chosen["response"].factory(config)
    if config.response.charge == "pairs":
        _check_pairs(layer, config)
    return LongRange(chosen["heads"].factory(layout, config), layer, config)


def _check_pairs(layer: Any, config: LongRangeConfig) -> None:
    """Refuse solvers and responses of others that do not know charge that flows over pairs."""
    if "pair_softness" not in inspect.signature(layer.forward).parameters:
        raise ConfigError(
            f"run.method is {config.run.method}, which takes no response.charge: pairs; allowed: onsite, false"
        )
    if not takes_pairs(layer.response_model):
        raise ConfigError(
            f"response.solve is {config.response.solve}, which takes no charge: pairs; allowed: onsite, false"
        )


def parse_section(section: Any, source: str) -> LongRangeConfig:
    """The config of a `long_range:` section, whose parts are all there; trainers call it before they begin.

    Args:
        section: the mapping, or a config.
        source: file or key that the section came from, for the message.

    Raises:
        ConfigError: an unknown key, a wrong type or a part that no installed plugin brings; names key and file.
    """
    config = LongRangeConfig.parse(section, source)
    _chosen(config, source)
    return config


def parts_of(config: LongRangeConfig) -> dict[str, Part]:
    """Which heads, solver and response a section selects, and who provides them; a checkpoint keeps it.

    Raises:
        ConfigError: a part that no installed plugin brings.
    """
    return {kind: offered.part for kind, offered in _chosen(config, "long_range").items()}


def check_parts(saved: Any, config: LongRangeConfig, source: str) -> None:
    """Compare the parts that a checkpoint was saved with to those that are installed.

    Args:
        saved: `parts` of the checkpoint's config.json; None in checkpoints of before, all of whose parts are ours.
        config: its `long_range:` section.
        source: the file, for the message.

    Raises:
        CheckpointError: a part is not installed, or another distribution's has its name; says what to install.

    Warns:
        LesPluginsWarning: a third party's part is of another version.
    """
    if not isinstance(saved, Mapping | None):
        raise CheckpointError(f"{source}: parts is {quoted(saved)}; expected a section")
    for kind, (key, name, found) in _selected(config).items():
        record = (saved or {}).get(kind, {"name": name, "provider": OURS})
        if not isinstance(record, Mapping) or not isinstance(provider := record.get("provider"), str):
            raise CheckpointError(f"{source}: parts.{kind} is {quoted(record)}; expected name, provider and version")
        if record.get("name") != name:
            raise CheckpointError(f"{source}: parts.{kind} is {quoted(record.get('name'))}, in long_range it is {name}")
        hint = "" if provider == OURS else f": pip install {quoted(provider)}"
        version = f" {record['version']}" if isinstance(record.get("version"), str) else ""
        wanted = f"{source}: the {kind} {name!r} ({key}) is of {provider}{version:.80}"
        if name not in found:
            raise CheckpointError(f"{wanted}, which is not installed{hint}")
        installed = found[name].part
        if installed.provider != provider:
            raise CheckpointError(f"{wanted}; installed is one of that name of {installed.provider}{hint}")
        if provider != OURS and record.get("version") != installed.version:
            warnings.warn(
                f"{wanted}; installed is {installed.version}, which may give other energies: compare some frames",
                LesPluginsWarning,
                2,
            )


def _selected(config: LongRangeConfig) -> dict[str, tuple[str, str, Mapping[str, Offered]]]:
    """Kind of part → its key in the section, the name there, and all that are installed."""
    return {
        "heads": ("heads", config.heads, heads()),
        "solver": ("run.method", config.run.method, solvers()),
        "response": ("response.solve", config.response.solve, responses()),
    }


def _chosen(config: LongRangeConfig, source: str) -> dict[str, Offered]:
    chosen = {}
    for kind, (key, name, found) in _selected(config).items():
        if name not in found:
            raise ConfigError(
                f"{source}: {key} is {quoted(name)}{did_you_mean(name, found)}; allowed with what is installed: "
                + ", ".join(found)
            )
        chosen[kind] = found[name]
    return chosen
