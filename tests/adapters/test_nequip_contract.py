"""The adapter contract on NequIP and on Allegro."""

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

from les_plugins.adapters.nequip.contract import AllegroContract, NequIPContract


class TestNequIP(NequIPContract):
    pass


class TestAllegro(AllegroContract):
    pass
