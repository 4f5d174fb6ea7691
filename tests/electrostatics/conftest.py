"""Fixtures of the electrostatics tests: see random_systems.py."""

from __future__ import annotations

import pytest
from random_systems import forces_of, join_systems, random_system, solve_system


@pytest.fixture
def make_system():
    return random_system


@pytest.fixture
def solve():
    return solve_system


@pytest.fixture
def solve_with_forces():
    return forces_of


@pytest.fixture
def join():
    return join_systems
