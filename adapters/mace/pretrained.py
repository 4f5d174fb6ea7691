"""Models of MACE that the user has as files. For `les-plugins distill`."""

from __future__ import annotations

from pathlib import Path

import torch
from mace.tools import AtomicNumberTable
from torch import nn

from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.errors import HostError, raising
from les_plugins.hosting.pretrained import Pretrained
from les_plugins.precision import default_dtype


def pretrained(name: str, device: str, modality: str | None = None) -> Pretrained:
    """A `.model` file of MACE: a pickle, which can run any code when it is opened, so only what the user typed is.

    Args:
        name: path of the file.
        device: torch device.
        modality: head of a model that has several.

    Raises:
        HostError: no such file, or one that MACE cannot load; a head that the model has not.
    """
    path = Path(name)
    if not path.is_file():
        raise HostError(f"mace: {name} does not exist; expected a .model file of MACE (its package has no weights)")
    with raising(HostError, f"{path}: MACE cannot load it"):
        model = torch.load(path, map_location=device, weights_only=False)
        if not isinstance(model, nn.Module):
            raise HostError(f"{path}: holds a {type(model).__name__}, no model of MACE")
        with default_dtype(next(model.parameters()).dtype):
            calculator = LesMACECalculator(model, device, **({} if modality is None else {"head": modality}))
    calculator.known_elements = tuple(AtomicNumberTable([int(z) for z in model.atomic_numbers]).zs)
    return Pretrained(calculator, path)
