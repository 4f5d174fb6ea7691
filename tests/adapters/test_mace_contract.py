"""The adapter contract on MACE."""

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

from les_plugins.adapters.mace.contract import MACEContract


class TestMACE(MACEContract):
    pass
