"""MACE on the kernels of cuEquivariance or OpenEquivariance and back: the MACE inside is converted, by MACE's own code.

Calculator and training ask; checkpoints hold e3nn's form. Only cuEquivariance changes the layout of features
(`model.components_first`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from mace.cli.convert_cueq_e3nn import run as cueq_to_e3nn
from mace.cli.convert_e3nn_cueq import run as e3nn_to_cueq
from mace.cli.convert_e3nn_hybrid import run as e3nn_to_hybrid
from mace.cli.convert_e3nn_oeq import run as e3nn_to_oeq
from mace.cli.convert_oeq_e3nn import run as oeq_to_e3nn
from mace.modules import wrapper_ops
from torch import nn

from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.errors import HostError, raising
from les_plugins.precision import default_dtype

#: MACE's options, the package that each needs, and whether it is installed.
OPTIONS = {
    "enable_cueq": ("cuequivariance_torch", wrapper_ops.CUET_AVAILABLE),
    "enable_oeq": ("openequivariance", wrapper_ops.OEQ_AVAILABLE),
}
_TO = {
    ("enable_cueq",): e3nn_to_cueq,
    ("enable_oeq",): e3nn_to_oeq,
    ("enable_cueq", "enable_oeq"): e3nn_to_hybrid,
}


def wanted(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of `OPTIONS` are set.

    Raises:
        HostError: one whose package is not installed.
    """
    found = tuple(option for option in OPTIONS if options.get(option))
    for option in found:
        package, available = OPTIONS[option]
        if not available:
            raise HostError(f"{option}: {package} is not installed or cannot be loaded")
    return found


def accelerated(model: nn.Module, options: tuple[str, ...], device: str = "cpu") -> nn.Module:
    """A model whose MACE runs on other kernels; the model that is given is not changed, and its long-range part shared.

    Args:
        model: a LongRangeMACE or a MACE.
        options: of `wanted`; the same model for none.
        device: that it will run on.

    Raises:
        HostError: what MACE cannot convert.
    """
    if not options:
        return model
    return _converted(model, _TO[options], f"MACE cannot convert this model ({', '.join(options)})", device)


def plain(model: nn.Module) -> nn.Module:
    """The model in e3nn's form; the same where it is.

    Raises:
        HostError: what MACE cannot convert.
    """
    base = model.base if isinstance(model, LongRangeMACE) else model
    kernels = backend_of(base)
    if not kernels:
        return model
    if len(kernels) > 1:
        raise HostError(f"this MACE uses {' and '.join(kernels)}: convert it to e3nn before it is saved")
    back = cueq_to_e3nn if kernels == ("cuEquivariance",) else oeq_to_e3nn
    return _converted(model, back, f"MACE cannot convert this model from {kernels[0]} to e3nn", "cpu")


def backend_of(base: Any) -> tuple[str, ...]:
    """Names of the kernels that a MACE uses beside PyTorch's own."""
    settings = {
        "cuEquivariance": getattr(base.products[0], "cueq_config", None),
        "OpenEquivariance": getattr(base.interactions[0], "oeq_config", None),
    }
    return tuple(name for name, found in settings.items() if found is not None and found.enabled)


def _converted(model: nn.Module, convert: Any, what: str, device: str) -> nn.Module:
    base = model.base if isinstance(model, LongRangeMACE) else model
    parameter = next(base.parameters())
    # MACE compares with "cuda", and sets torch's default dtype
    with raising(HostError, what), default_dtype(parameter.dtype), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "To copy construct from a tensor")  # cuEquivariance's own
        other: nn.Module = convert(copy.deepcopy(base), device=torch.device(device).type)
    other = other.to(parameter.device).train(base.training)
    if not isinstance(model, LongRangeMACE):
        return other
    changed = copy.copy(model)
    changed._modules = {**model._modules, "base": other}
    return changed
