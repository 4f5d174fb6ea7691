"""`AdapterContract`: all laws at once. An adapter's test class inherits it and fills in the rest of `ContractHost`."""

from __future__ import annotations

import pytest

from les_plugins.testing.charge_flow import ChargeFlow
from les_plugins.testing.derivatives import Derivatives
from les_plugins.testing.exactness import Exactness
from les_plugins.testing.fidelity import Fidelity
from les_plugins.testing.physics import Physics
from les_plugins.testing.sharing import Sharing
from les_plugins.testing.symmetry import Symmetry
from les_plugins.testing.total_charge import TotalCharges
from les_plugins.testing.workflow import Workflow


class AdapterContract(Exactness, Symmetry, Derivatives, Physics, ChargeFlow, TotalCharges, Sharing, Fidelity, Workflow):
    """What every adapter passes. Subclass it as `class TestMyHost(AdapterContract)` and pytest collects the tests."""

    @classmethod
    def laws(cls) -> list[str]:
        """Names of all tests of the contract."""
        return sorted(name for name in dir(cls) if name.startswith("test_"))

    def test_what_is_skipped_exists_and_has_a_reason(self) -> None:
        for name, reason in self.skips.items():
            if name not in self.laws():
                pytest.fail(f"skips names {name}, which is no test of the contract")
            if len(reason.split()) < 4:
                pytest.fail(f"skips gives no reason for {name}: {reason!r}")
