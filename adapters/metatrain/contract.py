"""metatrain as the adapter contract sees it: tiny models, one evaluation, one training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import metatensor.torch as mts
import torch
import yaml
from ase import Atoms
from metatrain.utils.architectures import get_default_hypers, import_architecture
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info
from omegaconf import OmegaConf
from torch import nn

from les_plugins.adapters.metatrain.calculator import evaluate
from les_plugins.adapters.metatrain.state import read_tensor_maps, rebuild, take_apart
from les_plugins.storage.states import in_precision
from les_plugins.testing import AdapterContract, HostResult
from les_plugins.testing.training import train_in

#: Hyperparameters of a few thousand parameters, over metatrain's own.
TINY: dict[str, dict[str, Any]] = yaml.safe_load("""
pet: {d_pet: 8, d_node: 8, d_head: 8, d_feedforward: 8, num_heads: 2, num_attention_layers: 1, num_gnn_layers: 2}
soap_bpnn: {soap: {max_angular: 2, max_radial: 2}, bpnn: {num_hidden_layers: 1, num_neurons_per_layer: 8}}
""")


class PETContract(AdapterContract):
    """A PET of two layers."""

    host: ClassVar[str] = "metatrain"
    model_name: ClassVar[str] = "pet"
    skips: ClassVar[Mapping[str, str]] = {
        "test_energy_is_invariant_and_moments_and_forces_follow": "PET itself is not invariant under rotation: it "
        "learns the symmetry from turned structures",
    }

    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """With a composition and a scale, which may not touch the long-range energy."""
        return tiny_model(self.model_name, seed).to(dtype)

    def make_other_model(self) -> nn.Module:
        """With carbon."""
        return tiny_model(self.model_name, elements=(1, 6, 8), cutoff=3.0).double()

    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        """In evaluation mode always: in training metatrain's models leave composition and scale out."""
        return evaluate(model.eval(), frames, keep_graph=training)

    def in_float64(self, model: nn.Module) -> nn.Module:
        """By way of its state: the TorchScript functions of a SOAP-BPNN cannot be copied."""
        return rebuild(in_precision(take_apart(model), "dtype", "float64"))

    def refusals(self, model: nn.Module) -> Mapping[str, Callable[[], object]]:
        """What would be done with the bare model."""
        some: Any = model
        return {"export to metatomic": some.export, "a checkpoint of metatrain's": some.get_checkpoint}

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        """Two epochs of metatrain's own trainer."""
        settings = {**training_settings(self.model_name), self.section_name: dict(section)}
        return train_in(folder, self.host, frames, settings)


class SoapBpnnContract(PETContract):
    """A SOAP-BPNN, which is invariant."""

    model_name: ClassVar[str] = "soap_bpnn"
    skips: ClassVar[Mapping[str, str]] = {}


def tiny_model(architecture: str, seed: int = 0, elements: Sequence[int] = (1, 8), cutoff: float = 3.5) -> nn.Module:
    """A bare model with random weights, composition and scale."""
    torch.manual_seed(seed)
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"}, True, True)
    info = DatasetInfo("angstrom", list(elements), {"energy": energy})
    model = import_architecture(architecture).__model__(tiny_hypers(architecture, cutoff), info)
    for part, name, value in (
        (model.additive_models[0], "energy_composition_buffer", -1.25),
        (model.scaler, "energy_scaler_buffer", 1.75),
        (model.scaler, "energy_per_target_scaler_buffer", 1.75),
    ):
        ones = mts.ones_like(mts.load_buffer(getattr(part, name)))
        setattr(part, name, mts.save_buffer(mts.multiply(ones, value)))
    read_tensor_maps(model)
    return model.eval()  # type: ignore[no-any-return]


def tiny_hypers(architecture: str, cutoff: float) -> dict[str, Any]:
    """metatrain's own hyperparameters of a model, those of `TINY` and the cutoff over them."""
    own = {"cutoff": cutoff} if architecture == "pet" else {"soap": {"cutoff": {"radius": cutoff, "width": 0.5}}}
    merged = OmegaConf.merge(get_default_hypers(architecture)["model"], TINY[architecture], own)
    return OmegaConf.to_container(merged)  # type: ignore[return-value]


def training_settings(architecture: str) -> dict[str, Any]:
    """An options file for train.extxyz and valid.extxyz: a training of seconds."""
    training = {"num_epochs": 2, "batch_size": 2, "num_workers": 0}
    hypers = {"name": architecture, "model": tiny_hypers(architecture, 3.5), "training": training}
    data = {"training_set": "train.extxyz", "validation_set": "valid.extxyz"}
    return {"architecture": hypers, "device": "cpu", "seed": 1, **data}


#: Of every kind of model; `les-plugins check metatrain` runs them.
CONTRACTS = (PETContract, SoapBpnnContract)
