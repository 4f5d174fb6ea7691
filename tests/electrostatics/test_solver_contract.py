"""The sums of les-plugins itself pass the contract of solvers; nvalchemi's where it is installed."""

from __future__ import annotations

import importlib.util

import pytest

from les_plugins.testing import SolverContract


class TestDirectSum(SolverContract):
    method = "direct"


class TestMesh(SolverContract):
    method = "mesh"
    accuracy = 1e-4  # forces to 1e-5 of their root mean square; the energy of six atoms is small beside its terms


@pytest.mark.skipif(importlib.util.find_spec("nvalchemiops") is None, reason="nvalchemi-toolkit-ops is not installed")
class TestNvalchemi(SolverContract):
    method = "nvalchemi"
    boundaries = ("periodic",)
    takes_field = False
    accuracy = 1e-4
