"""The models of the zoo for NequIP."""

from __future__ import annotations

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

from zoo_checks import ZooChecks, names, surface_energy


@pytest.mark.parametrize("name", names("nequip"))
class TestZoo(ZooChecks):
    pass


def test_the_net_charge_that_bulk_training_left_is_no_part_of_a_surface():
    # as on the whole slab (docs/explanation/boundaries.md); with the charge left in it is −0.31. Energies are float32:
    # 6e-5 eV each over 308 Å²
    assert surface_energy("water-nequip") == pytest.approx(13.83, abs=0.01)
