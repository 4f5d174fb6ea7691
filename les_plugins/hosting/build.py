"""The long-range part of a section: heads, electrostatics and response from whoever offers them. Adapters call it."""

from __future__ import annotations

from les_plugins.config import LongRangeConfig
from les_plugins.hosting.registry import physics_hooks
from les_plugins.model.features import FeatureLayout
from les_plugins.model.long_range import LongRange


def build_long_range(layout: FeatureLayout, config: LongRangeConfig) -> LongRange:
    """Put the parts that the section asks for together.

    Args:
        layout: the host's features.
        config: the `long_range:` section.
    """
    hooks = physics_hooks()
    heads = hooks.les_make_heads(features=layout, config=config)
    layer = hooks.les_make_solver(config=config)
    layer.response_model = hooks.les_make_response(config=config)
    return LongRange(heads, layer, config)
