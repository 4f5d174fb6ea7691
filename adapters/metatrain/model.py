"""`LongRangeModel`: a model of metatrain with a long-range part, called as the bare one is, also by its trainers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelOutput, System
from metatrain.utils.architectures import import_architecture
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures

#: Name of an architecture → channels of the output "feature" of its models.
ARCHITECTURES: dict[str, Callable[[Any], int]] = {
    "pet": lambda model: model.num_readout_layers * (model.d_node + model.d_pet),
    "soap_bpnn": lambda model: len(model._feature_labels) * (len(model.atomic_types) if model.legacy else 1),
}


class LongRangeModel(nn.Module):
    """What metatrain's trainers and `evaluate` call; attributes of the bare model are there too.

    Args:
        model: a PET or SoapBpnn, whose weights are shared.
        config: the `long_range:` section.

    Raises:
        HostError: another model, or one without exactly one energy in eV.
        ConfigError: heads that the features cannot feed.
    """

    def __init__(self, model: Any, config: LongRangeConfig) -> None:
        super().__init__()
        width = ARCHITECTURES[architecture_of(model)](model)
        self.base, self.target = model, energy_target(model)
        self.cutoff = float(model.requested_nl.cutoff)
        layout = FeatureLayout.in_matter((LayerLayout(width),), self.cutoff)
        self.long_range = build_long_range(layout, config).to(next(model.parameters()))
        self.train(model.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, systems: list[System], outputs: dict[str, ModelOutput], selected_atoms: Any = None) -> Any:
        """The outputs of the bare model, by name, the long-range energy among its energy.

        In training mode metatrain's models return energies less composition and divided by the scale of the target;
        the long-range energy is divided likewise.

        Raises:
            HostError: some atoms are selected: the energy of each depends on all.
        """
        if self.target not in outputs:
            return self.base(systems, outputs, selected_atoms)
        if selected_atoms is not None:
            raise HostError("selected_atoms is given; a model with a long-range part needs all atoms of a structure")
        found = self.base(systems, {**outputs, "feature": ModelOutput(sample_kind="atom")})
        features, energy = found["feature"].block(), found[self.target].block()
        positions = systems[0].positions if len(systems) == 1 else torch.cat([system.positions for system in systems])
        # SOAP-BPNN sorts atoms by element
        scalars = torch.empty_like(features.values).index_copy(0, places(features, systems), features.values)
        cells, pbc = (torch.stack([getattr(system, name) for system in systems]) for name in ("cell", "pbc"))
        edges, batch = self._edges(systems, positions, cells), torch.repeat_interleave(_counts(systems))
        latent = self.long_range(NodeFeatures([LayerFeatures(scalars)], edges), positions, cells, pbc, batch)
        added = latent.atomic_energy if "atom" in energy.samples.names else latent.energy
        added = added.to(energy.values.dtype)[places(energy, systems)][:, None]
        if self.training:
            scaled = self.base.scaler.apply_scales(systems, {self.target: _like(energy, added)}, remove=True)
            added = scaled[self.target].block().values
        found[self.target] = _like(energy, energy.values + added)
        return found if "feature" in outputs else {name: found[name] for name in found if name != "feature"}

    def export(self, *arguments: Any, **options: Any) -> Any:
        """Refused, as `get_checkpoint` and `restart` are: metatrain would write or read the bare model."""
        raise HostError("a file of metatrain cannot hold a long-range part; write the model with les_plugins.save")

    get_checkpoint = restart = export

    def _edges(self, systems: list[System], positions: Tensor, cells: Tensor) -> Edges:
        """Of the neighbour lists of metatrain, which may reach beyond the cutoff."""
        lists = [system.get_neighbor_list(self.base.requested_nl).samples.values.long() for system in systems]
        pairs = torch.cat([found[:, :2] + start for found, start in zip(lists, _first(systems), strict=True)])
        shifts = [found[:, 2:].to(cell.dtype) @ cell for found, cell in zip(lists, cells, strict=True)]
        vector = positions[pairs[:, 1]] - positions[pairs[:, 0]] + torch.cat(shifts)
        inside = vector.detach().square().sum(1) < self.cutoff**2
        return Edges(pairs[inside, 0], pairs[inside, 1], vector[inside])


def architecture_of(model: Any) -> str:
    """Name of a model's architecture in `ARCHITECTURES`; raises HostError where it is none of them."""
    name = (*type(model).__module__.split("."), "")[1]
    if name not in ARCHITECTURES or type(model) is not import_architecture(name).__model__:
        raise HostError(
            f"the long-range part can be attached to {' and '.join(ARCHITECTURES)} of metatrain, not to "
            f"{type(model).__module__}.{type(model).__name__}"
        )
    return name


def energy_target(model: Any) -> str:
    """Name of a model's one target that is an energy of structures, in eV for positions in Å.

    Raises:
        HostError: none, several, or other units; electrostatics of its own, which would be counted twice; a model that
            reads charge and spin of a structure, which nobody hands over here.
    """
    info, wanted = model.dataset_info, ("energy", "system")
    energies = [name for name, target in info.targets.items() if (target.quantity, target.sample_kind) == wanted]
    if len(energies) != 1:
        raise HostError(f"the targets of this model are {list(info.targets)}; allowed: one energy of structures")
    units = (info.length_unit.lower(), info.targets[energies[0]].unit.lower())
    if units[0] not in ("", "a", "angstrom") or units[1] not in ("", "ev"):
        raise HostError(f"the units of this model are {' and '.join(units)}; allowed: angstrom and eV")
    if model.hypers.get("long_range", {}).get("enable"):
        raise HostError("this model has metatrain's own long_range; build it with long_range: {enable: false}")
    if model.hypers.get("system_conditioning"):
        raise HostError(
            "this model has system_conditioning, and would take every structure for neutral; build it without"
        )
    return energies[0]


def places(block: TensorBlock, systems: list[System]) -> Tensor:
    """Place of each sample of a block among the atoms of the batch, or among its structures."""
    system = block.samples.column("system").long()
    return _first(systems)[system] + block.samples.column("atom").long() if "atom" in block.samples.names else system


def _counts(systems: list[System]) -> Tensor:
    return torch.tensor([len(system) for system in systems], device=systems[0].positions.device)


def _first(systems: list[System]) -> Tensor:
    return _counts(systems).cumsum(0) - _counts(systems)


def _like(block: TensorBlock, values: Tensor) -> TensorMap:
    """A target of one block with other values."""
    return TensorMap(Labels.single().to(values.device), [TensorBlock(values, block.samples, [], block.properties)])
