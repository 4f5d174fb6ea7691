"""The adapter contract on TensorNet and on M3GNet."""

import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

from les_plugins.adapters.matgl.contract import M3GNetContract, TensorNetContract


class TestTensorNet(TensorNetContract):
    pass


class TestM3GNet(M3GNetContract):
    pass
