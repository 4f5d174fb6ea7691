"""`LongRangeMACE`: an unmodified MACE and a long-range part side by side, with the interface of a MACE model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ase.data import chemical_symbols
from mace.modules import MACE, ScaleShiftMACE
from mace.modules.utils import get_outputs
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.long_range import LongRange, LongRangeResult

#: Irreps that the heads read, by position in a layer layout.
_SCALAR, _VECTOR, _TENSOR = "0e", "1o", "2e"


class LongRangeMACE(nn.Module):
    """A MACE model with a long-range part; MACE's trainer, EMA, checkpoints and calculator take it as their own.

    Args:
        base: a ScaleShiftMACE or MACE; its weights are used as they are.
        config: the `long_range:` section.
    """

    def __init__(self, base: nn.Module, config: LongRangeConfig) -> None:
        super().__init__()
        _check_base(base)
        self.base = base
        self.layout = feature_layout(base)
        reference = base.atomic_energies_fn.atomic_energies
        parameter = next(base.parameters(), reference)
        # MACE's optimizer names the submodules that it trains; this name is one of its groups
        self.les_readouts = nn.ModuleList([build_long_range(self.layout, config)])
        self.les_readouts.to(device=parameter.device, dtype=parameter.dtype)

    @property
    def long_range(self) -> LongRange:
        """The long-range part."""
        part: LongRange = self.les_readouts[0]  # type: ignore[assignment]
        return part

    def __getattr__(self, name: str) -> Any:
        """What this module does not have itself (r_max, interactions, heads, …) is the base model's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or "_modules" not in self.__dict__ or "base" not in self._modules:
                raise
            return getattr(self._modules["base"], name)

    def forward(
        self,
        data: dict[str, Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_virials: bool = False,
        compute_stress: bool = False,
        compute_displacement: bool = False,
        compute_hessian: bool = False,
        compute_edge_forces: bool = False,
        compute_atomic_stresses: bool = False,
        lammps_mliap: bool = False,
    ) -> dict[str, Tensor | None]:
        """MACE's outputs with the long-range energy in energy, node_energy, forces, virials, stress and hessian.

        Beside them: long_range_energy and short_range_energy (B,) eV, latent_charges (N,) e, latent_dipoles (N, 3)
        e·Å, both with their induced part, and `latent`, the whole `LongRangeResult`.

        Raises:
            HostError: LAMMPS ML-IAP, edge forces or atomic stresses, for which a long-range energy has no meaning.
        """
        if lammps_mliap:
            raise HostError(
                "LAMMPS ML-IAP passes edge vectors only, a long-range sum needs positions and cell: use ASE"
            )
        if compute_edge_forces or compute_atomic_stresses:
            raise HostError(
                "edge forces and atomic stresses are not defined for a long-range energy: ask for the stress"
            )
        positions = data["positions"]  # the base strains data["positions"]; this stays the leaf
        strained = compute_virials or compute_stress or compute_displacement
        output = self.base(data, training=training, compute_force=False, compute_displacement=strained)
        displacement = output["displacement"]
        cell = data["cell"].view(-1, 3, 3)
        periodic_cell = _strain(cell, displacement) if strained else cell

        features = node_features(self.layout, data, output)
        result: LongRangeResult = self.long_range(
            features, data["positions"], periodic_cell, _periodicity(data, len(cell)), data["batch"]
        )
        short_range = output["energy"]
        energy = short_range + result.energy.to(short_range.dtype)
        differentiable = output.get("interaction_energy", short_range) + result.energy.to(short_range.dtype)
        forces, virials, stress, hessian, _ = get_outputs(
            energy=differentiable,
            positions=positions,
            displacement=displacement,
            cell=cell,
            training=training,
            compute_force=compute_force,
            compute_virials=compute_virials,
            compute_stress=compute_stress,
            compute_hessian=compute_hessian,
        )
        output.update(
            energy=energy,
            interaction_energy=differentiable,
            node_energy=output["node_energy"] + result.atomic_energy.to(output["node_energy"].dtype),
            forces=forces,
            virials=virials,
            stress=stress,
            hessian=hessian,
            short_range_energy=short_range,
            long_range_energy=result.energy,
            latent_charges=result.charge,
            latent_dipoles=result.dipole,
        )
        output["latent"] = result
        return output


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> LongRangeMACE:
    """A LongRangeMACE around `model`, on its device and in its dtype."""
    return LongRangeMACE(model, config)


def feature_layout(model: nn.Module) -> FeatureLayout:
    """Channels of every layer of a MACE model, and its edges."""
    layers = []
    for product in model.products:
        channels = {str(ir): mul for mul, ir in product.linear.irreps_out}
        layers.append(LayerLayout(channels.get(_SCALAR, 0), channels.get(_VECTOR, 0), channels.get(_TENSOR, 0)))
    neighbors = float(torch.as_tensor(model.interactions[0].avg_num_neighbors))
    elements = tuple(chemical_symbols[number] for number in model.atomic_numbers.tolist())
    return FeatureLayout(tuple(layers), cutoff=float(model.r_max), mean_neighbors=neighbors, elements=elements)


def node_features(
    feature_layout: FeatureLayout, data: Mapping[str, Tensor], output: Mapping[str, Tensor]
) -> NodeFeatures:
    """MACE's concatenated `node_feats` as layers of scalars, vectors and tensors, with the edges of the graph."""
    layers, start = [], 0
    values = output["node_feats"]
    for layer in feature_layout.layers:
        parts = []
        for channels, components in ((layer.scalars, 1), (layer.vectors, 3), (layer.tensors, 5)):
            block = values[:, start : start + channels * components]
            parts.append(block.view(values.shape[0], channels, components) if channels else None)
            start += channels * components
        layers.append(LayerFeatures(parts[0].squeeze(2), parts[1], parts[2]))
    if start != values.shape[1]:
        raise HostError(f"MACE's node features have {values.shape[1]} columns, its irreps say {start}")
    sender, receiver = data["edge_index"].unbind(0)
    vector = data["positions"][sender] - data["positions"][receiver] - data["shifts"]
    return NodeFeatures(layers, Edges(receiver, sender, vector), data["node_attrs"].argmax(1))


def _check_base(base: nn.Module) -> None:
    if isinstance(base, LongRangeMACE):
        raise HostError("this model has a long-range part already")
    if type(base) not in (MACE, ScaleShiftMACE):
        raise HostError(
            f"the long-range part can be attached to MACE and ScaleShiftMACE, not to {type(base).__name__}; "
            "models with dipoles, polar or LES parts of their own would count the electrostatics twice"
        )
    for number, product in enumerate(base.products):
        for _, ir in product.linear.irreps_out:
            if str(ir) not in (_SCALAR, _VECTOR, _TENSOR):
                raise ConfigError(
                    f"layer {number} of this MACE has {ir} features; allowed: 0e, 1o, 2e (max_L at most 2)"
                )


def _periodicity(data: Mapping[str, Tensor], n_structures: int) -> Tensor:
    """(B, 3) bool; the cell cannot tell, for MACE fabricates vectors along open directions."""
    pbc = data.get("pbc")
    if pbc is None:
        raise HostError(
            "the batch has no pbc flags: make it with mace.data.AtomicData.from_config from configurations "
            "that have pbc"
        )
    if isinstance(pbc, bool):  # of all structures: torch-sim's own wrapper of MACE says it so
        return torch.full((n_structures, 3), pbc, device=data["positions"].device)
    return pbc.view(n_structures, 3)


def _strain(cell: Tensor, displacement: Tensor) -> Tensor:
    """The cell under MACE's symmetric displacement, as it strains positions."""
    return cell + cell @ (0.5 * (displacement + displacement.transpose(1, 2)))
