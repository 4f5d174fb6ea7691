"""Devices that were asked for and may be absent. Commands, loaders and adapters ask here first."""

from __future__ import annotations

import torch

from les_plugins.errors import DeviceError


def check_device(name: str) -> torch.device:
    """The torch device of that name, or a DeviceError that says what this machine has."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"device {name!r} is not a device; allowed: cpu, cuda, cuda:N, mps, xpu") from None
    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if hasattr(torch, "xpu"):
        found["xpu"] = torch.xpu.device_count()
    available = found.get(device.type, 0)
    if available == 0 or (device.index or 0) >= available:
        names = ", ".join(kind for kind, count in found.items() if count)
        raise DeviceError(f"device {name!r} was asked for, but this machine has only: {names}")
    return device
