"""Graph modules between a NequIP or Allegro model's features and its energy sum. Placed by `model.py`.

`nequip-package` takes this file and what it imports into its archive: no plugin manager, no builder, no config classes.
"""

from __future__ import annotations

import math
from itertools import count, takewhile
from typing import Any

import torch
from e3nn.o3._irreps import Irreps  # e3nn.o3 itself would bring sympy into every packaged model
from nequip.data import AtomicDataDict
from nequip.nn import GraphModuleMixin
from nequip.nn.model_modifier_utils import model_modifier
from torch import Tensor, nn

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.multipoles import cartesian_to_spherical, traceless
from les_plugins.electrostatics.observables import born_of_carriers
from les_plugins.errors import ConfigError, HostError
from les_plugins.model.carriers import carriers_of, latent_total_charge
from les_plugins.model.features import Edges, NodeFeatures
from les_plugins.model.irreps import layer_features
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.outputs import (
    CARRIED_CHARGES,
    LATENT_CHARGES,
    LATENT_DIPOLES,
    LATENT_QUADRUPOLES,
    LONG_RANGE_ENERGY,
    carried_outputs,
    every_latent_output,
    latent_outputs,
)

#: An input, of any value: asks for every latent output of one structure, and for its Born charges.
ALL_LATENT, LATENT_BORN_CHARGES = "les_all_latent", "latent_born_charges"
#: What a compiled model says of itself.
STATIC_CELL, RESOLUTION, EPSILON = "les_static_cell", "les_dl", "les_epsilon_infinity"
#: Features kept for the heads, one field a layer.
KEPT = "les_features_{}"


class KeepFeatures(GraphModuleMixin, nn.Module):  # type: ignore[misc]
    """Keeps the node features of one NequIP layer, which the next layer replaces.

    Args:
        number: of the layer, from 0.
        irreps_in: irreps of every field after that layer.
    """

    def __init__(self, number: int, irreps_in: dict[str, Irreps]) -> None:
        super().__init__()
        self.field = KEPT.format(number)
        self._init_irreps(irreps_in=irreps_in, irreps_out={self.field: irreps_in[AtomicDataDict.NODE_FEATURES_KEY]})

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The data with one field more."""
        data[self.field] = data[AtomicDataDict.NODE_FEATURES_KEY]
        return data


class EdgeFeatures(GraphModuleMixin, nn.Module):  # type: ignore[misc]
    """Node features of an Allegro model: sums over edges of its final scalars, and of harmonics weighted by them.

    The weights are bias-free networks of the edge scalars, which vanish at the cutoff, and so do these features.

    Args:
        vectors: channels of l = 1, 0 for none.
        tensors: channels of l = 2, 0 for none.
        mean_neighbors: mean number of neighbours; sums are divided by its root.
        irreps_in: irreps of every field after the Allegro layers.
    """

    def __init__(self, vectors: int, tensors: int, mean_neighbors: float, irreps_in: dict[str, Irreps]) -> None:
        super().__init__()
        scalars = irreps_in[AtomicDataDict.EDGE_FEATURES_KEY].dim
        self.norm = math.sqrt(max(mean_neighbors, 1.0))
        self.vector_weight = _bias_free(scalars, vectors) if vectors else None
        self.tensor_weight = _bias_free(scalars, tensors) if tensors else None
        irreps = Irreps(f"{scalars}x0e+{vectors}x1o+{tensors}x2e").remove_zero_multiplicities()
        self.field = KEPT.format(0)
        self._init_irreps(irreps_in=irreps_in, irreps_out={self.field: irreps})

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The data with one field more."""
        scalars = data[AtomicDataDict.EDGE_FEATURES_KEY]
        vector = data[AtomicDataDict.EDGE_VECTORS_KEY]
        direction = (vector / torch.linalg.norm(vector, dim=1, keepdim=True)).to(scalars.dtype)
        parts = [scalars]
        if self.vector_weight is not None:
            harmonics = math.sqrt(3.0) * direction
            parts.append((self.vector_weight(scalars)[:, :, None] * harmonics[:, None, :]).flatten(1))
        if self.tensor_weight is not None:
            outer = traceless(direction[:, :, None] * direction[:, None, :])
            harmonics = math.sqrt(7.5) * cartesian_to_spherical(outer)  # norm² 5, as e3nn's "component" convention
            parts.append((self.tensor_weight(scalars)[:, :, None] * harmonics[:, None, :]).flatten(1))
        edges = torch.cat(parts, 1)
        centre = data[AtomicDataDict.EDGE_INDEX_KEY][0]
        nodes = edges.new_zeros(data[AtomicDataDict.POSITIONS_KEY].shape[0], edges.shape[1])
        data[self.field] = nodes.index_add(0, centre, edges) / self.norm
        return data


class LongRangeEnergy(GraphModuleMixin, nn.Module):  # type: ignore[misc]
    """Adds the long-range energy to the per-atom energies, before the host sums them.

    Args:
        long_range: the part that takes the kept features.
        irreps_in: irreps of every field so far, kept features and per-atom energy among them.
    """

    def __init__(self, long_range: LongRange, irreps_in: dict[str, Irreps]) -> None:
        super().__init__()
        kept = takewhile(lambda field: field in irreps_in, map(KEPT.format, count()))
        self.layer_irreps = [str(irreps_in[field]) for field in kept]
        self.long_range = long_range
        config = long_range.config
        self.about = {RESOLUTION: repr(config.dl), EPSILON: repr(config.epsilon_infinity)}
        outputs = {LONG_RANGE_ENERGY: "0e", LATENT_CHARGES: "0e"}
        if config.order >= 1 or config.response.dipole != "none":
            outputs[LATENT_DIPOLES] = "1o"
        if config.order >= 2:
            outputs[LATENT_QUADRUPOLES] = None
        self._init_irreps(
            irreps_in=irreps_in,
            my_irreps_in={AtomicDataDict.PER_ATOM_ENERGY_KEY: "0e"},
            irreps_out=outputs,
        )

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The data with the long-range energy in the per-atom energy, and the fields of the latent variables.

        Raises:
            HostError: a LAMMPS route that passes no cell, a batch without pbc flags.
            ConfigError: traced or compiled without a `static_cell`.
        """
        if is_traced():
            self.long_range.electrostatics.static_lengths()
        cell, pbc = _geometry(data, self.long_range.static_cell is not None)
        positions = data[AtomicDataDict.POSITIONS_KEY]
        batch = data.get(AtomicDataDict.BATCH_KEY)
        if batch is None:
            batch = torch.zeros(positions.shape[0], dtype=torch.long, device=positions.device)
        total_charge = None if self.long_range.total_charge is None else data.get(AtomicDataDict.TOTAL_CHARGE_KEY)
        result: LongRangeResult = self.long_range(
            node_features(self.layer_irreps, data),
            positions,
            cell,
            pbc,
            batch,
            total_charge=None if total_charge is None else total_charge.view(-1),
        )
        energy = data[AtomicDataDict.PER_ATOM_ENERGY_KEY]
        data[AtomicDataDict.PER_ATOM_ENERGY_KEY] = energy + result.atomic_energy[:, None].to(energy.dtype)
        if ALL_LATENT in data:  # the derivatives cost three to nine times a gradient
            n_structures = cell.shape[0]
            total = latent_total_charge(self.long_range, result, batch, n_structures)
            carriers = carriers_of(result, batch, n_structures, total)
            data.update(every_latent_output(result))
            data.update(carried_outputs(carriers))
            data[LATENT_BORN_CHARGES] = born_of_carriers(carriers, positions, cell, pbc, batch)
        else:
            data.update(latent_outputs(result))
        for scalar in (LONG_RANGE_ENERGY, LATENT_CHARGES, CARRIED_CHARGES):
            if scalar in data:
                data[scalar] = data[scalar][:, None]
        return data

    def _get_metadata_contributions(self) -> dict[str, str]:
        """NequIP writes these into what it compiles."""
        lengths = self.long_range.static_cell
        return {**self.about, STATIC_CELL: "" if lengths is None else " ".join(map(repr, lengths))}

    @model_modifier(persistent=True)  # type: ignore[untyped-decorator]
    @classmethod
    def static_cell(cls, model: nn.Module, cell: Any = None) -> nn.Module:
        """Size the grid of compiled code: cell=[a,b,c], the longest lattice vectors that it has to cover, in Å."""
        if not isinstance(cell, list | tuple) or len(cell) != 3:
            raise ConfigError(f"static_cell: cell is {cell!r}; allowed: cell=[a,b,c], three lengths in Å")
        for module in model.modules():
            if hasattr(module, "set_static_cell"):
                module.set_static_cell(tuple(float(length) for length in cell))
        return model


def node_features(layer_irreps: list[str], data: dict[str, Tensor]) -> NodeFeatures:
    """Kept features of every layer, edges and species of a batch, in the dtype of the features."""
    layers = [layer_features(data[KEPT.format(number)], irreps) for number, irreps in enumerate(layer_irreps)]
    centre, neighbor = data[AtomicDataDict.EDGE_INDEX_KEY]
    vector = data[AtomicDataDict.EDGE_VECTORS_KEY].to(layers[0].scalars.dtype)
    return NodeFeatures(layers, Edges(centre, neighbor, vector), data[AtomicDataDict.ATOM_TYPE_KEY].view(-1))


def _bias_free(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.SiLU(), nn.Linear(outputs, outputs, bias=False))


def _geometry(data: dict[str, Tensor], periodic_only: bool) -> tuple[Tensor, Tensor]:
    """Cell (B, 3, 3) and pbc (B, 3) of a batch; HostError for what engines hand over that drop them.

    NequIP's own compile targets hand over no flags: with a static_cell only periodic structures are accepted.
    """
    if AtomicDataDict.LMP_MLIAP_DATA_KEY in data or AtomicDataDict.POSITIONS_KEY not in data:
        raise HostError("LAMMPS ML-IAP passes edge vectors only, a long-range sum needs positions and cell: use ASE")
    cell, pbc = data.get(AtomicDataDict.CELL_KEY), data.get(AtomicDataDict.PBC_KEY)
    if pbc is None:
        if cell is None or not periodic_only:
            raise HostError(
                "the input has no pbc flags, which say whether a structure is periodic: pass pbc beside cell "
                "(nequip.data.from_ase does); pair_allegro of LAMMPS, which has neither, is not supported"
            )
        return cell.view(-1, 3, 3), torch.ones_like(cell.view(-1, 3, 3)[:, 0], dtype=torch.bool)
    pbc = pbc.view(-1, 3)
    if cell is None:
        if is_traced() or bool(pbc.any()):
            raise HostError("the input is periodic by its pbc flags and has no cell; pair_allegro of LAMMPS drops it")
        return data[AtomicDataDict.POSITIONS_KEY].new_zeros(pbc.shape[0], 3, 3), pbc
    return cell.view(-1, 3, 3), pbc
