"""The net charge: left where a background neutralises it, taken off every atom, kept, or refused; what it costs."""

import math

import pytest
import torch
from tracing import trace

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.errors import ConfigError, GeometryError, LesPluginsWarning

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


BOUNDARIES = (True, False, "slab")


@pytest.mark.parametrize(
    ("neutralize", "neutral"),
    [("background", (False, True, True)), ("shift", (True, True, True)), ("keep", (False, False, False))],
)
def test_every_boundary_of_one_batch_follows_its_own_rule(neutralize, neutral, make_system, solve, join):
    systems = [charged(make_system, periodic=periodic, seed=seed) for seed, periodic in enumerate(BOUNDARIES)]
    together = solve(join(systems), neutralize=neutralize)
    expected = [
        solve(system._replace(charge=system.charge - system.charge.mean()) if taken_off else system)
        for system, taken_off in zip(systems, neutral, strict=True)
    ]
    # order of sums
    torch.testing.assert_close(together.energy, torch.cat([one.energy for one in expected]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(together.charge, torch.cat([one.charge for one in expected]), rtol=1e-10, atol=1e-10)


def test_the_layer_alone_keeps_the_charges_that_it_is_given(make_system, solve):
    system = charged(make_system, periodic=False, response=None)
    torch.testing.assert_close(solve(system).charge, system.charge, rtol=0, atol=0)


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
    assert float(gradient[1, 0]) == pytest.approx(float(numeric), rel=1e-6)  # theory, section 12


@PERIODIC
def test_refuse_names_structure_and_charge_and_takes_what_is_neutral_to_rounding(periodic, make_system, solve, join):
    neutral = make_system(periodic=periodic)
    nearly = charged(make_system, net=5e-4, periodic=periodic)
    for system in (neutral, nearly):
        torch.testing.assert_close(solve(system, neutralize="refuse").energy, solve(system).energy, **EXACT)
    with pytest.raises(GeometryError, match=r"structure 1 is periodic and carries a net charge of 1.5 e; allowed"):
        solve(join([neutral, charged(make_system, periodic=periodic)]), neutralize="refuse")
    # no background is there to leave it to
    open_one = charged(make_system, periodic=False)
    neutral = open_one._replace(charge=open_one.charge - open_one.charge.mean())
    torch.testing.assert_close(solve(open_one, neutralize="refuse").energy, solve(neutral).energy, **EXACT)


def test_the_warning_comes_once_and_not_in_training(make_system, recwarn):
    system = charged(make_system)
    layer = LatentElectrostatics().train()

    def run():
        layer(system.positions, system.cell, system.pbc, system.batch, Multipoles(system.charge))

    run()
    assert not recwarn.list
    layer.eval()
    with pytest.warns(LesPluginsWarning, match=r"structure 0 carries a net charge of 1.5 e, .* background"):
        run()
    recwarn.clear()
    run()
    assert not recwarn.list


def energy_warned_of(text):
    """meV an atom, as the warning says."""
    return float(text.split("e, ")[1].split(" meV an atom")[0])


COULOMB = 14.3996  # eV·Å/e², theory, section 1


def coulomb_energies(system, periodic):
    """k_e Q²/L, and 2π k_e Q² L/A of a slab, meV an atom, by hand (theory, section 5)."""
    net, places = float(system.charge.sum()), system.positions
    if periodic == "slab":
        normal = torch.linalg.cross(system.cell[0, 2], system.cell[0, 0])
        area = float(normal.norm())
        height = places @ normal / area
        energy = 2 * math.pi * COULOMB * net**2 * float(height.max() - height.min()) / area
    elif periodic:
        energy = COULOMB * net**2 / float(torch.linalg.det(system.cell[0]).abs()) ** (1 / 3)
    else:
        energy = COULOMB * net**2 / float((places.amax(0) - places.amin(0)).max())
    return 1e3 * energy / len(places)


@pytest.mark.parametrize("periodic", BOUNDARIES)
def test_the_warning_says_the_energy_of_the_net_charge_in_every_boundary(periodic, make_system):
    system = charged(make_system, periodic=periodic)
    expected = coulomb_energies(system, periodic)
    arguments = (system.positions, system.cell, system.pbc, system.batch, Multipoles(system.charge))
    with pytest.warns(LesPluginsWarning) as caught:
        LatentElectrostatics(net_charge_warning=0.99 * expected)(*arguments)
    assert energy_warned_of(str(caught[0].message)) == pytest.approx(expected, rel=5e-3)  # three digits are said
    LatentElectrostatics(net_charge_warning=1.01 * expected)(*arguments)  # warnings are errors here


def test_the_warning_names_the_structure_of_a_batch_that_costs_most(make_system, join):
    systems = [
        charged(make_system, net, periodic=periodic) for net, periodic in zip((0.1, 2, 0.1), BOUNDARIES, strict=True)
    ]
    system = join(systems)
    with pytest.warns(LesPluginsWarning, match="structure 1 carries a net charge of 2 e.* acts on every atom"):
        LatentElectrostatics()(system.positions, system.cell, system.pbc, system.batch, Multipoles(system.charge))


def test_a_lone_atom_in_a_box_is_told_apart_and_in_vacuum_has_no_energy(make_system):
    arguments = (torch.zeros(1, 3).double(), 10.0 * torch.eye(3).double()[None])
    rest = (torch.zeros(1, dtype=torch.long), Multipoles(torch.ones(1).double()))
    with pytest.warns(
        LesPluginsWarning, match=r"1\.44e\+03 meV .* one atom in a periodic box, and its energy is that of"
    ):
        LatentElectrostatics()(*arguments, torch.ones(1, 3, dtype=torch.bool), *rest)
    LatentElectrostatics()(*arguments, torch.zeros(1, 3, dtype=torch.bool), *rest)  # warnings are errors here


@pytest.mark.parametrize(
    ("settings", "periodic"),
    [
        ({"net_charge_warning": None}, True),
        ({"neutralize": "shift"}, True),
        ({"neutralize": "background"}, "slab"),
        ({"neutralize": "background"}, False),
    ],
)
def test_there_is_no_warning_where_it_is_silenced_or_the_charge_taken_off(settings, periodic, make_system, recwarn):
    system = charged(make_system, periodic=periodic)
    layer = LatentElectrostatics(**settings).eval()
    layer(system.positions, system.cell, system.pbc, system.batch, Multipoles(system.charge))
    assert not recwarn.list


def test_channels_are_warned_of_by_the_sum_of_their_energies(make_system):
    system = make_system(order=0, response=None)
    channels = torch.tensor([[0.3, 0.4]], dtype=torch.float64).expand(5, 2)
    single = charged(make_system, 2.5)  # √(1.5² + 2²)
    with pytest.warns(LesPluginsWarning) as caught:
        LatentElectrostatics()(*system[:4], Multipoles(channels))
    assert energy_warned_of(str(caught[0].message)) == pytest.approx(coulomb_energies(single, True), rel=5e-3)


def test_traced_code_shifts_and_refuses_to_refuse(make_system, recwarn):
    system = charged(make_system)

    def energy(settings):
        layer = LatentElectrostatics(static_cell=(9.0, 9.0, 9.0), **settings).eval()
        return lambda charge: layer(system.positions, system.cell, system.pbc, system.batch, Multipoles(charge)).energy

    shifted = energy({"neutralize": "shift"})
    traced = trace(shifted)(system.charge)
    other = system.charge.flip(0) + 0.1
    torch.testing.assert_close(traced(other), shifted(other), rtol=1e-10, atol=1e-10)  # other sums
    with pytest.raises(GeometryError, match=r"neutralize: refuse looks at the charges.*allowed in traced.* shift"):
        trace(energy({"neutralize": "refuse"}))(system.charge)
    trace(energy({}))(system.charge)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neutralize": "none"}, "neutralize is 'none'; allowed: 'background', 'shift', 'keep', 'refuse'"),
        ({"net_charge_warning": 0.0}, "net_charge_warning is 0.0; allowed: a positive energy in meV an atom, or None"),
        ({"net_charge_warning": "1"}, "net_charge_warning is '1'; allowed: a positive energy in meV an atom, or None"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LatentElectrostatics(**settings)
