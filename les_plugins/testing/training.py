"""A training of seconds by the host's own trainer, and a model in its mode: adapter contracts call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.io
import yaml
from ase import Atoms
from torch import nn

from les_plugins.hosting import registry


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[nn.Module]:
    """The model in training or evaluation mode inside the block: in the latter some hosts free the graph."""
    before = model.training
    try:
        yield model.train(training)
    finally:
        model.train(before)


def train_in(folder: Path, host: str, frames: Sequence[Atoms], settings: Mapping[str, Any]) -> Path:
    """Train as `les-plugins train HOST --config config.yaml` does, and return the checkpoint.

    Args:
        folder: where train.extxyz, valid.extxyz (the last two frames) and config.yaml are written.
        host: name of the adapter.
        frames: labelled structures.
        settings: of the host's config file, with the section.
    """
    ase.io.write(folder / "train.extxyz", list(frames[:-2]))
    ase.io.write(folder / "valid.extxyz", list(frames[-2:]))
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
    written = registry.host(host).train(config, (), {"data_licence": "none"})
    assert written is not None, f"the trainer of {host} wrote no checkpoint"
    return written
