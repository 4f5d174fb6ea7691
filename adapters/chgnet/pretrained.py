"""Models of CHGNet that are there already: those in its package by name, others as files. For `les-plugins distill`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import chgnet
from chgnet.model.model import CHGNet

from les_plugins.adapters.chgnet.calculator import LesCHGNetCalculator
from les_plugins.adapters.chgnet.model import quiet
from les_plugins.errors import HostError, did_you_mean, raising
from les_plugins.hosting.pretrained import Pretrained

#: Their names in CHGNet.
IN_PACKAGE = ("0.3.0", "0.2.0", "r2scan")


def pretrained(name: str, device: str, modality: str | None = None) -> Pretrained:
    """A model in CHGNet's package, or a file of CHGNet's trainer that the user has.

    Args:
        name: one of `IN_PACKAGE`, or the path of a file (a pickle: only what the user typed is opened).
        device: torch device.
        modality: none; a model of CHGNet has one level of theory.

    Raises:
        HostError: neither a name nor a file; a modality.
    """
    if modality is not None:
        raise HostError(f"--modality is {modality!r}, but models of chgnet have one level of theory")
    inside = name.lower() in IN_PACKAGE
    if not inside and not Path(name).is_file():
        raise HostError(
            f"chgnet has no model {name!r}{did_you_mean(name, IN_PACKAGE)}; allowed: {', '.join(IN_PACKAGE)}, or the "
            "path of a file of CHGNet; nothing is downloaded"
        )
    with raising(HostError, f"{name}: CHGNet cannot load it"), quiet():
        if inside:
            path = _file(name.lower())
            model = CHGNet.load(model_name=name.lower(), use_device=device, verbose=False)
        else:
            path = Path(name)
            model = CHGNet.from_file(name)
    return Pretrained(LesCHGNetCalculator(model, device), path, _licence() if inside else None)


def _file(name: str) -> Path:
    (found,) = (Path(chgnet.__file__).parent / "pretrained" / name).glob("*.pth.tar")
    return found


def _licence() -> str:
    """As the package's own metadata state it."""
    return str(importlib.metadata.metadata("chgnet")["License"])
