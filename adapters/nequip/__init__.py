"""NequIP and Allegro adapter. `plugin.py` names what it does; the other files import NequIP, when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from les_plugins.adapters.nequip.builder import LongRangeModel, PretrainedModel

__all__ = ["LongRangeModel", "PretrainedModel"]


def __getattr__(name: str) -> Any:
    """What a NequIP config names as `_target_`, without importing NequIP before it is wanted."""
    if name in __all__:
        from les_plugins.adapters.nequip import builder

        return getattr(builder, name)
    raise AttributeError(name)
