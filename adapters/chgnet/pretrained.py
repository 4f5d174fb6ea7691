"""Models of CHGNet that are there already: those in its package by name, others as files. `distill` and `train` ask."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import chgnet
import torch
from chgnet.model.model import CHGNet

from les_plugins.adapters.chgnet.calculator import LesCHGNetCalculator
from les_plugins.adapters.chgnet.model import LongRangeCHGNet
from les_plugins.errors import HostError, raising
from les_plugins.hosting.logs import quiet
from les_plugins.hosting.pretrained import Pretrained, check_one_level, is_packaged

#: Their names in CHGNet.
IN_PACKAGE = ("0.3.0", "0.2.0", "r2scan")


def pretrained(name: str, device: str, modality: str | None = None) -> Pretrained:
    """A model in CHGNet's package, or a file of CHGNet's trainer that the user has.

    Args:
        name: one of `IN_PACKAGE`, or the path of a file.
        device: torch device.
        modality: none; a model of CHGNet has one level of theory.

    Raises:
        HostError: neither a name nor a file; a modality.
    """
    check_one_level("chgnet", modality)
    model, path = open_model(name)
    return Pretrained(LesCHGNetCalculator(model, device), path, licence_of(name))


def licence_of(name: str) -> str | None:
    """Of a model in the package, as its own metadata state it; None of a file."""
    return importlib.metadata.metadata("chgnet")["License"] if name.lower() in IN_PACKAGE else None


def open_model(name: str) -> tuple[Any, Path]:
    """A CHGNet, with its long-range part if it has one, and the file that it is in; no code of the file is run.

    Raises:
        HostError: neither a name nor a file of CHGNet's trainer.
    """
    inside = is_packaged("chgnet", name, IN_PACKAGE, "a file of CHGNet")
    path = _file(name.lower()) if inside else Path(name)
    with raising(HostError, f"{name}: CHGNet cannot load it"), quiet():
        if inside:
            return CHGNet.load(model_name=name.lower(), use_device="cpu", verbose=False), path
        saved = torch.load(path, map_location="cpu", weights_only=True)["model"]
        return (LongRangeCHGNet if "long_range" in saved["model_args"] else CHGNet).from_dict(saved), path


def _file(name: str) -> Path:
    (found,) = (Path(chgnet.__file__).parent / "pretrained" / name).glob("*.pth.tar")
    return found
