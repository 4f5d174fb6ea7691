"""Modules between the layers of a SevenNet model: they keep features, add the long-range energy and its derivatives.

Placed by `model.py`. SevenNet differentiates by edge vectors alone; energies of features reach forces and stress that
way, the explicit dependence on positions and cell is added here.
"""

from __future__ import annotations

from typing import Any

import sevenn._keys as keys
import torch
from torch import nn

from les_plugins.adapters.sevennet.graphs import PBC, TOTAL_CHARGE
from les_plugins.errors import HostError
from les_plugins.model.features import Edges, NodeFeatures
from les_plugins.model.irreps import layer_features
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.outputs import latent_outputs

#: Features kept for the heads, one entry a layer.
KEPT = "les_features_{}"
_EXPLICIT_FORCE, _EXPLICIT_VIRIAL = "les_explicit_force", "les_explicit_virial"
#: SevenNet's stress: xx, yy, zz, xy, yz, zx.
_ROWS, _COLUMNS = [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]
#: SevenNet's own smallest volume, Å³, for structures without a cell.
_SMALLEST_VOLUME = 1e-3


class CheckGraph(nn.Module):
    """First of all layers: refuses a graph that a long-range sum cannot use, before anything is computed."""

    def forward(self, data: Any) -> Any:
        """The data as they are.

        Raises:
            HostError: a graph that does not say where its atoms are, or whether it is periodic.
        """
        if keys.USE_MLIAP in data or keys.POS not in data:
            raise HostError("LAMMPS passes edge vectors only, a long-range sum needs positions and cell: use ASE")
        if keys.CELL not in data or PBC not in data:
            raise HostError(
                "the graph has no cell and no pbc flags, which a long-range sum needs: with ASE use "
                "LesSevenNetCalculator (les_plugins.load) in place of SevenNetCalculator; for a training give "
                "structure files, not graphs that were built before: remove the folder sevenn_data, or set "
                "force_reload: true under data_format_args"
            )
        return data


class SpeciesInModelDtype(nn.Module):
    """Casts the one-hot vectors of the species, which SevenNet makes in float32, to the dtype of the edge vectors."""

    def forward(self, data: Any) -> Any:
        """The data with both entries cast."""
        dtype = data[keys.EDGE_VEC].dtype
        for key in (keys.NODE_FEATURE, keys.NODE_ATTR):
            data[key] = data[key].to(dtype)
        return data


class KeepFeatures(nn.Module):
    """Keeps the node features of one layer, which the next layer replaces.

    Args:
        number: of the layer, from 0.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.field = KEPT.format(number)

    def forward(self, data: Any) -> Any:
        """The data with one entry more."""
        data[self.field] = data[keys.NODE_FEATURE]
        return data


class LongRangeEnergy(nn.Module):
    """Adds the long-range energy to the atomic energies, before SevenNet sums them.

    Args:
        layer_irreps: irreps of the kept features, first layer to last.
        vector: label of the vectors among them: 1o, or 1e in a model without parity.
        long_range: the part that takes them.
    """

    def __init__(self, layer_irreps: list[str], vector: str, long_range: LongRange) -> None:
        super().__init__()
        self.layer_irreps = layer_irreps
        self.vector = vector
        self.long_range = long_range
        self._is_batch_data = True  # set by AtomGraphSequential

    def forward(self, data: Any) -> Any:
        """The data with the long-range energy in the atomic energies, latent variables and explicit derivatives.

        Raises:
            HostError: a batch in a model that was set to single structures.
        """
        positions = data[keys.POS]
        cell, pbc = data[keys.CELL].view(-1, 3, 3).to(positions.dtype), data[PBC].view(-1, 3).bool()
        if self._is_batch_data:
            batch = data[keys.BATCH]
        elif len(cell) == 1:
            batch = torch.zeros(len(positions), dtype=torch.long, device=positions.device)
        else:
            raise HostError("a batch was given to a model that was set to single structures: set_is_batch_data(True)")
        # a node of its own: positions may be what the edge vectors are made of, and those are SevenNet's to follow
        explicit = positions.clone()
        if not explicit.requires_grad:
            explicit.requires_grad_(True)
        # not symmetrised: neither is the part of the virial that goes through edge vectors, only their sum is symmetric
        strain = explicit.new_zeros(len(cell), 3, 3).requires_grad_(True)
        strained = explicit + torch.einsum("na,nab->nb", explicit, strain[batch])
        features = node_features(self.layer_irreps, self.vector, data)
        charge = None if self.long_range.total_charge is None else data.get(TOTAL_CHARGE)
        result: LongRangeResult = self.long_range(
            features, strained, cell + cell @ strain, pbc, batch, total_charge=charge
        )
        gradient, virial = torch.autograd.grad(
            result.energy.sum(),
            [explicit, strain],
            create_graph=self.training,
            retain_graph=True,
            materialize_grads=True,
        )
        energy = data[keys.ATOMIC_ENERGY]
        data[keys.ATOMIC_ENERGY] = energy + result.atomic_energy[:, None].to(energy.dtype)
        data[_EXPLICIT_FORCE], data[_EXPLICIT_VIRIAL] = -gradient, virial
        for name, value in latent_outputs(result).items():
            data[name] = value
        return data

    def __prepare_scriptable__(self) -> None:
        """Called by torch.jit.script before anything is compiled."""
        raise HostError(
            "a model with a long-range part cannot be compiled to TorchScript (sevenn get_model, LAMMPS): LAMMPS "
            "passes edge vectors only, a long-range sum needs positions and cell: use ASE"
        )


class ExplicitDerivatives(nn.Module):
    """Adds the explicit derivatives of the long-range energy to the forces and stress of SevenNet."""

    def forward(self, data: Any) -> Any:
        """The data with whole forces and stress.

        Raises:
            HostError: atomic virials were asked for, which a long-range energy does not have.
        """
        if keys.PRED_ATOMIC_VIRIAL in data:
            raise HostError("atomic virials are not defined for a long-range energy: ask for the stress")
        force, stress = data[keys.PRED_FORCE], data[keys.PRED_STRESS]
        data[keys.PRED_FORCE] = force + data[_EXPLICIT_FORCE].to(force.dtype)
        virial = data[_EXPLICIT_VIRIAL][:, _ROWS, _COLUMNS].to(stress.dtype).view_as(stress)
        volume = data[keys.CELL_VOLUME].clamp(min=_SMALLEST_VOLUME).unsqueeze(-1)
        data[keys.PRED_STRESS] = stress - virial / volume  # SevenNet's sign, the opposite of ASE's
        return data


def node_features(layer_irreps: list[str], vector: str, data: Any) -> NodeFeatures:
    """Kept features of every layer as scalars, vectors and tensors, and the edges."""
    layers = [layer_features(data[KEPT.format(n)], irreps, vector) for n, irreps in enumerate(layer_irreps)]
    centre, neighbor = data[keys.EDGE_IDX]
    return NodeFeatures(layers, Edges(centre, neighbor, data[keys.EDGE_VEC]), data[keys.ATOM_TYPE])
