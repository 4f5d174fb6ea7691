"""Layers that were pickled by earlier releases. `LatentElectrostatics.__setstate__` calls it."""

from __future__ import annotations

from typing import Any

from les_plugins.electrostatics.settings import FORMER_WARNING, WARNING_ENERGY, ElectrostaticsSettings

#: What layers did before they had these settings.
_BEFORE = {"neutralize": "background", "net_charge_warning": None}


def from_former_state(state: dict[str, Any]) -> dict[str, Any]:
    """The state of today, of one that held every setting as an attribute.

    Args:
        state: of a layer of 0.1.
    """
    found = {**_BEFORE, **state}
    if found["net_charge_warning"] == FORMER_WARNING:
        found["net_charge_warning"] = WARNING_ENERGY
    if found.get("method") == "nvalchemi":
        found["method"] = "mesh"
    names = ElectrostaticsSettings.__dataclass_fields__
    settings = ElectrostaticsSettings(**{name: found.pop(name) for name in names if name in found})
    if found.pop("response", None) is None:
        found["response_model"] = None
    return {**found, "settings": settings}
