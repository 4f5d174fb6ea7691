"""`LongRangeMACE`: an unmodified MACE and a long-range part side by side, with the interface of a MACE model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase.data import chemical_symbols
from mace.modules import MACE, ScaleShiftMACE
from torch import Tensor, nn

from les_plugins.adapters.mace.summed import strained, with_long_range
from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, NodeFeatures
from les_plugins.model.irreps import SCALAR, TENSOR, VECTOR, concatenated_features, layer_layout
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.outputs import LATENT_DIPOLES, latent_outputs


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
        # MACE's optimizer names the submodules that it trains; this name is one of its groups
        self.les_readouts = nn.ModuleList([build_long_range(feature_layout(base), config)])
        self.les_readouts.to(next(base.parameters(), base.atomic_energies_fn.atomic_energies))

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
    ) -> dict[str, Any]:
        """MACE's outputs with the long-range energy in energy, node_energy, forces, virials, stress and hessian.

        Beside them: short_range_energy (B,) eV, those of `latent_outputs`, and `latent`, the whole `LongRangeResult`.

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
        # the base strains data["positions"]; these stay the leaf and the cell as given
        positions, cell = data["positions"], data["cell"].view(-1, 3, 3)
        moved = compute_virials or compute_stress or compute_displacement
        output = self.base(data, training=training, compute_force=False, compute_displacement=moved)
        reads_charge = self.long_range.total_charge is not None
        if reads_charge:
            self.long_range.total_charge.train(training)  # MACE's trainer calls no train() on its models
        result: LongRangeResult = self.long_range(
            node_features(layer_irreps(self.base), data, output["node_feats"], components_first(self.base)),
            data["positions"],
            strained(cell, output["displacement"]),
            _periodicity(data, len(cell)),
            data["batch"],
            total_charge=data.get("total_charge") if reads_charge else None,
        )
        energies = result.energy, result.atomic_energy
        asked = training or result.keep_graph, compute_force, compute_virials, compute_stress, compute_hessian
        output = with_long_range(output, *energies, positions, cell, *asked)
        return {**output, LATENT_DIPOLES: None, **latent_outputs(result), "latent": result}


def attach_long_range(model: nn.Module, config: LongRangeConfig) -> LongRangeMACE:
    """A LongRangeMACE around `model`, on its device and in its dtype."""
    return LongRangeMACE(model, config)


def layer_irreps(model: nn.Module) -> list[str]:
    """Irreps of the node features after each layer of a MACE model."""
    return [str(product.linear.irreps_out) for product in model.products]


def last_layer(model: nn.Module) -> list[nn.Module]:
    """The last interaction of a MACE model, its product and its readout."""
    return [modules[-1] for modules in (model.interactions, model.products, model.readouts)]


def feature_layout(model: nn.Module) -> FeatureLayout:
    """Channels of every layer of a MACE model, and its edges."""
    layers = tuple(map(layer_layout, layer_irreps(model)))
    neighbors = float(torch.as_tensor(model.interactions[0].avg_num_neighbors))
    elements = tuple(chemical_symbols[number] for number in model.atomic_numbers.tolist())
    return FeatureLayout(layers, cutoff=float(model.r_max), mean_neighbors=neighbors, elements=elements)


def components_first(model: nn.Module) -> bool:
    """Whether a MACE model's features have cuEquivariance's layout ir_mul; else it is e3nn's, mul_ir."""
    settings: Any = getattr(model.products[0], "cueq_config", None)  # models of earlier versions have none
    return settings is not None and bool(settings.enabled) and settings.layout_str == "ir_mul"


def node_features(
    irreps: Sequence[str], data: Mapping[str, Tensor], node_feats: Tensor, components_first: bool = False
) -> NodeFeatures:
    """MACE's concatenated `node_feats` as layers of scalars, vectors and tensors, with the edges of the graph."""
    sender, receiver = data["edge_index"].unbind(0)
    vector = data["positions"][sender] - data["positions"][receiver] - data["shifts"]
    layers = concatenated_features(node_feats, irreps, components_first)
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
            if str(ir) not in (SCALAR, VECTOR, TENSOR):
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
    if isinstance(pbc, bool):  # of all structures: so says the wrapper of MACE in torch-sim 0.3
        return torch.full((n_structures, 3), pbc, device=data["positions"].device)
    return pbc.view(-1, 3).expand(n_structures, 3)  # likewise (3,), in newer ones
