"""`LesCompiledCalculator`: ASE calculator of a model that `nequip-compile --target les_ase` made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.data import atomic_numbers
from nequip.integrations.ase import NequIPCalculator
from nequip.integrations.utils import basic_transforms
from nequip.model.inference_models import load_compiled_model
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.utils.global_state import global_state_initialized, set_global_state
from torch import Tensor, nn

from les_plugins.adapters.nequip.calculator import geometry
from les_plugins.adapters.nequip.modules import (
    ALL_LATENT,
    EPSILON,
    LATENT_BORN_CHARGES,
    RESOLUTION,
    STATIC_CELL,
)
from les_plugins.data.frames import without_labels
from les_plugins.devices import check_device
from les_plugins.electrostatics import LatentElectrostatics
from les_plugins.errors import DataError, GeometryError, HostError
from les_plugins.hosting.calculator import LONG_RANGE_PROPERTIES, LongRangeCalculator
from les_plugins.hosting.compiled import compiled_result

#: The compile target that this calculator reads; `extension.py` registers it.
TARGET = "les_ase"


class LesCompiledCalculator(LongRangeCalculator, NequIPCalculator):  # type: ignore[misc]
    """ASE calculator of a compiled model; make it with `from_compiled_model`.

    Args:
        model: the compiled model.
        device: the torch device that it was compiled for.
        about: what the model's file says of itself.
        elements: chemical symbol of every atom type, where type names are not symbols themselves.
        epsilon_infinity: as for `LesNequIPCalculator`.

    Born effective charges are part of every evaluation: the target holds them. Structures are periodic, with cells that
    `static_cell` of the model covers.

    Raises:
        DataError: a structure with NaN, a singular cell, an unknown element, an open one, or a cell not covered.
    """

    has_long_range = True

    def __init__(
        self,
        model: nn.Module,
        device: str,
        about: Mapping[str, Any],
        elements: Mapping[str, str] | None = None,
        epsilon_infinity: float | None = None,
        **kwargs: Any,
    ) -> None:
        types = list(about["type_names"])
        symbols = dict(elements or {name: name for name in types})
        unknown = [name for name in types if symbols.get(name) not in atomic_numbers]
        if unknown:
            raise HostError(
                f"atom type {unknown[0]!r} is no chemical symbol: give elements={{{unknown[0]!r}: 'H', ...}}"
            )
        transforms = basic_transforms(about, float(about["r_max"]), types, {symbols[name]: name for name in types})
        super().__init__(model.eval(), device, transforms=transforms, **kwargs)
        self.known_elements = sorted(atomic_numbers[symbols[name]] for name in types)
        first, second, third = (float(length) for length in about[STATIC_CELL].split())
        self._grid = LatentElectrostatics(dl=float(about[RESOLUTION]), static_cell=(first, second, third))
        self.epsilon_infinity = float(about[EPSILON]) if epsilon_infinity is None else float(epsilon_infinity)
        self.implemented_properties = [*type(self).implemented_properties, *LONG_RANGE_PROPERTIES]

    @classmethod
    def from_compiled_model(cls, compile_path: str | Path, device: str = "cpu", **kwargs: Any) -> LesCompiledCalculator:
        """Load what `nequip-compile MODEL FILE.nequip.pt2 --mode aotinductor --target les_ase --device DEVICE` wrote.

        Args:
            compile_path: the file; it holds machine code: load files only that you trust.
            device: the torch device that it was compiled for.
            kwargs: as for this class.

        Raises:
            HostError: a model without a long-range part, or compiled for another target.
        """
        check_device(device)
        if not global_state_initialized():
            set_global_state()
        target = COMPILE_TARGET_DICT[TARGET]
        try:
            model, about = load_compiled_model(str(compile_path), device, target["input"], target["output"])
        except ValueError as error:
            raise HostError(
                f"{compile_path} was not compiled for this calculator: use nequip-compile --target {TARGET}; ({error})"
            ) from None
        if not about.get(STATIC_CELL):
            raise HostError(f"{compile_path} has no long-range part that was compiled with a static_cell")
        return cls(model, device, about, **kwargs)

    def check(self, atoms: Atoms, where: str = "structure") -> None:
        """As every calculator's; and the grid of the compiled code has to cover the cell."""
        super().check(atoms, where)
        try:
            self._grid.check_static_cell(*geometry(atoms)[1:])
        except GeometryError as error:
            raise DataError(f"{where}: the compiled model cannot evaluate it: {error}") from None

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """NequIP's: all properties at once."""
        super().evaluate_host(atoms, properties, system_changes)
        self.results["free_energy"] = self.results["energy"]

    def atoms_to_data(self, atoms: Atoms) -> dict[str, Tensor]:
        """NequIP's input, with the one by which the target asks for every latent output."""
        return {**super().atoms_to_data(without_labels(atoms)), ALL_LATENT: torch.ones(1, 1, device=self.device)}

    def save_extra_outputs(self, out: Mapping[str, Tensor]) -> None:
        """Called by NequIP's calculator with what the model returned."""
        positions, cell, pbc = geometry(self.atoms)
        latent = compiled_result(out)
        self.add_latent(latent, positions, cell, pbc, self.energy_units_to_eV)
        latent_born = out[LATENT_BORN_CHARGES].cpu().double()
        self.results["born_effective_charges"] = self.screening_of(latent, cell, pbc) ** 0.5 * latent_born
