"""What every test shares: one thread; files test_<host>*.py are left out, in words, where their host is absent."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

torch.set_num_threads(1)  # tensors are tiny: more threads only wait for each other

#: Import names of the hosts; tests/adapters/test_<host>*.py need them.
HOSTS = ("mace",)
_MISSING = [host for host in HOSTS if find_spec(host) is None]

collect_ignore_glob = [f"adapters/test_{host}*.py" for host in _MISSING]


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    return [f"{host} is not installed: tests/adapters/test_{host}*.py are left out" for host in _MISSING]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
