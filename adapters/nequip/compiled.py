"""`LesCompiledCalculator`: ASE calculator of a model that `nequip-compile --target les_ase` made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from nequip.model.inference_models import load_compiled_model
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from torch import Tensor, nn

from les_plugins.adapters.nequip.calculator import CalculatorOfTypes
from les_plugins.adapters.nequip.model import initialize_nequip
from les_plugins.adapters.nequip.modules import ALL_LATENT, EPSILON, LATENT_BORN_CHARGES, RESOLUTION, STATIC_CELL
from les_plugins.devices import check_device
from les_plugins.errors import HostError
from les_plugins.hosting.compiled import CompiledCalculator

#: The compile target that this calculator reads; `extension.py` registers it.
TARGET = "les_ase"


class LesCompiledCalculator(CompiledCalculator, CalculatorOfTypes):
    """ASE calculator of a compiled model, `elements` as for `LesNequIPCalculator`.

    Born effective charges are part of every evaluation: the target holds them.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str,
        about: Mapping[str, Any],
        elements: Mapping[str, str] | None = None,
        epsilon_infinity: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, device, list(about["type_names"]), about, elements, **kwargs)
        own = about[EPSILON] if epsilon_infinity is None else epsilon_infinity
        self.cover(about[RESOLUTION], about[STATIC_CELL].split(), own)

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
        initialize_nequip()
        target = COMPILE_TARGET_DICT[TARGET]
        try:
            model, about = load_compiled_model(str(compile_path), device, target["input"])
        except ValueError as error:
            raise HostError(
                f"{compile_path} was not compiled for this calculator: use nequip-compile --target {TARGET}; ({error})"
            ) from None
        # the outputs are the file's own: one of before has no moments of the polarization
        if not about.get(STATIC_CELL):
            raise HostError(f"{compile_path} has no long-range part that was compiled with a static_cell")
        return cls(model, device, about, **kwargs)

    def atoms_to_data(self, atoms: Atoms) -> dict[str, Tensor]:
        """NequIP's input, with the one by which the target asks for every latent output."""
        return {**super().atoms_to_data(atoms), ALL_LATENT: torch.ones(1, 1, device=self.device)}

    def save_extra_outputs(self, out: Mapping[str, Tensor]) -> None:
        """Called by NequIP's calculator with what the model returned."""
        self.add_compiled(out, self.atoms, out[LATENT_BORN_CHARGES])
