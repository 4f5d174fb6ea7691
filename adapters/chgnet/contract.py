"""CHGNet as the adapter contract sees it: a tiny model, one evaluation, one training. Called by `les-plugins check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from ase import Atoms, units
from chgnet.model.model import CHGNet
from torch import nn

from les_plugins.adapters.chgnet.graphs import graph_of
from les_plugins.adapters.chgnet.model import References
from les_plugins.hosting.logs import quiet
from les_plugins.model.outputs import long_range_part
from les_plugins.testing import AdapterContract, HostResult
from les_plugins.testing.training import in_mode, train_in

#: Arguments of CHGNet: a few thousand parameters.
TINY: Mapping[str, Any] = yaml.safe_load("""
{
  atom_fea_dim: 8, bond_fea_dim: 8, angle_fea_dim: 8, num_radial: 5, num_angular: 5, n_conv: 3, mlp_hidden_dims: [8],
  atom_conv_hidden_dim: 8, bond_conv_hidden_dim: 8, atom_graph_cutoff: 3.5, bond_graph_cutoff: 2.5,
}
""")
_TRAINER = {"epochs": 1, "use_device": "cpu", "save_dir": "run", "torch_seed": 0}


class CHGNetContract(AdapterContract):
    """A CHGNet of three layers, with energies of elements."""

    host: ClassVar[str] = "chgnet"
    knows_every_element: ClassVar[bool] = True

    def make_model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """With `References`, as every model that a checkpoint holds: CHGNet's own `AtomRef` is float32 only."""
        return tiny_model(seed, dtype)

    def make_other_model(self) -> nn.Module:
        """With another cutoff."""
        return tiny_model(atom_graph_cutoff=3.0)

    def evaluate(self, model: nn.Module, frames: Sequence[Atoms], training: bool = False) -> HostResult:
        """Through CHGNet's converter and batches."""
        graphs = [graph_of(atoms, model) for atoms in frames]
        positions, part = [graphs[0].atom_frac_coord], long_range_part(model)
        handle = part and part.register_forward_pre_hook(lambda module, inputs: positions.append(inputs[1]))
        try:
            with in_mode(model, training):
                found: dict[str, Any] = model(graphs, task="efs", return_site_energies=True)
        finally:
            if handle is not None:
                handle.remove()
        counts = torch.tensor([len(atoms) for atoms in frames])
        forces, atomic = torch.cat(found["f"]), torch.cat(found["site_energies"])
        return HostResult(found["e"] * counts, atomic, forces, torch.stack(found["s"]) * units.GPa, positions[-1])

    def train(self, folder: Path, frames: Sequence[Atoms], section: Mapping[str, Any]) -> Path:
        """One epoch of CHGNet's trainer."""
        data = {"train": "train.extxyz", "valid": "valid.extxyz", "batch_size": 2}
        settings = {"data": data, "model": dict(TINY), "trainer": _TRAINER, self.section_name: dict(section)}
        return train_in(folder, self.host, frames, settings)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> nn.Module:
    """A bare CHGNet with random weights."""
    torch.manual_seed(seed)
    with quiet():
        model: nn.Module = CHGNet(**{**TINY, **changes}, composition_model=References(is_intensive=True))
    return model.to(dtype).eval()
