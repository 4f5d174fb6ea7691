"""What a program calls: `attach`, `save` and `load`, which `les_plugins` itself offers too."""

from __future__ import annotations

from les_plugins.hosting.registry import attach
from les_plugins.storage.checkpoint import load, save

__all__ = ["attach", "load", "save"]
