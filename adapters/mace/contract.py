"""MACE as the adapter contract sees it: a tiny model, one evaluation, one training. Called by `les-plugins check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from ase import Atoms
from mace import data
from torch import nn

from les_plugins.adapters.mace import graphs
from les_plugins.adapters.mace.state import build_base
from les_plugins.precision import default_dtype
from les_plugins.testing import AdapterContract, HostResult, waters
from les_plugins.testing.structures import ELEMENTS
from les_plugins.testing.training import train_in

CUTOFF = 3.5
#: Arguments of a ScaleShiftMACE, as a checkpoint has them.
MODEL: dict[str, Any] = yaml.safe_load("""
{
  r_max: 3.5, num_bessel: 4, num_polynomial_cutoff: 5, max_ell: 2, correlation: 2, num_interactions: 2,
  interaction_cls: RealAgnosticResidualInteractionBlock, interaction_cls_first: RealAgnosticResidualInteractionBlock,
  hidden_irreps: 4x0e+4x1o, MLP_irreps: 4x0e, gate: silu, avg_num_neighbors: 4.0,
  num_elements: 2, atomic_numbers: [1, 8], atomic_energies: [-1.0, -3.0],
  atomic_inter_scale: 1.0, atomic_inter_shift: 0.0,
}
""")
#: A training of seconds.
SETTINGS: dict[str, Any] = yaml.safe_load("""
{
  name: tiny, model: MACE, hidden_irreps: 4x0e + 4x1o, MLP_irreps: 4x0e, num_interactions: 2, correlation: 1,
  max_ell: 1, num_radial_basis: 4, radial_MLP: '[8, 8]', r_max: 3.0, E0s: average,
  energy_key: energy, forces_key: forces, batch_size: 2, valid_batch_size: 2, max_num_epochs: 1, ema: true,
  default_dtype: float64, device: cpu, pin_memory: false, plot: false,
}
""")


class MACEContract(AdapterContract):
    """A ScaleShiftMACE of two layers with vector features."""

    host: ClassVar[str] = "mace"
    sum_rule: ClassVar[float] = 0.05

    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Some thousand parameters."""
        return tiny_mace(seed, dtype)

    def make_other_model(self) -> nn.Module:
        """With carbon."""
        elements = {"num_elements": 3, "atomic_numbers": [1, 6, 8], "atomic_energies": [-1.0, -3.0, 0.0]}
        return tiny_mace(**elements, r_max=3.0, avg_num_neighbors=6.0)

    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        """Through MACE's AtomicData and data loader; stress of open structures is not asked for alone."""
        batch = batch_of(frames, next(model.parameters()).dtype)
        positions = batch["positions"]
        stress = not training and all(atoms.pbc.all() for atoms in frames)
        output = model(batch, training=training, compute_stress=stress)
        tensor = output["stress"] if stress else torch.zeros(len(frames), 3, 3, dtype=positions.dtype)
        return HostResult(output["energy"], output["node_energy"], output["forces"], tensor, positions)

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        """One epoch of mace_run_train."""
        files = {"train_file": "train.extxyz", "valid_file": "valid.extxyz"}
        return train_in(folder, self.host, frames, {**SETTINGS, **files, self.section_name: dict(section)})

    def refusals(self, model: nn.Module) -> Mapping[str, Callable[[], object]]:
        """What MACE's forward offers beside energies, forces and stress."""
        batch = batch_of([waters(1)], torch.float64)
        return {
            "LAMMPS ML-IAP": lambda: model(dict(batch), lammps_mliap=True),
            "edge forces": lambda: model(dict(batch), compute_edge_forces=True),
            "atomic stresses": lambda: model(dict(batch), compute_atomic_stresses=True),
            "a batch without pbc flags": lambda: model({k: v for k, v in batch.items() if k != "pbc"}),
        }


def tiny_mace(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> nn.Module:
    """A ScaleShiftMACE with random weights, a few thousand parameters; changes of `MODEL`."""
    torch.manual_seed(seed)
    with default_dtype(dtype):
        return build_base("ScaleShiftMACE", {**MODEL, **changes})


def batch_of(
    frames: Sequence[Atoms], dtype: torch.dtype = torch.float64, species: Sequence[int] = ELEMENTS
) -> dict[str, torch.Tensor]:
    """MACE's input of some frames."""
    keys = data.KeySpecification(info_keys={"total_charge": "total_charge"})
    batch: dict[str, torch.Tensor] = graphs.batch_of(frames, species, CUTOFF, dtype, keys=keys).to_dict()
    return batch
