"""A LongRangeMACE as a model of metatomic, for the engines that run those. `torchscript.py` calls `write`.

The TorchScript of `torchscript.py` inside, metatomic's systems and outputs outside. No annotation here is postponed:
TorchScript reads them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, List, Optional  # noqa: UP035 (metatomic compares annotations)

import torch
from torch import Tensor, nn

from les_plugins.errors import HostError, how_to_install

try:
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import (
        AtomisticModel,
        ModelCapabilities,
        ModelMetadata,
        ModelOutput,
        NeighborListOptions,
        System,
    )
except ImportError as error:
    raise HostError(f"target metatomic: {error}; {how_to_install('metatomic')}") from None

#: Outputs of a file: unit, sum over a structure or value of each atom, and what it is.
OUTPUTS = {
    "energy": ("eV", "atom", "total energy"),
    "charge": ("e", "atom", "physical charges, scaled by the electronic screening of the material"),
    "les_plugins::long_range_energy": ("eV", "system", "long-range part of the energy"),
    "les_plugins::latent_charge": ("e", "atom", "charges in the long-range energy, permanent and induced"),
    "les_plugins::latent_dipole": ("e*A", "atom", "dipoles in the long-range energy, permanent and induced"),
}


def write(
    scripted: torch.jit.ScriptModule, output: Path, scale: float | None, device: str, about: Mapping[str, Any]
) -> None:
    """Write a metatomic AtomisticModel.

    Args:
        scripted: what `torchscript.script` made.
        output: the file to write.
        scale: of physical charges over latent ones; None where it is not one number.
        device: that the model was traced on.
        about: what the file says of itself.
    """
    wrapped = MetatomicMACE(scripted, 1.0 if scale is None else scale).eval()
    offered = {
        name: ModelOutput(unit=unit, sample_kind=kind, description=text)
        for name, (unit, kind, text) in OUTPUTS.items()
        if name != "charge" or scale is not None
    }
    capabilities = ModelCapabilities(
        outputs=offered,
        atomic_types=[int(number) for number in scripted.atomic_numbers],
        interaction_range=math.inf,  # no engine may hand it a part of the structure
        length_unit="Angstrom",
        supported_devices=[torch.device(device).type],
        dtype=str(scripted.r_max.dtype).removeprefix("torch."),
    )
    metadata = ModelMetadata(
        name=str(about.get("checkpoint", "MACE with a long-range part")),
        description="MACE with a long-range part of les-plugins",
        references={"model": ["arXiv:2605.05746"], "architecture": ["arXiv:2206.07697"]},
        extra={name: str(value) for name, value in about.items()},
    )
    AtomisticModel(wrapped, metadata, capabilities).save(output)


class MetatomicMACE(nn.Module):
    """What metatomic calls: systems in, maps of tensors out.

    Args:
        inner: `ScriptableMACE`, scripted.
        scale: of physical charges over latent ones.
    """

    def __init__(self, inner: torch.jit.ScriptModule, scale: float) -> None:
        super().__init__()
        self.inner = inner
        self.scale = scale
        self.register_buffer("numbers", inner.atomic_numbers.clone())
        self.pairs = NeighborListOptions(cutoff=float(inner.r_max), full_list=True, strict=True)

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """MACE's: both directions of every pair within the cutoff."""
        return [self.pairs]

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """As metatomic asks for it. Only outputs may be restricted to `selected_atoms`; all atoms interact."""
        positions: list[Tensor] = []
        edges: list[Tensor] = []
        shifts: list[Tensor] = []
        units: list[Tensor] = []
        attributes: list[Tensor] = []
        cells: list[Tensor] = []
        pbc: list[Tensor] = []
        batch: list[Tensor] = []
        samples: list[Tensor] = []
        ends: list[int] = [0]
        for number, system in enumerate(systems):
            pairs = system.get_neighbor_list(self.pairs).samples.values
            count, device, dtype = len(system), system.positions.device, system.positions.dtype
            # metatomic's vector is r[second] − r[first] + shift·cell, MACE's r[receiver] − r[sender] + shift·cell;
            # the first is the receiver, whose neighbour the second is
            shift = -pairs[:, 2:5].to(dtype)
            edges.append(torch.stack([pairs[:, 1], pairs[:, 0]]).to(torch.int64) + ends[-1])
            units.append(shift)
            shifts.append(shift @ system.cell)
            positions.append(system.positions)
            attributes.append((system.types[:, None] == self.numbers[None, :]).to(dtype))
            cells.append(system.cell)
            pbc.append(system.pbc)
            batch.append(torch.full((count,), number, dtype=torch.int64, device=device))
            index = torch.arange(count, dtype=torch.int32, device=device)
            samples.append(torch.stack([torch.full_like(index, number), index], 1))
            ends.append(ends[-1] + count)
        places = torch.cat(positions)
        data: dict[str, Tensor] = {
            "positions": places,
            "node_attrs": torch.cat(attributes),
            "edge_index": torch.cat(edges, 1),
            "shifts": torch.cat(shifts),
            "unit_shifts": torch.cat(units),
            "cell": torch.cat(cells),
            "pbc": torch.stack(pbc),
            "batch": torch.cat(batch),
            "ptr": torch.tensor(ends, device=places.device),
            "head": torch.zeros(len(systems), dtype=torch.int64, device=places.device),
        }
        found = self.inner(data, False, False)
        atoms = Labels(["system", "atom"], torch.cat(samples))
        structures = Labels(["system"], torch.arange(len(systems), dtype=torch.int32, device=places.device)[:, None])
        result: dict[str, TensorMap] = {}
        for name, how in outputs.items():
            by_atom = name != "les_plugins::long_range_energy" and (name != "energy" or how.sample_kind == "atom")
            values = self._values(found, name, by_atom, data["batch"], len(systems)).to(places.dtype)
            kept = atoms if by_atom else structures
            if by_atom and selected_atoms is not None:
                chosen = atoms.select(selected_atoms)
                values, kept = values[chosen], Labels(["system", "atom"], atoms.values[chosen])
            elif name == "energy" and selected_atoms is not None:
                chosen = atoms.select(selected_atoms)
                part = self._values(found, name, True, data["batch"], len(systems)).to(places.dtype)[chosen]
                values = torch.zeros_like(values).index_add(0, data["batch"][chosen], part)
            result[name] = self._map(values, kept, name)
        return result

    def _values(
        self, found: dict[str, Tensor | None], name: str, by_atom: bool, batch: Tensor, n_structures: int
    ) -> Tensor:
        if name == "energy":
            key = "node_energy" if by_atom else "energy"
        elif name == "les_plugins::long_range_energy":
            key = "long_range_energy"
        elif name == "les_plugins::latent_dipole":
            key = "latent_dipoles"
        else:
            key = "latent_charges"
        values = found[key]
        assert values is not None
        if name == "les_plugins::latent_dipole":
            return values[:, :, None]
        if name == "charge":
            carried = found["latent_polarization_charges"]
            assert carried is not None
            # the carried ones add up to the structure's total charge: the mean of what does not is taken off
            counts = torch.bincount(batch, minlength=n_structures).to(values.dtype)
            excess = torch.zeros_like(counts).index_add(0, batch, values - carried) / counts
            values = self.scale * (values - excess[batch])
        return values.reshape(values.shape[0], 1)

    def _map(self, values: Tensor, samples: Labels, name: str) -> TensorMap:
        zero = torch.tensor([[0]], device=values.device)
        components: list[Labels] = []
        if values.dim() == 3:
            components.append(Labels(["xyz"], torch.tensor([[0], [1], [2]], device=values.device)))
        label = name.replace("les_plugins::", "")
        block = TensorBlock(values, samples, components, Labels([label], zero))
        return TensorMap(Labels(["_"], zero), [block])
