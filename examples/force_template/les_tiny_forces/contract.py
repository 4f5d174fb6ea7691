"""TinyForces as the adapter contract sees it."""

import ase.io
import torch
import yaml
from tiny_forces.model import TinyForces, make_batch

from les_plugins.hosting import registry
from les_plugins.testing import AdapterContract, HostResult
from les_plugins.testing.training import in_mode


class TinyForcesContract(AdapterContract):
    host = "tiny_forces"

    def make_model(self, seed=0, dtype=torch.float64):
        torch.manual_seed(seed)
        return TinyForces().to(dtype)

    def make_other_model(self):
        return TinyForces(elements=(1, 6, 8), cutoff=3.0, mean_neighbors=6.0).double()

    def evaluate(self, model, frames, training=False):
        batch = make_batch(frames, model)
        with in_mode(model, training):
            output = model(batch)
        names = ("energy", "atomic_energy", "forces", "stress")
        return HostResult(*(output[name] for name in names), positions=batch["positions"])

    def train(self, folder, frames, section):
        ase.io.write(folder / "train.extxyz", frames)
        settings = {"model": {}, "data": "train.extxyz", "epochs": 2, "learning_rate": 0.01, "checkpoint": "tiny.les"}
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump({**settings, self.section_name: dict(section)}))
        return registry.host(self.host).train(config, (), {"data_licence": "none"})
