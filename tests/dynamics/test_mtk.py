"""The one module that reads ASE's private attributes says when they are not there."""

from __future__ import annotations

import ase
import numpy as np
import pytest
from ase import Atoms, units

from les_plugins.dynamics import mtk
from les_plugins.errors import HostError


def integrator(centre_rests: bool = True) -> mtk.MTK:
    atoms = Atoms("Ar4", np.arange(12.0).reshape(4, 3), cell=[15.0] * 3, pbc=True)
    return mtk.MTK(atoms, units.fs, 300.0, 0.0, 100 * units.fs, 1000 * units.fs, centre_rests)


@pytest.mark.parametrize(("part", "name"), [("", "_p_eps"), ("_thermostat", "_eta"), ("_barostat", "_W")])
def test_an_integrator_without_a_part_is_an_error_that_names_ase(part: str, name: str) -> None:
    changed = integrator()
    delattr(getattr(changed, part) if part else changed, name)
    where = rf"IsotropicMTKNPT\.{part + '.' if part else ''}{name}"
    with pytest.raises(HostError, match=rf"ASE {ase.__version__}, whose integrator has no {where}: install ase>=3"):
        mtk.check(changed)


def test_state_put_back_is_the_state() -> None:
    first, second = integrator(), integrator()
    first._thermostat._eta[:] = [0.1, 0.2, 0.3]
    first._p_eps = -0.4
    second.set_state(first.state())
    assert all(np.array_equal(value, second.state()[name]) for name, value in first.state().items())
    assert second._p_eps == -0.4
    with pytest.raises(ValueError, match=r"_thermostat\._eta of shape \(2,\)"):
        second.set_state({**first.state(), "_thermostat._eta": np.zeros(2)})


def test_a_centre_at_rest_has_no_share_of_the_heat() -> None:
    whole, resting = integrator(centre_rests=False), integrator()
    assert resting._thermostat._Q[0] == pytest.approx(whole._thermostat._Q[0] * 3 / 4)  # 3N − 3 of 3N
    assert pytest.approx(whole._barostat.W * 12 / 15) == resting._barostat.W  # 3N − 3 + 3 of 3N + 3
