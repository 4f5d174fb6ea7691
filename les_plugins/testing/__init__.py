"""The contract that every adapter passes, for authors of adapters: docs/how-to/write-an-adapter.md. Needs pytest."""

from __future__ import annotations

import importlib.util

from les_plugins.errors import HostError, how_to_install

if importlib.util.find_spec("pytest") is None:
    raise HostError(f"the adapter contract needs pytest: {how_to_install('testing')}")

import pytest

# the laws are plain asserts: let pytest explain them, wherever they are inherited
_LAWS = ("derivatives", "exactness", "fidelity", "physics", "sharing", "symmetry", "total_charge", "workflow")
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in (*_LAWS, "host", "solver", "training")))

from les_plugins.hosting.evaluated import HostResult
from les_plugins.moved import renamed
from les_plugins.testing.contract import AdapterContract
from les_plugins.testing.host import long_range_part
from les_plugins.testing.solver import SolverContract
from les_plugins.testing.structures import labelled_waters, waters

__all__ = ["AdapterContract", "HostResult", "SolverContract", "labelled_waters", "long_range_part", "waters"]

__getattr__ = renamed(__name__, {"Evaluation": "HostResult"})
