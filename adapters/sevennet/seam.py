"""What is SevenNet's own in a training with a long-range part: three substituted names, and its checkpoint files.

SevenNet has no plugin point. While its training script runs, three names stand for ours: the builder of the model and
the reader of an earlier run's checkpoint, in that script alone, and the function that makes graphs, which would have no
cell. Tests and the version range of the adapter guard the three.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from sevenn import model_build, util
from sevenn.atom_graph_data import AtomGraphData
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.logger import Logger
from sevenn.main.sevenn import global_config
from sevenn.nn.sequential import AtomGraphSequential
from sevenn.scripts import backward_compatibility, processing_continue
from sevenn.scripts import train as training_script
from sevenn.train import dataload

from les_plugins.adapters.sevennet.graphs import atoms_to_graph
from les_plugins.adapters.sevennet.model import build_model, last_layer, with_config, with_section
from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.hosting.build import parse_section
from les_plugins.hosting.section_name import SECTION
from les_plugins.hosting.substitution import substituted
from les_plugins.model.frozen import freeze

_ONE_TRAINING = threading.RLock()


class LongRangeSection(dict[str, Any]):
    """The `long_range:` section in the config of a SevenNet checkpoint.

    SevenNet alone would build a model without a long-range part from such a file. It reads every setting from a deep
    copy of the config, which this object refuses to take part in; `Checkpoint` takes the section out before.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_section, (json.dumps(dict(self)),)

    def __deepcopy__(self, memo: Any) -> LongRangeSection:
        raise HostError(
            "this SevenNet checkpoint has a long-range part, which SevenNet alone would drop: read it with "
            "les_plugins.adapters.sevennet.train.load_checkpoint, train on with les-plugins train sevennet, or use the "
            "folder that les-plugins wrote beside it (les_plugins.load)"
        )


def restore_section(text: str) -> LongRangeSection:
    """Called by pickle when a checkpoint with a long-range part is read; files name this function."""
    return LongRangeSection(json.loads(text))


class Checkpoint(SevenNetCheckpoint):  # type: ignore[misc]
    """A checkpoint of SevenNet, with a long-range part or without; `config` holds SevenNet's own settings."""

    _section: LongRangeConfig | None = None

    @property
    def section(self) -> LongRangeConfig | None:
        """The `long_range:` section that the file was trained with, None without one."""
        if not self._loaded:
            self._load()
        return self._section

    def build_model(self, **accelerators: Any) -> AtomGraphSequential:
        """The model with its weights, and with its long-range part.

        Raises:
            HostError: an accelerator is asked for, and there is a long-range part.
        """
        if self.section is None:
            return with_config(with_section(super().build_model(**accelerators), None, self.config), self.config)
        if asked := [name for name, wanted in accelerators.items() if wanted]:
            raise HostError(f"{asked[0]} has not been tested with a long-range part: read it without")
        model = build_model({**self.config, SECTION: self.section.to_dict()}, torch.get_default_dtype())
        state = backward_compatibility.patch_state_dict_if_old(self.model_state_dict, self.config, model)
        model.load_state_dict(state)
        return model

    def _load(self) -> None:
        super()._load()
        if (found := self._config.pop(SECTION, None)) is not None:
            self._section = parse_section(dict(found), f"{self.checkpoint_path}: {SECTION}")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint file of SevenNet, or a pretrained model by its name, in place of `sevenn.util.load_checkpoint`."""
    return Checkpoint(util.load_checkpoint(str(path)).checkpoint_path)


class Built:
    """The model that SevenNet's training script built last, and trains in place."""

    model: AtomGraphSequential | None = None


@contextmanager
def training(section: LongRangeConfig | None) -> Iterator[Built]:
    """While open, SevenNet's training script trains models with a long-range part; one training at a time.

    SevenNet keeps settings of a run in its modules; they are put back in the end, as the substituted names are.

    Args:
        section: the `long_range:` section, or None for SevenNet's own models.
    """
    built = Built()

    def build(config: dict[str, Any]) -> AtomGraphSequential:
        model = with_section(model_build.build_E3_equivariant_model(config), section, config)
        if section is not None:
            freeze(model, section.run.train_only, last_layer(model))
        built.model = with_config(model, config)  # a copy: SevenNet goes on with its own
        if section is not None:
            config[SECTION] = LongRangeSection(section.to_dict())  # for SevenNet's checkpoints
            Logger().writeline(f"{SECTION}: {section.to_dict()}")
        return model

    continuing = SimpleNamespace(**{**vars(util), "load_checkpoint": open_checkpoint})
    with _ONE_TRAINING, ExitStack() as stack:
        stack.enter_context(substituted(training_script, "build_E3_equivariant_model", build))
        stack.enter_context(substituted(processing_continue, "util", continuing))
        if section is not None:
            stack.enter_context(substituted(dataload, "atoms_to_graph", atoms_to_graph))
        stack.enter_context(_graphs_are_readable())
        settings = dict(global_config)
        try:
            yield built
        finally:
            global_config.clear()
            global_config.update(settings)


@contextmanager
def _graphs_are_readable() -> Iterator[None]:
    """torch reads SevenNet's graphs; 0.13 sees to that for "torch >= 2.4.0" as text, which 2.10 and later are not."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([AtomGraphData])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
