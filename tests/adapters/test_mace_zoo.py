"""The models of the zoo for MACE."""

from __future__ import annotations

import pytest

pytest.importorskip("mace", reason="mace is not installed: nox -s tests-mace")

from zoo_checks import ZooChecks, names


@pytest.mark.parametrize("name", names("mace"))
class TestZoo(ZooChecks):
    pass
