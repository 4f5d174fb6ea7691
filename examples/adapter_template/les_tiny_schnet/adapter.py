"""Adapter of TinySchNet: the model with its long-range part, its calculator, its checkpoint, its trainer."""

import tiny_schnet.model
import tiny_schnet.run
from torch import nn

from les_plugins import api
from les_plugins.data.training import read_labelled_frames
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import dtype_name, dtype_of, rebuilt, state_of
from les_plugins.training import TrainingRun


def feature_layout(model):
    layers = (LayerLayout(scalars=model.config["channels"]),) * model.config["layers"]
    return FeatureLayout(layers, cutoff=model.config["cutoff"], mean_neighbors=model.config["mean_neighbors"])


def node_features(model, batch, output):
    layers = output["node_features"].split(model.config["channels"], dim=1)
    edges = Edges(*batch["edge_index"], tiny_schnet.model.edge_vectors(batch))
    return NodeFeatures([LayerFeatures(layer) for layer in layers], edges)


class LongRangeSchNet(nn.Module):
    """A TinySchNet and a long-range part, called as the former is: the host differentiates the sum."""

    def __init__(self, base, config):
        super().__init__()
        self.base, self.config = base, base.config
        self.long_range = build_long_range(feature_layout(base), config).to(next(base.parameters()).dtype)

    def forward(self, batch):
        output = self.base(batch)
        geometry = (batch[name] for name in ("positions", "cell", "pbc", "batch"))
        latent = self.long_range(node_features(self.base, batch, output), *geometry)
        for name in ("energy", "atomic_energy"):
            output[name] = output[name] + getattr(latent, name).to(output[name].dtype)
        return {**output, "latent": latent}


def attach(model, config):
    return LongRangeSchNet(model, config)


class Calculator(LongRangeCalculator, tiny_schnet.run.TinySchNetCalculator):
    def __init__(self, model, metadata=None, device="cpu"):
        super().__init__(model, device)
        self.adopt(getattr(model, "long_range", None), model.config["elements"], metadata)

    def evaluate_host(self, atoms, properties, system_changes):
        super().evaluate_host(self.near(atoms), properties, system_changes)  # of models in float32


def state(model):
    arguments = {**model.config, "dtype": dtype_name(model)}
    return state_of("tiny_schnet", model, arguments, section_of(model), ("les-tiny-schnet", "torch"))


def rebuild(state):
    WeightSizes(state.tensors).cutoff("model.cutoff", state.model.get("cutoff"))

    def build():
        arguments = dict(state.model)
        dtype = dtype_of(arguments.pop("dtype"))
        model = tiny_schnet.model.TinySchNet(**arguments).to(dtype)
        return model if state.long_range is None else LongRangeSchNet(model, state.long_range)

    return rebuilt(state, build, "TinySchNet of this version")


class Training(TrainingRun):
    host = "tiny_schnet"
    keys = ("model", "data", "epochs", "learning_rate", "checkpoint")

    def target(self):
        return self.path("checkpoint")

    def read_frames(self):
        return read_labelled_frames(self.path("data"))

    def files(self):
        return [self.path("data")], []

    def fit(self):
        model = tiny_schnet.model.TinySchNet(**self.settings["model"]).double()
        model = model if self.long_range is None else api.attach(model, self.long_range)
        tiny_schnet.run.train(model, self.frames, self.settings["epochs"], self.settings["learning_rate"])
        return model


train = Training.train
