"""The names of SevenNet that are substituted while a model with a long-range part is built, trained or read.

SevenNet has no plugin point. Its builder calls `model_build.patch_modules(layers, config)` last, for a training and for
a checkpoint alike: there the long-range part comes in, when the config has a `long_range` key. Its graphs have no cell:
for a training `atoms_to_graph` is substituted too. The version range of the adapter and a test guard both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sevenn._keys as keys
import torch
from sevenn import _const, model_build
from sevenn.train import collate, dataload

from les_plugins.adapters.sevennet import graphs
from les_plugins.errors import HostError
from les_plugins.hosting.build import parse_section

#: Our key in SevenNet's config.
SECTION = "long_range"
_opened = 0


class LongRangeSection(dict[str, Any]):
    """The `long_range:` section in the config of a SevenNet checkpoint.

    SevenNet would build the model of such a file without a long-range part, and loads some files with
    `strict=False`: so that the part can never be lost, this object refuses to be read outside of the seam.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_section, (json.dumps(dict(self)),)

    def __deepcopy__(self, memo: Any) -> LongRangeSection:
        return LongRangeSection(json.loads(json.dumps(dict(self))))


def restore_section(text: str) -> LongRangeSection:
    """Called by pickle when a checkpoint with a long-range part is read.

    Raises:
        HostError: it is SevenNet that reads, without us.
    """
    if not _opened:
        raise HostError(
            "this SevenNet checkpoint has a long-range part, which SevenNet alone would drop: read it with "
            "les_plugins.adapters.sevennet.train.load_checkpoint, train on with les-plugins train sevennet, or use the "
            "folder that les-plugins wrote beside it (les_plugins.load)"
        )
    return LongRangeSection(json.loads(text))


class Built:
    """The last model that was built while the seam was open: its layers, trained in place, and its config."""

    layers: Any = None
    config: dict[str, Any] | None = None


@contextmanager
def open_seam() -> Iterator[Built]:
    """While open, SevenNet builds a long-range part into every model whose config has a `long_range` key."""
    global _opened
    original, built = model_build.patch_modules, Built()

    def patch_modules(layers: Any, config: dict[str, Any]) -> Any:
        from les_plugins.adapters.sevennet.model import with_long_range, with_species_in_model_dtype

        layers = original(layers, config)
        if torch.get_default_dtype() is not torch.float32:
            layers = with_species_in_model_dtype(layers)
        if config.get(SECTION) is not None:
            section = parse_section(config[SECTION], SECTION)
            refuse_accelerators(config)
            with torch.random.fork_rng(devices=[]):
                # the host's own weights stay those of its seed, the heads' are others
                torch.manual_seed(torch.initial_seed() + 1)
                layers = with_long_range(layers, section, float(config[keys.CUTOFF]))
            config[SECTION] = LongRangeSection(section.to_dict())
        built.layers, built.config = layers, dict(config)  # SevenNet goes on using its own
        return layers

    model_build.patch_modules = patch_modules
    _opened += 1
    try:
        yield built
    finally:
        _opened -= 1
        model_build.patch_modules = original


@contextmanager
def open_training_seam() -> Iterator[Built]:
    """The same for a training: graphs get cell and pbc, and our key under `model` survives SevenNet's parser."""
    before = dataload.atoms_to_graph, collate.atoms_to_graph
    dataload.atoms_to_graph = collate.atoms_to_graph = graphs.atoms_to_graph
    _const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG[SECTION] = None
    try:
        with open_seam() as built:
            yield built
    finally:
        dataload.atoms_to_graph, collate.atoms_to_graph = before
        _const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG.pop(SECTION, None)


def refuse_accelerators(config: dict[str, Any]) -> None:
    """Raise HostError for a config that asks for another backend than e3nn."""
    asked = {
        "cuEquivariance": (config.get(keys.CUEQUIVARIANCE_CONFIG) or {}).get("use"),
        "FlashTP": config.get(keys.USE_FLASH_TP),
        "OpenEquivariance": config.get(keys.USE_OEQ),
    }
    for name, flag in asked.items():
        if flag:
            raise HostError(f"{name} has not been tested with a long-range part; it cannot be combined with {SECTION}")
