"""Models of NequIP and Allegro that the user has as files: checkpoints, packages, compiled ones. For `distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nequip.model.inference_models import load_compiled_model
from nequip.model.saved_models.load_utils import load_saved_model
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT

from les_plugins.adapters.nequip.calculator import CalculatorOfTypes, LesNequIPCalculator
from les_plugins.adapters.nequip.compiled import LesCompiledCalculator
from les_plugins.adapters.nequip.model import initialize_nequip
from les_plugins.errors import HostError, raising
from les_plugins.hosting.pretrained import Pretrained, check_one_level

#: Ends of the names of the files that NequIP writes.
SAVED, COMPILED = (".nequip.zip", ".ckpt"), (".nequip.pt2", ".nequip.pth")


def pretrained(name: str, device: str, modality: str | None = None) -> Pretrained:
    """A checkpoint, a package, or a file that `nequip-compile` made for ASE; each can run any code when it is opened.

    Args:
        name: path of the file, which ends as one of `SAVED` and `COMPILED`.
        device: torch device, of a compiled model the one that it was compiled for.
        modality: none; a model of NequIP has one level of theory.

    Raises:
        HostError: no such file, one of another kind, or one that NequIP cannot load; a modality.
    """
    check_one_level("nequip", modality)
    path = Path(name)
    if not path.name.endswith((*SAVED, *COMPILED)):
        raise HostError(f"nequip: {name} is no file of NequIP; allowed: files *{', *'.join((*SAVED, *COMPILED))}")
    if not path.is_file():
        raise HostError(f"nequip: {name} does not exist; its package has no weights, and nothing is downloaded")
    initialize_nequip()
    with raising(HostError, f"{path}: NequIP cannot load it"):
        if path.name.endswith(SAVED):
            return Pretrained(LesNequIPCalculator(load_saved_model(str(path)).to(device), device), path)
        return Pretrained(_compiled(path, device), path)


def _compiled(path: Path, device: str) -> Any:
    """Calculator of a file compiled for NequIP's own calculator, or for ours."""
    target = COMPILE_TARGET_DICT["ase"]
    try:
        model, about = load_compiled_model(str(path), device, target["input"], target["output"])
    except ValueError:  # other inputs and outputs
        return LesCompiledCalculator.from_compiled_model(path, device)
    calculator = CalculatorOfTypes(model, device, list(about["type_names"]), about, None)
    calculator.adopt(None, calculator.known_elements)
    return calculator
