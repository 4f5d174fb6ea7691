"""`LesCompiledCalculator`: ASE calculator of a file that `les-plugins compile` made of a MACE model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn

from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.torchscript import ABOUT
from les_plugins.devices import check_device
from les_plugins.errors import HostError
from les_plugins.hosting.compiled import CompiledCalculator
from les_plugins.hosting.current import CURRENT


class LesCompiledCalculator(CompiledCalculator, LesMACECalculator):
    """ASE calculator of a compiled model. Born effective charges are computed only when asked for."""

    def __init__(
        self,
        model: nn.Module,
        device: str,
        about: Mapping[str, Any],
        epsilon_infinity: float | None = None,
        **kwargs: Any,
    ) -> None:
        self._compiled = _Remembering(model)
        super().__init__(self._compiled, device=device, metadata=about, **kwargs)
        own = about["epsilon_infinity"] if epsilon_infinity is None else epsilon_infinity
        self.cover(about["dl"], about["static_cell"], own)

    @classmethod
    def from_compiled_model(
        cls, compile_path: str | Path, device: str | None = None, **kwargs: Any
    ) -> LesCompiledCalculator:
        """Load what `les-plugins compile MODEL FILE` wrote.

        Args:
            compile_path: the file; TorchScript is a program: load files only that you trust.
            device: the torch device that it was compiled for; None: what the file says.
            kwargs: as for this class.

        Raises:
            HostError: no file of this kind, or one compiled for another device.
        """
        extra = {ABOUT: ""}
        try:
            model = torch.jit.load(str(compile_path), map_location="cpu", _extra_files=extra)
            about = json.loads(extra[ABOUT])
        except (RuntimeError, ValueError) as error:
            raise HostError(
                f"{compile_path} was not written by les-plugins compile: {str(error).splitlines()[0]}"
            ) from None
        if device is not None and torch.device(device).type != torch.device(about["device"]).type:
            raise HostError(f"{compile_path} was compiled for the device {about['device']!r}, not for {device!r}")
        name = device or str(about["device"])
        check_device(name)
        return cls(model, name, about, **kwargs)

    def evaluate_host(self, atoms: Atoms, properties: list[str], system_changes: list[str]) -> None:
        """MACE's, with Born effective charges where they are asked for."""
        born = bool({"born_effective_charges", CURRENT} & {*properties, *self.always})
        self._compiled.options = {"compute_born_charges": born}
        super().evaluate_host(atoms, properties, system_changes)
        out, self._compiled.output = self._compiled.output, {}
        self.add_compiled(out, atoms, out["latent_born_charges"] if born else None)


class _Remembering(nn.Module):
    """Calls a compiled model as MACE's calculator does, and keeps what it returned."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.options: dict[str, bool] = {}
        self.output: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def forward(self, data: dict[str, Tensor], **options: bool) -> dict[str, Tensor]:
        self.output = self.model(data, **options, **self.options)
        return self.output
