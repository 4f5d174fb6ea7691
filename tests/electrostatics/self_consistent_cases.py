"""What the tests of the self-consistent response share."""

import pytest

from les_plugins import Multipoles

BOUNDARIES = pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
TOTALS = pytest.mark.parametrize("total_charge", ["free", "fixed"])
#: Small structures are solved exactly; others, and all where no matrix is made, by iterations.
SOLUTIONS = pytest.mark.parametrize("most_work", [None, 0.0], ids=["exact", "iterated"])
TIGHT = {"response": "self_consistent", "response_tolerance": 1e-13}
# the solution's own tolerance and the order of sums
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def stronger(system, factor):
    """The same with so many times the softness and the polarizability."""
    return system._replace(softness=factor * system.softness, polarizability=factor * system.polarizability)


def call(layer, system, external_field=None, **how):
    """The layer's result."""
    return layer(
        system.positions,
        system.cell,
        system.pbc,
        system.batch,
        Multipoles(system.charge, system.dipole, system.quadrupole),
        softness=system.softness,
        polarizability=system.polarizability,
        external_field=external_field,
        **how,
    )


def iterate(monkeypatch, most_work=0.0):
    """Solve structures of any size by iterations; those above some work, or none for None."""
    if most_work is not None:
        for device in ("MOST_WORK", "DEVICE_WORK"):
            monkeypatch.setattr(f"les_plugins.electrostatics.couplings.{device}", most_work)
