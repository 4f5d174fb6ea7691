"""TinySchNet as the adapter contract sees it: a tiny model, one evaluation, one training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import torch
import yaml
from ase import Atoms
from tiny_schnet.model import TinySchNet
from tiny_schnet.run import evaluate, make_batch
from torch import nn

from les_plugins.hosting import registry as plugins
from les_plugins.testing import AdapterContract, HostResult


class TinySchNetContract(AdapterContract):
    host = "tiny_schnet"

    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        torch.manual_seed(seed)
        return TinySchNet().to(dtype)

    def make_other_model(self) -> nn.Module:
        return TinySchNet(elements=(1, 6, 8), cutoff=3.0, mean_neighbors=6.0).double()

    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        batch = make_batch(frames, model.config["cutoff"], next(model.parameters()).dtype)
        output = evaluate(model, batch, training)
        names = ("energy", "atomic_energy", "forces", "stress")
        return HostResult(*(output[name] for name in names), positions=batch["positions"])

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        ase.io.write(folder / "train.extxyz", frames)
        settings = {"model": {}, "data": "train.extxyz", "epochs": 2, "learning_rate": 0.01, "checkpoint": "tiny.les"}
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({**settings, self.section_name: dict(section)}))
        metadata = {"data_licence": "none"}
        return plugins.host(self.host).train(config, (), metadata)
