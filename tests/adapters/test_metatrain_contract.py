"""The adapter contract on PET and on SOAP-BPNN."""

import pytest

pytest.importorskip("metatrain", reason="metatrain is not installed: nox -s tests-metatrain")

from les_plugins.adapters.metatrain.contract import PETContract, SoapBpnnContract


class TestPET(PETContract):
    pass


class TestSoapBpnn(SoapBpnnContract):
    pass
