"""What a uniform field adds to the dipole of structures whose atoms answer each other (theory, sections 7 and 9.1)."""

import pytest
import torch
from self_consistent_cases import CLOSE, TIGHT, TOTALS, call, stronger

from les_plugins import LatentElectrostatics
from les_plugins.electrostatics.observables import system_polarizability


@pytest.mark.parametrize("axes", [0, 2, 3])
@TOTALS
def test_collective_polarizability_is_minus_the_second_derivative_of_the_energy_in_the_field(
    axes, total_charge, make_system, join
):
    system = join([make_system(n_atoms=n, periodic=axes > 0, seed=n) for n in (5, 2)])
    system = stronger(system, 2.0)._replace(pbc=torch.arange(3).expand(2, 3) < axes)
    layer = LatentElectrostatics(**TIGHT, total_charge=total_charge)
    responses = system.softness, system.polarizability
    geometry = system.positions, system.cell, system.pbc, system.batch
    parts = layer.collective_polarizability(*geometry, *responses)
    whole = system_polarizability(system.positions, system.pbc, system.batch, None, parts)
    one_shot = system_polarizability(system.positions, system.pbc, system.batch, *responses, system.cell)
    assert (whole - one_shot).abs().max() > 1e-2 * one_shot.abs().max()
    hessian = torch.autograd.functional.hessian(
        lambda value: call(layer, system, value, periodic_field="dipoles").energy.sum(),
        torch.zeros(2, 3, dtype=torch.float64),
    )
    torch.testing.assert_close(whole, -torch.stack([hessian[0, :, 0], hessian[1, :, 1]]), **CLOSE)


def test_collective_polarizability_of_a_doubled_cell_is_twice_that_of_the_cell(make_system):
    system = stronger(make_system(), 10.0)
    layer = LatentElectrostatics(**TIGHT)

    def whole(system):
        inputs = (system.positions, system.cell, system.pbc, system.batch, system.softness, system.polarizability)
        return layer.collective_polarizability(*inputs).sum(0)

    shift = torch.repeat_interleave(system.cell[0, :1] * torch.tensor([[0.0], [1.0]]), 5, 0)
    both = system.select(torch.arange(5).repeat(2))
    cell = system.cell * torch.tensor([2.0, 1.0, 1.0]).double()[None, :, None]
    doubled = both._replace(positions=both.positions + shift, cell=cell)
    torch.testing.assert_close(whole(doubled), 2.0 * whole(system), **CLOSE)


def test_one_shot_has_no_collective_polarizability(make_system):
    system = make_system()
    inputs = (system.positions, system.cell, system.pbc, system.batch, system.softness, system.polarizability)
    assert LatentElectrostatics().collective_polarizability(*inputs) is None
    assert LatentElectrostatics(response="self_consistent").collective_polarizability(*inputs[:4], None, None) is None
