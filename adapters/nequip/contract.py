"""NequIP and Allegro as the adapter contract sees them: tiny models, one evaluation, one training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import nequip.model  # noqa: F401 (registers NequIP's builders and extensions)
import torch
import yaml
from allegro.model import AllegroModel  # noqa: F401 (named in configs)
from ase import Atoms
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.utils.global_state import set_global_state
from torch import Tensor, nn

from les_plugins.adapters.nequip.builder import TARGET, LongRangeModel
from les_plugins.data.given_charge import total_charge_of
from les_plugins.precision import default_dtype
from les_plugins.testing import AdapterContract, HostResult, waters
from les_plugins.testing.training import in_mode, train_in

SPECIES = ["H", "O"]
CUTOFF = 3.5
#: Model sections of a few thousand parameters.
HOST_SECTIONS: dict[str, dict[str, Any]] = yaml.safe_load("""
nequip:
  _target_: nequip.model.NequIPGNNModel
  <<: &common
    {
      seed: 3, model_dtype: float64, type_names: [H, O], r_max: 3.5, l_max: 1, avg_num_neighbors: 4.0,
      per_type_energy_shifts: {H: -1.0, O: -3.0}, per_type_energy_scales: {H: 1.0, O: 1.0},
    }
  num_layers: 2
  num_features: 4
  radial_mlp_depth: 1
  radial_mlp_width: 8
  num_bessels: 4
allegro:
  _target_: allegro.model.AllegroModel
  <<: *common
  num_layers: 1
  num_scalar_features: 8
  num_tensor_features: 4
  allegro_mlp_hidden_layers_width: 8
  scalar_embed_mlp_hidden_layers_width: 8
  readout_mlp_hidden_layers_width: 8
  radial_chemical_embed:
    {_target_: allegro.nn.TwoBodyBesselScalarEmbed, num_bessels: 4, bessel_trainable: false, polynomial_cutoff_p: 6}
""")
#: A nequip-train config of seconds, without files and model.
_TRAINING = """
run: [train]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  include_keys: [charge]
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: [H, O]
      chemical_species_to_atom_type_map: {H: H, O: O}
    - {_target_: nequip.data.transforms.NeighborListTransform, r_max: 3.5}
  train_dataloader: &loader {_target_: torch.utils.data.DataLoader, batch_size: 2, num_workers: 0}
  val_dataloader: *loader
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  callbacks:
    - _target_: lightning.pytorch.callbacks.ModelCheckpoint
      monitor: val0_epoch/weighted_sum
      dirpath: ${hydra:runtime.output_dir}
      filename: best
      save_last: true
training_module:
  _target_: nequip.train.EMALightningModule
  ema_decay: 0.5
  loss:
    {_target_: nequip.train.EnergyForceLoss, per_atom_energy: true, coeffs: {total_energy: 1.0, forces: 1.0}}
  val_metrics: {_target_: nequip.train.EnergyForceMetrics, coeffs: {forces_rmse: 1.0}}
  optimizer: {_target_: torch.optim.Adam, lr: 0.01}
"""


class NequIPContract(AdapterContract):
    """A NequIP of two layers, the first with vector features."""

    host: ClassVar[str] = "nequip"
    model_name: ClassVar[str] = "nequip"

    def make_other_model(self) -> nn.Module:
        """With carbon."""
        shifts, scales = {"H": -1.0, "C": -2.0, "O": -3.0}, {"H": 1.0, "C": 1.0, "O": 1.0}
        settings = {"type_names": ["H", "C", "O"], "r_max": 3.0, "avg_num_neighbors": 6.0}
        return self._built(**settings, per_type_energy_shifts=shifts, per_type_energy_scales=scales)

    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Through the host's own builder, as a config names it."""
        return self._built(seed=seed, model_dtype=str(dtype).removeprefix("torch."))

    def _built(self, **settings: Any) -> nn.Module:
        set_global_state()
        return LongRangeModel({**HOST_SECTIONS[self.model_name], **settings}).eval()

    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        """Through NequIP's own transforms and batching; positions and energies are float64 in every model."""
        batch = batch_of(frames)
        positions = batch[AtomicDataDict.POSITIONS_KEY].requires_grad_(True)
        with in_mode(model, training):
            output = model(batch)
        return HostResult(
            output[AtomicDataDict.TOTAL_ENERGY_KEY].view(-1),
            output[AtomicDataDict.PER_ATOM_ENERGY_KEY].view(-1),
            output[AtomicDataDict.FORCE_KEY],
            output[AtomicDataDict.STRESS_KEY].view(-1, 3, 3),
            positions,
        )

    def in_float64(self, model: nn.Module) -> nn.Module:
        """Built anew: NequIP fixes the dtype of a model when it is made."""
        other = self.attached(dtype=torch.float64)
        own = dict(other.state_dict())
        other.load_state_dict({name: value.to(own[name].dtype) for name, value in model.state_dict().items()})
        return other

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        """One epoch of nequip-train."""
        model = {"_target_": TARGET, "model": HOST_SECTIONS[self.model_name], self.section_name: dict(section)}
        return train_in(folder, self.host, frames, training_settings(folder, model))

    def refusals(self, model: nn.Module) -> Mapping[str, Callable[[], object]]:
        """Inputs as engines hand them over that drop cell or boundary conditions."""
        batch = batch_of([waters(1)])
        no_cell = {key: value for key, value in batch.items() if key != AtomicDataDict.CELL_KEY}
        no_pbc = {key: value for key, value in batch.items() if key != AtomicDataDict.PBC_KEY}
        return {
            "an input without cell (pair_allegro)": lambda: model(no_cell),
            "an input without pbc": lambda: model(no_pbc),
        }


class AllegroContract(NequIPContract):
    """An Allegro of one layer."""

    model_name: ClassVar[str] = "allegro"


def batch_of(frames: Sequence[Atoms]) -> dict[str, Tensor]:
    """NequIP's input of some frames, made with NequIP's own data pipeline (which is float64 always)."""
    with default_dtype(torch.float64):
        types = ChemicalSpeciesToAtomTypeMapper(SPECIES, {name: name for name in SPECIES})
        neighbors = NeighborListTransform(r_max=CUTOFF)
        items = []
        for atoms in frames:
            charge = torch.tensor([[total_charge_of(atoms)]], dtype=torch.float64)
            items.append(neighbors(types({**from_ase(atoms), AtomicDataDict.TOTAL_CHARGE_KEY: charge})))
        batch: dict[str, Tensor] = AtomicDataDict.batched_from_list(items)
        return batch


def training_settings(folder: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """A nequip-train config for train.extxyz and valid.extxyz in a folder: a training of seconds."""
    settings: dict[str, Any] = yaml.safe_load(_TRAINING)
    settings["data"]["train_file_path"] = str((folder / "train.extxyz").resolve())
    settings["data"]["val_file_path"] = str((folder / "valid.extxyz").resolve())
    settings["training_module"]["model"] = dict(model)
    return settings


#: Of every kind of model; `les-plugins check nequip` runs them.
CONTRACTS = (NequIPContract, AllegroContract)
