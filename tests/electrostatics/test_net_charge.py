"""The net charge of periodic structures and slabs: left to the background, taken off every atom, or refused."""

import pytest
import torch
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.errors import ConfigError, GeometryError

PERIODIC = pytest.mark.parametrize("periodic", [True, "slab"], ids=["periodic", "slab"])
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # the same operations on charges that differ by rounding


def charged(make_system, net=1.5, **settings):
    system = make_system(**settings)
    return system._replace(charge=system.charge + net / len(system.charge))


@PERIODIC
def test_shift_is_the_sum_of_the_charges_without_their_mean(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    shifted = solve(charged(make_system, periodic=periodic), neutralize="shift")
    for one, other in zip(shifted, solve(system), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    left = solve(charged(make_system, periodic=periodic))
    assert abs(float(left.energy[0] - shifted.energy[0])) > 0.1


def test_shift_leaves_open_structures_of_the_same_batch_alone(make_system, solve, join):
    systems = [
        charged(make_system, periodic=periodic, seed=seed) for seed, periodic in enumerate([True, False, "slab"])
    ]
    together = solve(join(systems), neutralize="shift")
    alone = torch.cat([solve(system, neutralize="shift").energy for system in systems])
    torch.testing.assert_close(together.energy, alone, rtol=1e-10, atol=1e-10)  # order of sums
    torch.testing.assert_close(alone[1:2], solve(systems[1]).energy, **EXACT)


def test_shift_takes_the_mean_of_every_channel(make_system, solve):
    system = make_system(order=0, response=None)
    channels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shifted = solve(system._replace(charge=channels), neutralize="shift")
    plain = solve(system._replace(charge=channels - channels.mean(0)))
    torch.testing.assert_close(shifted.energy, plain.energy, **EXACT)


def test_shift_keeps_energy_and_forces_together(make_system, solve, solve_with_forces):
    system = charged(make_system, periodic="slab")
    weight = torch.linspace(0.0, 0.2, 5, dtype=torch.float64)

    def energy(positions):  # charges that move with the atoms, as a model's do
        moved = system._replace(positions=positions, charge=system.charge + weight * positions[:, 0].sin())
        return solve(moved, neutralize="shift").energy[0]

    positions = system.positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(positions), positions)
    shift = torch.zeros(5, 3, dtype=torch.float64)
    shift[1, 0] = 1e-4
    numeric = (energy(system.positions + shift) - energy(system.positions - shift)) / 2e-4
    assert float(gradient[1, 0]) == pytest.approx(float(numeric), rel=1e-6)  # PHYSICS 9


@PERIODIC
def test_refuse_names_structure_and_charge_and_takes_what_is_neutral_to_rounding(periodic, make_system, solve, join):
    neutral = make_system(periodic=periodic)
    nearly = charged(make_system, net=5e-4, periodic=periodic)
    for system in (neutral, nearly):
        torch.testing.assert_close(solve(system, neutralize="refuse").energy, solve(system).energy, **EXACT)
    with pytest.raises(GeometryError, match=r"structure 1 is periodic and carries a net charge of 1.5 e; allowed"):
        solve(join([neutral, charged(make_system, periodic=periodic)]), neutralize="refuse")
    solve(charged(make_system, periodic=False), neutralize="refuse")  # an ion may be charged


@PERIODIC
def test_a_charged_cell_is_warned_of_once_and_not_in_training(periodic, make_system, recwarn):
    system = charged(make_system, periodic=periodic)
    layer = LatentElectrostatics().train()

    def run():
        layer(system.positions, system.cell, system.pbc, system.batch, Multipoles(system.charge))

    run()
    assert not recwarn.list
    layer.eval()
    with pytest.warns(UserWarning, match=r"structure 0 is periodic and carries .* of 1.5 e, more than .* 1 e"):
        run()
    recwarn.clear()
    run()
    assert not recwarn.list


@pytest.mark.parametrize(
    "settings", [{"net_charge_warning": None}, {"net_charge_warning": 2.0}, {"neutralize": "shift"}]
)
def test_no_warning_without_a_limit_below_it_and_for_shifted_charges(settings, make_system, recwarn):
    system = charged(make_system)
    layer = LatentElectrostatics(**settings).eval()
    layer(system.positions, system.cell, system.pbc, system.batch, Multipoles(system.charge))
    assert not recwarn.list


def test_traced_code_shifts_and_refuses_to_refuse(make_system, recwarn):
    system = charged(make_system)

    def trace(function):
        return make_fx(function, decomposition_table=core_aten_decompositions())(system.charge)

    def energy(settings):
        layer = LatentElectrostatics(static_cell=(9.0, 9.0, 9.0), **settings).eval()
        return lambda charge: layer(system.positions, system.cell, system.pbc, system.batch, Multipoles(charge)).energy

    shifted = energy({"neutralize": "shift"})
    traced = trace(shifted)
    other = system.charge.flip(0) + 0.1
    torch.testing.assert_close(traced(other), shifted(other), rtol=1e-10, atol=1e-10)  # other sums
    with pytest.raises(GeometryError, match=r"neutralize: refuse looks at the charges.*allowed in traced.* shift"):
        trace(energy({"neutralize": "refuse"}))
    trace(energy({}))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neutralize": "none"}, "neutralize is 'none'; allowed: 'background', 'shift', 'refuse'"),
        ({"net_charge_warning": 0.0}, "net_charge_warning is 0.0; allowed: a positive charge in e, or None"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LatentElectrostatics(**settings)
