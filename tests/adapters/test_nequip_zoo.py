"""The models of the zoo for NequIP."""

from __future__ import annotations

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

from zoo_checks import ZooChecks, names


@pytest.mark.parametrize("name", names("nequip"))
class TestZoo(ZooChecks):
    pass
