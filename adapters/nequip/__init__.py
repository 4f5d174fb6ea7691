"""NequIP and Allegro adapter. `plugin.py` implements the hooks; the other files import NequIP, when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from les_plugins.adapters.nequip.builder import LongRangeModel

__all__ = ["LongRangeModel"]


def __getattr__(name: str) -> Any:
    """`LongRangeModel`, the `_target_` of a NequIP config, without importing NequIP before it is wanted."""
    if name == "LongRangeModel":
        from les_plugins.adapters.nequip.builder import LongRangeModel

        return LongRangeModel
    raise AttributeError(name)
