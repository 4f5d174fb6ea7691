"""Adapter of TinySchNet, whole: the host, the model with its long-range part, its calculator. No host import here."""

import importlib.metadata

import torch
from torch import nn

import les_plugins
from les_plugins.data.frames import check_elements, check_frame
from les_plugins.data.near_origin import near_origin
from les_plugins.data.training import read_labelled_frames
from les_plugins.errors import CheckpointError, HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.calculator import LONG_RANGE_PROPERTIES, born_results, latent_results
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.hosting.results import exact
from les_plugins.hosting.section_name import refuse_near_misses
from les_plugins.hosting.types import Host, HostInfo, HostState
from les_plugins.io.documents import read_yaml
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures


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


def feature_layout(model):
    layers = (LayerLayout(scalars=model.config["channels"]),) * model.config["layers"]
    return FeatureLayout(layers, cutoff=model.config["cutoff"], mean_neighbors=model.config["mean_neighbors"])


def node_features(model, data, output):
    from tiny_schnet.model import edge_vectors

    layers = output["node_features"].split(model.config["channels"], dim=1)
    return NodeFeatures([LayerFeatures(layer) for layer in layers], Edges(*data["edge_index"], edge_vectors(data)))


class TinySchNetHost(Host):
    name = "tiny_schnet"

    def info(self):
        return HostInfo.of_distribution("tiny_schnet", "les-tiny-schnet", ">=0.1,<0.2")

    def attach(self, model, config):
        if isinstance(model, LongRangeSchNet):
            raise HostError("this TinySchNet has a long-range part already")
        return LongRangeSchNet(model, config) if type(model).__module__ == "tiny_schnet.model" else None

    def calculator(self, model, metadata, device):
        from tiny_schnet.run import TinySchNetCalculator

        class Calculator(TinySchNetCalculator):  # in here, for its base is the host's
            implemented_properties = (*TinySchNetCalculator.implemented_properties, *LONG_RANGE_PROPERTIES)
            known_elements = tuple(model.config["elements"])

            def calculate(self, atoms=None, properties=("energy",), system_changes=()):
                check_frame(atoms, "structure")
                check_elements([atoms], self.known_elements, "structure")
                super().calculate(near_origin(atoms), properties, system_changes)  # of models in float32
                if (latent := self.output.get("latent")) is not None:
                    epsilon = self.model.long_range.config.epsilon_infinity
                    args = *map(self.batch.get, ("positions", "cell", "pbc")), epsilon
                    self.results.update(latent_results(latent, *args))
                    self.results["short_range_energy"] = self.results["energy"] - self.results["long_range_energy"]
                    if "born_effective_charges" in properties:
                        self.results["born_effective_charges"] = born_results(latent, *args)
                self.results = exact(self.results)

        return Calculator(model, device)

    def state(self, model):
        versions = {name: importlib.metadata.version(name) for name in ("les-tiny-schnet", "torch")}
        tensors = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        arguments = {**model.config, "dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}
        section = model.long_range.config if isinstance(model, LongRangeSchNet) else None
        return HostState(self.name, versions, arguments, section, tensors)

    def rebuild(self, state):
        from tiny_schnet.model import TinySchNet

        try:
            arguments = dict(state.model)
            dtype = {"float32": torch.float32, "float64": torch.float64}[arguments.pop("dtype")]
            model = TinySchNet(**arguments).to(dtype)
            model = model if state.long_range is None else LongRangeSchNet(model, state.long_range)
            model.load_state_dict(dict(state.tensors))
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"this is not a TinySchNet of this version: {error}") from None
        return model

    def train(self, config_file, arguments, metadata):
        from tiny_schnet.model import TinySchNet
        from tiny_schnet.run import train

        config = read_yaml(config_file)
        refuse_near_misses(config, str(config_file))  # this host reads the keys that it knows and no others
        les_plugins.storage.checkpoint.check_target(config["checkpoint"])  # before hours of training, not after
        frames = read_labelled_frames(config_file.parent / config["data"])
        model = TinySchNet(**config["model"]).double()
        model = les_plugins.attach(model, config["long_range"]) if "long_range" in config else model
        train(model, frames, config["epochs"], config["learning_rate"])
        return les_plugins.save(model, config["checkpoint"], self.name, metadata, frames)

    def contract(self):
        from les_tiny_schnet.contract import TinySchNetContract

        return [TinySchNetContract]


@hookimpl
def les_hosts():
    return [TinySchNetHost()]
