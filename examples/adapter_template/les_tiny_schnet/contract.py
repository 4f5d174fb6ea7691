"""TinySchNet as the adapter contract sees it: a tiny model, one evaluation, one training."""

import ase.io
import torch
import yaml
from tiny_schnet.model import TinySchNet
from tiny_schnet.run import evaluate, make_batch

from les_plugins.hosting import registry
from les_plugins.testing import AdapterContract, HostResult


class TinySchNetContract(AdapterContract):
    host = "tiny_schnet"

    def make_model(self, seed=0, dtype=torch.float64):  # a bare model for H and O, weights fixed by the seed
        torch.manual_seed(seed)
        return TinySchNet().to(dtype)

    def make_other_model(self):  # for H, C and O, with another cutoff and another mean number of neighbours
        return TinySchNet(elements=(1, 6, 8), cutoff=3.0, mean_neighbors=6.0).double()

    def evaluate(self, model, frames, training=False):  # one batch
        batch = make_batch(frames, model.config["cutoff"], next(model.parameters()).dtype)
        output = evaluate(model, batch, training)
        names = ("energy", "atomic_energy", "forces", "stress")
        return HostResult(*(output[name] for name in names), positions=batch["positions"])

    def train(self, folder, frames, section):  # write data and config, return the checkpoint
        ase.io.write(folder / "train.extxyz", frames)
        settings = {"model": {}, "data": "train.extxyz", "epochs": 2, "learning_rate": 0.01, "checkpoint": "tiny.les"}
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({**settings, self.section_name: dict(section)}))
        return registry.host(self.host).train(config, (), {"data_licence": "none"})
