"""Settings of a simulation: what no step or no file survives is named before the first one."""

from __future__ import annotations

import pytest

from les_plugins.dynamics import Settings
from les_plugins.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pressure", 1e300),
        ("barostat_time", 1e-300),
        ("thermostat_time", 1e300),
        ("timestep", 1e-320),
        ("every", 10**15),
        ("steps", 10**15),
    ],
)
def test_settings_that_no_step_survives_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is "):
        Settings.of(**{"ensemble": "npt", "temperature": 300.0, "pressure": 1.0, name: value})
