"""Adapter of TinyForces, whose `forward` returns forces: the sum is made before the derivative, on our own leaves."""

import threading

import torch
from tiny_forces.model import TinyForces, edge_vectors, make_batch
from tiny_forces.model import train as host_train
from torch import nn

from les_plugins.data.training import read_labelled_frames
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.evaluated import EvaluatedCalculator, HostResult
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import dtype_name, dtype_of, rebuilt, state_of
from les_plugins.training import TrainingRun

_ONE_THREAD = threading.Lock()


def feature_layout(model):
    settings = model.settings
    layers = (LayerLayout(scalars=settings["channels"], vectors=settings["channels"]),)
    return FeatureLayout(layers, cutoff=settings["cutoff"], mean_neighbors=settings["mean_neighbors"])


class LongRangeForces(nn.Module):
    """A TinyForces and a long-range part, called as the former is; the host's own forces are not used."""

    def __init__(self, model, config):
        super().__init__()
        self.base, self.settings = model, model.settings
        self.long_range = build_long_range(feature_layout(model), config).to(next(model.parameters()).dtype)

    def forward(self, batch):
        positions = batch["positions"].requires_grad_(True)
        strain = torch.zeros_like(batch["cell"]).requires_grad_(True)
        symmetric = torch.eye(3, dtype=strain.dtype, device=strain.device) + 0.5 * (strain + strain.transpose(1, 2))
        moved = (positions[:, None] @ symmetric[batch["batch"]])[:, 0]
        strained = {**batch, "positions": moved, "cell": batch["cell"] @ symmetric}
        output = self._host(strained)
        edges = Edges(*batch["edge_index"], edge_vectors(batch, moved, strained["cell"]))
        features = NodeFeatures([LayerFeatures(output["scalars"], output["vectors"])], edges)
        latent = self.long_range(features, moved, strained["cell"], batch["pbc"], batch["batch"])
        energy = output["energy"] + latent.energy.to(output["energy"].dtype)
        atomic = output["atomic_energy"] + latent.atomic_energy.to(energy.dtype)
        slopes = torch.autograd.grad(energy.sum(), (positions, strain), create_graph=self.training)
        volume = torch.linalg.det(batch["cell"]).abs().clamp(min=1e-9)[:, None, None]
        found = {"energy": energy, "atomic_energy": atomic, "forces": -slopes[0], "stress": slopes[1] / volume}
        return {**output, **found, "latent": latent}

    def _host(self, batch):
        """The host frees the graph of its energy after its own derivative, but not in training."""
        with _ONE_THREAD:
            before = self.base.training
            try:
                return self.base.train(True)(batch)
            finally:
                self.base.train(before)


class Calculator(EvaluatedCalculator):
    """The host has none."""

    def __init__(self, model, metadata=None, device="cpu"):
        super().__init__(model, model.settings["elements"], metadata, device)

    def evaluate(self, frames):
        device = next(self.model.parameters()).device
        batch = {name: value.to(device) for name, value in make_batch(frames, self.model).items()}
        output = self.model(batch)
        names = ("energy", "atomic_energy", "forces", "stress")
        return HostResult(*(output[name] for name in names), positions=batch["positions"])


def state(model):
    arguments = {**model.settings, "dtype": dtype_name(model)}
    return state_of("tiny_forces", model, arguments, section_of(model), ("les-tiny-forces", "torch"))


def rebuild(state):
    WeightSizes(state.tensors).cutoff("model.cutoff", state.model.get("cutoff"))

    def build():
        arguments = dict(state.model)
        model = TinyForces(**{key: value for key, value in arguments.items() if key != "dtype"})
        model = model.to(dtype_of(arguments["dtype"]))
        return model if state.long_range is None else LongRangeForces(model, state.long_range)

    return rebuilt(state, build, "TinyForces of this version")


class Training(TrainingRun):
    host = "tiny_forces"
    keys = ("model", "data", "epochs", "learning_rate", "checkpoint")

    def target(self):
        return self.path("checkpoint")

    def read_frames(self):
        return read_labelled_frames(self.path("data"))

    def files(self):
        return [self.path("data")], []

    def fit(self):
        torch.manual_seed(0)
        model = TinyForces(**self.settings["model"]).double()
        model = model if self.long_range is None else LongRangeForces(model, self.long_range)
        self.facts["loss"] = host_train(model, self.frames, self.settings["epochs"], self.settings["learning_rate"])
        return model.eval()


train = Training.train
