"""The adapter contract on CHGNet."""

import pytest

pytest.importorskip("chgnet", reason="chgnet is not installed: nox -s tests-chgnet")

from les_plugins.adapters.chgnet.contract import CHGNetContract


class TestCHGNet(CHGNetContract):
    pass
