"""Models of SevenNet that are there already: those in its wheel by name, others as files. For `les-plugins distill`."""

from __future__ import annotations

import importlib.metadata
import warnings
from pathlib import Path

from sevenn import util
from sevenn.calculator import SevenNetCalculator
from sevenn.checkpoint import SevenNetCheckpoint

from les_plugins.errors import HostError, raising
from les_plugins.hosting.pretrained import Pretrained, is_packaged

#: Their names in SevenNet, and those of the files in its wheel. Other names of SevenNet's are downloaded by it.
IN_WHEEL = ("7net-0", "7net-0_11jul2024", "7net-0_22may2024", "7net-l3i5", "7net-mf-0")


def pretrained(name: str, device: str, modality: str | None = None) -> Pretrained:
    """A model in SevenNet's wheel, or a checkpoint of SevenNet that the user has.

    Args:
        name: one of `IN_WHEEL`, or the path of a checkpoint (a pickle: only what the user typed is opened).
        device: torch device.
        modality: fidelity of a model that has several, such as "R2SCAN".

    Raises:
        HostError: neither a name nor a file; a fidelity that the model has not.
    """
    inside = is_packaged("sevennet", name, IN_WHEEL, "a checkpoint of SevenNet")
    path = Path(util.pretrained_name_to_path(name)) if inside else Path(name)
    with raising(HostError, f"{path}: SevenNet cannot load it"):
        known = SevenNetCheckpoint(str(path)).config.get("_modal_map") or {}
        _check_modality(name, modality, list(known))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No tensor product accelerator is enabled")
            calculator = SevenNetCalculator(str(path), device=device, modal=modality)
    calculator.known_elements = tuple(sorted(calculator.type_map))
    return Pretrained(calculator, path, licence_of(name))


def licence_of(name: str) -> str | None:
    """Of a model in the wheel, as the package's own metadata state it, in one line; None of anything else."""
    if name.lower() not in IN_WHEEL or Path(name).exists():
        return None
    return str(importlib.metadata.metadata("sevenn")["License"]).splitlines()[0].removesuffix(" License")


def _check_modality(name: str, modality: str | None, known: list[str]) -> None:
    if known and modality not in known:
        given = "no --modality is given" if modality is None else f"--modality is {modality!r}"
        raise HostError(f"{name} has several levels of theory and {given}; allowed: {', '.join(known)}")
    if modality is not None and not known:
        raise HostError(f"--modality is {modality!r}, but {name} has one level of theory")
