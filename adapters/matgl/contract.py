"""MatGL as the adapter contract sees it: tiny models, one evaluation, one training. Called by `les-plugins check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from ase import Atoms, units
from matgl.apps.pes import Potential
from matgl.graph.data import collate_fn_pes
from torch import Tensor, nn

from les_plugins.adapters.matgl.architectures import ARCHITECTURES
from les_plugins.adapters.matgl.graphs import Converter, host_dtype
from les_plugins.adapters.matgl.model import atomic_energies
from les_plugins.testing import AdapterContract, HostResult, waters
from les_plugins.testing.training import in_mode, train_in

SPECIES = ("H", "O")
CUTOFF = 3.5
#: Arguments of the host's classes: a few thousand parameters.
HOST_MODELS: dict[str, dict[str, Any]] = yaml.safe_load("""
TensorNet: {units: 6, nblocks: 1, num_rbf: 6, use_warp: false}
M3GNet:
  {
    dim_node_embedding: 8, dim_edge_embedding: 8, units: 8, nblocks: 2, max_n: 2, max_l: 2,
    threebody_cutoff: 2.5, use_smooth: true,
  }
""")
_TRAINER = """
{
  max_epochs: 1, batch_size: 2, accelerator: cpu, save_path: run, loader_kwargs: {num_workers: 0},
  trainer_kwargs: {enable_progress_bar: false},
}
"""
#: Scale and references of the tiny potentials, which may not touch the long-range energy. No data_mean: MatGL adds it
#: once a structure, and a doubled supercell would not have twice the energy.
SCALING: dict[str, Any] = {"data_std": 1.7, "element_refs": [-1.0, -3.0]}


class TensorNetContract(AdapterContract):
    """A Potential of a TensorNet of one layer."""

    host: ClassVar[str] = "matgl"
    model_name: ClassVar[str] = "TensorNet"
    slabs: ClassVar[bool] = False

    def make_other_model(self) -> nn.Module:
        """With carbon."""
        energies = tiny_model(self.model_name, element_types=("H", "C", "O"), cutoff=3.0)
        potential: nn.Module = Potential(energies, calc_stresses=True, data_std=1.7, element_refs=[-1.0, -2.0, -3.0])
        return potential.double().eval()

    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Potential and energy model through the host's own classes."""
        return tiny_potential(self.model_name, seed, dtype)

    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        """Through MatGL's converter and collation."""
        graph, lattice = batch_of(frames, next(model.parameters()).dtype)
        inner: Any = model.model
        positions: list[Tensor] = []
        # Potential keeps the tensor that it differentiates by to itself
        kept = inner.register_forward_pre_hook(
            lambda module, inputs, named: positions.append(named["g"].pos), with_kwargs=True
        )
        with kept, in_mode(model, training):
            energy, forces, stress, _ = model(graph, lattice)
        atomic = atomic_energies(model, graph.node_type, graph.batch)
        return HostResult(energy.view(-1), atomic, forces, stress.view(-1, 3, 3) * units.GPa, positions[0])

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        """One epoch of MGLPotentialTrainer."""
        settings = {**training_settings(self.model_name, None), self.section_name: dict(section)}
        return train_in(folder, self.host, frames, settings)

    def refusals(self, model: nn.Module) -> Mapping[str, Callable[[], object]]:
        """Calls without cell or scale."""
        graph, _ = batch_of([waters(1)], torch.float64)
        inner: Any = model.model
        far = waters(1)
        far.set_cell([50.0, 50.0, 50.0])
        lonely, cell = batch_of([far[:1]], torch.float64)
        return {
            "the energy model without a Potential": lambda: inner(g=graph),
            "stress of a periodic structure without pairs": lambda: model(lonely, cell),
        }


class M3GNetContract(TensorNetContract):
    """A Potential of an M3GNet of two layers, whose features are scalars: edge heads."""

    model_name: ClassVar[str] = "M3GNet"


def tiny_model(architecture: str = "TensorNet", seed: int = 0, **changes: Any) -> nn.Module:
    """A bare energy model with random weights."""
    torch.manual_seed(seed)
    settings = {**HOST_MODELS[architecture], "is_intensive": False, "cutoff": CUTOFF, "element_types": SPECIES}
    return ARCHITECTURES[architecture].kind(**{**settings, **changes})


def tiny_potential(
    architecture: str = "TensorNet", seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any
) -> nn.Module:
    """A Potential of it with a scale, a shift and references, in evaluation mode."""
    model: nn.Module = Potential(tiny_model(architecture, seed, **changes), calc_stresses=True, **SCALING)
    return model.to(dtype).eval()


def batch_of(frames: Sequence[Atoms], dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor]:
    """Graph and lattice of some frames as one batch, made with MatGL's own converter and collation."""
    with host_dtype(dtype):
        converter = Converter(SPECIES, CUTOFF)
        items = []
        for atoms in frames:
            graph, lattice, state = converter.get_graph(atoms)
            labels = {"energies": 0.0, "forces": torch.zeros(len(atoms), 3, dtype=dtype)}
            items.append((graph, lattice, torch.as_tensor(state), labels))
        batch, lattices, *_ = collate_fn_pes(items, include_stress=False)
    return batch, lattices


def training_settings(architecture: str, section: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings of `les-plugins train matgl` for train.extxyz and valid.extxyz: a training of seconds."""
    settings: dict[str, Any] = {
        "dataset": {"train": "train.extxyz", "valid": "valid.extxyz"},
        "model": {"architecture": architecture, "cutoff": CUTOFF, **HOST_MODELS[architecture]},
        "trainer": yaml.safe_load(_TRAINER),
    }
    return settings if section is None else {**settings, "long_range": dict(section)}


#: Of every kind of model; `les-plugins check matgl` runs them.
CONTRACTS = (TensorNetContract, M3GNetContract)
