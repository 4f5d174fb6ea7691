"""SevenNet as the adapter contract sees it: a tiny model, one evaluation, one training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import sevenn
import sevenn._keys as keys
import torch
import yaml
from ase import Atoms
from sevenn import _const
from sevenn.calculator import SevenNetCalculator
from torch import nn
from torch_geometric.loader import DataLoader

from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
from les_plugins.adapters.sevennet.graphs import follow_positions, graph_of, stress_of
from les_plugins.adapters.sevennet.model import build_model
from les_plugins.testing import AdapterContract, HostResult, waters
from les_plugins.testing.training import in_mode, train_in

CUTOFF = 3.5
#: What a user writes under `model`: a few thousand parameters.
MODEL: dict[str, Any] = yaml.safe_load("""
{
  chemical_species: [H, O], cutoff: 3.5, channel: 4, lmax: 1, num_convolution_layer: 2, conv_denominator: 4.0,
  weight_nn_hidden_neurons: [8], radial_basis: {radial_basis_name: bessel, bessel_basis_num: 4},
  cutoff_function: {cutoff_function_name: poly_cut, poly_cut_p_value: 6},
}
""")
#: What SevenNet's parser and trainer make of it: elements as numbers, statistics of the data as numbers.
BUILT = {"_type_map": {1: 0, 8: 1}, "_number_of_species": 2, "shift": [-1.0, -3.0], "scale": 1.0}
#: A training of seconds, in the working directory.
_TRAINING = """
train:
  {
    device: cpu, epoch: 1, per_epoch: 1, optim_param: {lr: 0.01}, scheduler: exponentiallr,
    scheduler_param: {gamma: 0.99}, force_loss_weight: 1.0,
  }
data: {batch_size: 2, load_trainset_path: train.extxyz, load_validset_path: valid.extxyz}
"""


class SevenNetContract(AdapterContract):
    """A SevenNet of two layers, the first with vector features."""

    host: ClassVar[str] = "sevennet"

    def make_other_model(self) -> nn.Module:
        """With carbon."""
        built = {"_type_map": {1: 0, 6: 1, 8: 2}, "_number_of_species": 3, "shift": [-1.0, -2.0, -3.0]}
        return tiny_model(chemical_species=["H", "C", "O"], cutoff=3.0, conv_denominator=6.0, **built)

    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Through SevenNet's own builder."""
        return tiny_model(seed, dtype)

    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        """Through SevenNet's graphs and PyG's loader; edge vectors are made to follow the positions."""
        batch = batch_of(frames, next(model.parameters()).dtype)
        positions = follow_positions(batch)
        with in_mode(model, training):
            output = model(batch)
        return HostResult(
            output[keys.PRED_TOTAL_ENERGY],
            output[keys.ATOMIC_ENERGY].view(-1),
            output[keys.PRED_FORCE],
            stress_of(output),
            positions,
        )

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        """One epoch of SevenNet's own trainer."""
        return train_in(folder, self.host, frames, {**training_settings(), self.section_name: dict(section)})

    def refusals(self, model: nn.Module) -> Mapping[str, Callable[[], object]]:
        """Ways of SevenNet that hand over no cell, or take a model apart by its edges."""
        return {
            "SevenNetCalculator, whose graphs have no cell": lambda: _evaluated_by_sevennets_own(model),
            "TorchScript (sevenn get_model, LAMMPS)": lambda: torch.jit.script(model),
            "atomic virials": lambda: LesSevenNetCalculator(model, compute_atomic_virial=True),
            "cuEquivariance": lambda: LesSevenNetCalculator(model, enable_cueq=True),
        }


def model_config(**changes: Any) -> dict[str, Any]:
    """The config of a tiny model as SevenNet's builder takes it."""
    return {**_const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG, **MODEL, **BUILT, "version": sevenn.__version__, **changes}


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> nn.Module:
    """A bare model with random weights."""
    torch.manual_seed(seed)
    model: nn.Module = build_model(model_config(**changes), dtype).eval()
    return model


def batch_of(frames: Sequence[Atoms], dtype: torch.dtype = torch.float64) -> Any:
    """SevenNet's input of some frames."""
    graphs = [graph_of(atoms, CUTOFF, dtype) for atoms in frames]
    return next(iter(DataLoader(graphs, batch_size=len(graphs))))


def training_settings(**train: Any) -> dict[str, Any]:
    """The input.yaml of a training of seconds, with train.extxyz and valid.extxyz of the working directory."""
    settings: dict[str, Any] = yaml.safe_load(_TRAINING)
    return {"model": dict(MODEL), **settings, "train": {**settings["train"], **train}}


def _evaluated_by_sevennets_own(model: nn.Module) -> float:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No tensor product accelerator")  # a hint that suits large GPU runs
        calculator = SevenNetCalculator(model, "model_instance", device="cpu")
    energy: float = calculator.get_potential_energy(waters())
    return energy
