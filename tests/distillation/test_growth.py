"""What structures are grown by: numbers that cannot be name their option."""

from __future__ import annotations

import pytest

from les_plugins.distillation.growth import Growth
from les_plugins.errors import ConfigError

GROWTH = {"frames": 6, "temperatures": (20.0, 60.0), "waves": 0.3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 1}, "--grow is 1"),
        ({"temperatures": (0.0,)}, "--temperature is 0; allowed: above 0 and below 100000 K"),
        ({"temperatures": (300.0, 1e6)}, r"--temperature is 300, 1e\+06; allowed: above 0 and below 100000 K"),
        ({"waves": 0.8, "rattled": 0.5}, "allowed: up to 1 together|are parts of all"),
    ],
)
def test_growth_that_cannot_be_names_its_option(changes, said):
    with pytest.raises(ConfigError, match=said):
        Growth.of(**{**GROWTH, **changes})
