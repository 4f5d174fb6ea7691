"""`LesMACECalculator`: MACE's own ASE calculator with charges, dipole, polarizability and Born effective charges."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from ase import Atoms
from mace import data
from mace.calculators.mace import MACECalculator
from torch import Tensor, nn

from les_plugins.adapters.mace.accelerated import OPTIONS, accelerated, wanted
from les_plugins.adapters.mace.by_receiver import summed_by_receiver
from les_plugins.adapters.mace.graphs import OneGraph, batch_of
from les_plugins.data.given_charge import NAMES
from les_plugins.data.structure_reading import trained_charge_key
from les_plugins.devices import check_device
from les_plugins.errors import DataError, HostError
from les_plugins.hosting.calculator import LongRangeCalculator
from les_plugins.model.outputs import long_range_part
from les_plugins.precision import default_dtype


class LesMACECalculator(LongRangeCalculator, MACECalculator):
    """ASE calculator of a MACE model with a long-range part, or without.

    Args, beside those of `LongRangeCalculator`:
        default_dtype: "float32" or "float64"; the model's own when empty.
        head: of a model with several heads, the one to use, unless `metadata` says it or there is one called Default.
        enable_cueq, enable_oeq: as MACE's: kernels of cuEquivariance, of OpenEquivariance, or of both.

    Raises:
        HostError: a head that the model has not, or none where it has several; kernels that are not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        epsilon_infinity: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        default_dtype: str = "",
        **kwargs: Any,
    ) -> None:
        check_device(device)
        self.implemented_properties = list(type(self).implemented_properties)  # MACE extends the list in place
        if not default_dtype:
            default_dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        kernels = wanted({option: kwargs.pop(option, False) for option in OPTIONS})
        model = accelerated(model, kernels, device)
        if torch.device(device).type == "cpu" and not kernels and not kwargs.get("compile_mode"):
            model = summed_by_receiver(model)
        kwargs["head"] = head_of(model, kwargs.get("head", (metadata or {}).get("head")))
        key = (kwargs.get("info_keys") or {}).get("total_charge") or trained_charge_key(metadata or {}, kwargs["head"])
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.WARNING)
        try:
            super().__init__(models=[model], device=device, default_dtype=default_dtype, **kwargs)
        finally:
            root.setLevel(level)
        self.energy_unit, self.length_unit = self.energy_units_to_eV, self.length_units_to_A
        read = getattr(model, "embedding_specs", None) or {}
        self.takes_total_charge, self.takes_spin = "total_charge" in read, "total_spin" in read
        self.adopt(long_range_part(self.models[0]), self.z_table.zs, metadata, epsilon_infinity)
        self.total_charge_key = key
        self.info_keys = {**self.info_keys, "total_charge": key or NAMES[0]}
        others = [self.info_keys[name] for name in read if name != "total_charge" and name in self.info_keys]
        self.read_names = tuple(others)

    keeps_force_graph = True

    def geometry(self, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor]:
        """The cell is MACE's, which has vectors along axes that are not periodic too."""
        positions = torch.as_tensor(atoms.positions, device=self.device)
        return positions, self._graph["cell"].view(-1, 3, 3).double(), self._graph["pbc"].view(-1, 3)

    def _atoms_to_batch(self, atoms: Atoms) -> Any:
        if self.use_compile or self._padding_initialized:  # MACE pads its batch
            with default_dtype(getattr(torch, self.default_dtype)):  # as MACE does, which keeps no other thread out
                self._graph = super()._atoms_to_batch(self._read(atoms))
        else:
            self._graph = OneGraph.of(self._read(atoms), self.device, *self._graph_settings())
        return self._graph

    def _graph_settings(self) -> tuple[Any, ...]:
        """Arguments of `batch_of` after the structures."""
        keys = data.KeySpecification(info_keys=self.info_keys, arrays_keys=self.arrays_keys)
        dtype = getattr(torch, self.default_dtype)
        return self.z_table.zs, self.r_max, dtype, self.available_heads, self.head, keys

    def _read(self, atoms: Atoms) -> Atoms:
        """What MACE is given: by the origin, and of `info` only what the model reads.

        MACE makes tensors of a charge, a spin and a field that no layer of the model looks at, whatever they hold.
        """
        found = self.near(atoms).copy()
        read = getattr(self.models[0], "embedding_specs", None) or {}
        for name, key in self.info_keys.items():
            value = found.info.get(key)
            if name not in read or name == "total_charge":
                found.info.pop(key, None)
            elif value is not None and not (isinstance(value, Real) and np.isfinite(float(value))):
                raise DataError(f"structure: info[{key!r}] is {value!r}, which this model reads; allowed: a number")
        found.arrays.pop(self.charges_key, None)
        if self.takes_total_charge:
            found.info[self.info_keys["total_charge"]] = self.total_charge_of(atoms)
        return found

    def host_batch(self, frames: Sequence[Atoms], stress: bool) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """MACE's own batch; none of a compiled model, which MACE pads for one structure."""
        if self.use_compile:
            return None
        batch = batch_of(map(self._read, frames), *self._graph_settings()).to(self.device)
        output = self.models[0](batch.to_dict(), compute_stress=stress)
        return self.in_ase_units(output["energy"], output["forces"], output["stress"])


def head_of(model: nn.Module, wanted: str | None) -> str:
    """The head to use; MACE takes the last one for a name that it does not know.

    Raises:
        HostError: a head that the model has not, or none named where it has several.
    """
    heads = list(getattr(model, "heads", None) or ["Default"])
    if wanted is not None:
        if wanted not in heads:
            raise HostError(f"head is {wanted!r}; allowed with this model: {', '.join(heads)}")
        return wanted
    if len(heads) == 1:
        return str(heads[0])
    for name in heads:
        if name.lower() == "default":
            return str(name)
    raise HostError(
        f"this model has the heads {', '.join(heads)}, one for each kind of labels: choose one with "
        f"head={heads[0]!r} or --head {heads[0]}"
    )
