"""Models of MatGL that the user has as folders. For `les-plugins distill`."""

from __future__ import annotations

from pathlib import Path

import matgl
from matgl.apps.pes import Potential

from les_plugins.adapters.matgl.calculator import LesMatGLCalculator
from les_plugins.errors import HostError, raising
from les_plugins.hosting.pretrained import Pretrained, check_one_level

#: What MatGL saves in a folder; of a folder without one of them it would ask the network.
FILES = ("model.json", "model.pt", "state.pt")


def pretrained(name: str, device: str, modality: str | None = None) -> Pretrained:
    """A folder that MatGL saved. Its tensors run no code; the class that its model.json names is imported.

    Args:
        name: path of the folder.
        device: torch device.
        modality: none; a model of MatGL has one level of theory.

    Raises:
        HostError: no such folder, one without a file of MatGL's, or one that MatGL cannot load; a modality.
    """
    check_one_level("matgl", modality)
    folder = Path(name)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        state = f"has no {', '.join(missing)}" if folder.is_dir() else "is no folder"
        raise HostError(f"matgl: {name} {state}; expected a folder that MatGL saved; nothing is downloaded")
    with raising(HostError, f"{folder}: MatGL cannot load it"):
        potential = matgl.load_model(folder)
    if not isinstance(potential, Potential):
        raise HostError(f"{folder}: holds a {type(potential).__name__}; expected a Potential of MatGL")
    return Pretrained(LesMatGLCalculator(potential, device), folder / "state.pt")
