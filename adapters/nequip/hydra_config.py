"""A NequIP config as `nequip-train` is going to see it: composed by Hydra, overrides and all; used by train.py."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from les_plugins.errors import ConfigError, raising
from les_plugins.hosting.substitution import substituted

_RUN_DIRECTORY = "hydra.run.dir="
_VALUE = re.compile(r"(?P<key>\+{0,2}[^=+~]+)=(?P<value>.*)", re.DOTALL)


def overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra can read them: values that it cannot, and names of files, are quoted.

    In Hydra's grammar of values =, brackets, commas, letters beyond ASCII and others mean something or nothing.

    Raises:
        ConfigError: an option of Hydra's command line, or an argument that is no override.
    """
    return [_override(argument) for argument in arguments if not argument.startswith(_RUN_DIRECTORY)]


def run_directory(config_file: Path, arguments: Sequence[str]) -> Path:
    """The folder of a run: that of a `hydra.run.dir=` override, or a new one under outputs/.

    The override is a path as it stands, unless it is quoted or holds an interpolation.

    Raises:
        ConfigError: a folder that OmegaConf would take for an interpolation.
    """
    given = str(Path("outputs", config_file.stem, datetime.now().strftime("%Y-%m-%d_%H-%M-%S")))
    for argument in arguments:
        if argument.startswith(_RUN_DIRECTORY):
            given = argument.removeprefix(_RUN_DIRECTORY)
            if given[:1] in ("'", '"') or "${" in given:
                config = _composed(config_file, [*overrides(arguments), argument])
                given = str(OmegaConf.select(config, "hydra.run.dir"))
    folder = Path(given).resolve()
    if "${" in str(folder):
        raise ConfigError(f"{folder}: a run folder of NequIP cannot have ${{ in its path, which begins a reference")
    return folder


@dataclass(frozen=True)
class ComposedConfig:
    """A config with its `defaults` and the overrides put together.

    Attributes:
        source: the file.
        config: with Hydra's own section, references not resolved.
    """

    source: Path
    config: DictConfig

    @classmethod
    def of_file(cls, config_file: Path, arguments: Sequence[str], folder: Path) -> ComposedConfig:
        """Read and compose a file as a run in a folder does.

        Raises:
            ConfigError: Hydra cannot read it; says why.
        """
        config = _composed(config_file, overrides(arguments))
        with read_write(config), open_dict(config):
            config.hydra.runtime.cwd, config.hydra.runtime.output_dir = os.getcwd(), str(folder)
        return cls(config_file, config)

    def plain(self) -> dict[str, Any]:
        """The user's settings in plain Python types, references not resolved."""
        found: Any = OmegaConf.to_container(self.config, resolve=False)
        return {key: value for key, value in found.items() if key != "hydra"}

    def resolved(self, section: str) -> Any:
        """A section with its references resolved, in plain Python types; None when it is absent.

        Args:
            section: its keys, joined by dots.

        Raises:
            ConfigError: a reference that leads nowhere.
        """
        hydra = HydraConfig.instance()
        with raising(ConfigError, f"{self.source}: {section}"), substituted(hydra, "cfg", hydra.cfg):
            hydra.set_config(self.config)  # for ${hydra:…}; the former one is back afterwards
            found = OmegaConf.select(self.config, section)
            return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def referenced(config: Mapping[Any, Any]) -> set[str]:
    """First names of all references in a config: keys of the user's own, which stand for something elsewhere."""
    return set(re.findall(r"\$\{([^}.:\[\s]+)", str(config)))


def _composed(config_file: Path, arguments: list[str]) -> DictConfig:
    if config_file.suffix != ".yaml":  # of others Hydra says that there is no such file
        raise ConfigError(f"{config_file}: the name of a NequIP config ends in .yaml")
    folder = str(config_file.resolve().parent)
    with (
        raising(ConfigError, f"{config_file}: Hydra cannot read it"),
        initialize_config_dir(config_dir=folder, version_base=None),
    ):
        return compose(config_name=config_file.name, overrides=arguments, return_hydra_config=True)


def _override(argument: str) -> str:
    match = _VALUE.fullmatch(argument)
    if argument.startswith("-") or (match is None and not argument.startswith("~")):
        raise ConfigError(f"argument {argument!r}; allowed: overrides of Hydra, such as trainer.max_epochs=10")
    if match is None:
        return argument
    value = match["value"]
    try:
        parsed = OverridesParser.create().parse_override(argument).value()
        plain = parsed is None or isinstance(parsed, bool | int | float) or parsed == value
        quote = not plain and not value.startswith(("'", '"')) and os.path.exists(value)
    except HydraException:
        quote = True
    return f"{match['key']}={QuotedString(text=value, quote=Quote.single).with_quotes()}" if quote else argument
