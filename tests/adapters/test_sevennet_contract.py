"""The adapter contract on SevenNet."""

import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

from les_plugins.adapters.sevennet.contract import SevenNetContract


class TestSevenNet(SevenNetContract):
    pass
