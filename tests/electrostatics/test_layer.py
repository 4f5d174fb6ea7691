"""The layer as a whole: symmetries, batches, the meaning of its outputs, and what it refuses."""

import pytest
import torch

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.errors import ConfigError, GeometryError

BOUNDARIES = pytest.mark.parametrize("periodic", [False, True, "slab"], ids=["open", "periodic", "slab"])
ROUNDING = {"rtol": 1e-10, "atol": 1e-10}  # exact laws: float64 rounding only


def rotation(seed=0):
    matrix, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return matrix * torch.linalg.det(matrix).sign()


def transformed(system, matrix):
    return system._replace(
        positions=system.positions @ matrix.T,
        cell=system.cell @ matrix.T,
        dipole=system.dipole @ matrix.T,
        quadrupole=matrix @ system.quadrupole @ matrix.T,
        polarizability=matrix @ system.polarizability @ matrix.T,
    )


@BOUNDARIES
@pytest.mark.parametrize("matrix", [rotation(0), rotation(1), -torch.eye(3).double(), -rotation(2)])
def test_energy_is_invariant_and_vectors_turn_under_rotation_and_inversion(
    periodic, matrix, make_system, solve_with_forces
):
    system = make_system(periodic=periodic)
    one, forces = solve_with_forces(system)
    other, turned = solve_with_forces(transformed(system, matrix))
    torch.testing.assert_close(other.atomic_energy, one.atomic_energy, **ROUNDING)
    torch.testing.assert_close(other.potential, one.potential, **ROUNDING)
    torch.testing.assert_close(other.charge, one.charge, **ROUNDING)
    torch.testing.assert_close(other.field, one.field @ matrix.T, **ROUNDING)
    torch.testing.assert_close(other.dipole, one.dipole @ matrix.T, **ROUNDING)
    torch.testing.assert_close(turned, forces @ matrix.T, **ROUNDING)


@BOUNDARIES
def test_energy_is_invariant_under_translation(periodic, make_system, solve_with_forces):
    system = make_system(periodic=periodic)
    shift = torch.tensor([0.123, -4.56, 7.89], dtype=torch.float64)
    one, forces = solve_with_forces(system)
    other, same = solve_with_forces(system._replace(positions=system.positions + shift))
    torch.testing.assert_close(other.atomic_energy, one.atomic_energy, **ROUNDING)
    torch.testing.assert_close(same, forces, **ROUNDING)
    torch.testing.assert_close(forces.sum(0), torch.zeros(3, dtype=torch.float64), **ROUNDING)


def test_any_image_of_an_atom_gives_the_same_energy_and_forces(make_system, solve_with_forces):
    system = make_system()
    images = torch.randint(-9, 10, (5, 3), generator=torch.Generator().manual_seed(1)).double()
    one, forces = solve_with_forces(system)
    other, same = solve_with_forces(system._replace(positions=system.positions + images @ system.cell[0]))
    torch.testing.assert_close(other.atomic_energy, one.atomic_energy, **ROUNDING)
    torch.testing.assert_close(same, forces, **ROUNDING)


@BOUNDARIES
def test_outputs_follow_a_permutation_of_the_atoms(periodic, make_system, solve_with_forces):
    system = make_system(periodic=periodic)
    order = torch.tensor([3, 0, 4, 2, 1])
    one, forces = solve_with_forces(system)
    other, permuted = solve_with_forces(system.select(order))
    torch.testing.assert_close(other.energy, one.energy, **ROUNDING)
    torch.testing.assert_close(other.field, one.field[order], **ROUNDING)
    torch.testing.assert_close(permuted, forces[order], **ROUNDING)


@BOUNDARIES
@pytest.mark.parametrize("self_interaction", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_potential_and_field_are_derivatives_of_the_permanent_energy(
    periodic, self_interaction, order, make_system, solve
):
    system = make_system(periodic=periodic, order=order, response=None)
    charge = system.charge.clone().requires_grad_()
    dipole = (torch.zeros(5, 3, dtype=torch.float64) if order == 0 else system.dipole).clone().requires_grad_()
    result = solve(system._replace(charge=charge, dipole=dipole), remove_self_interaction=not self_interaction)
    on_charge, on_dipole = torch.autograd.grad(result.energy.sum(), (charge, dipole))
    plain = solve(system, remove_self_interaction=not self_interaction)
    torch.testing.assert_close(plain.potential, on_charge, **ROUNDING)
    torch.testing.assert_close(plain.field, -on_dipole, **ROUNDING)
    torch.testing.assert_close(result.energy, plain.energy, **ROUNDING)


@BOUNDARIES
def test_atomic_energies_sum_to_the_energy(periodic, make_system, solve):
    for settings in ({}, {"remove_self_interaction": False}, {"response": None}):
        result = solve(make_system(periodic=periodic), **settings)
        torch.testing.assert_close(result.atomic_energy.sum()[None], result.energy, **ROUNDING)


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("shuffled", [False, True])
def test_mixed_batch_equals_one_by_one(order, shuffled, make_system, solve_with_forces, join):
    systems = [
        make_system(n_atoms=n, periodic=periodic, order=order, seed=seed, size=4.0 + seed)
        for seed, (n, periodic) in enumerate(
            [(4, True), (3, False), (1, "slab"), (0, "slab"), (5, False), (0, False), (1, False), (4, "slab")]
        )
    ]
    joined = join(systems)
    shuffle = torch.arange(len(joined.positions))
    if shuffled:
        shuffle = torch.randperm(len(joined.positions), generator=torch.Generator().manual_seed(0))
    result, forces = solve_with_forces(joined.select(shuffle))
    alone = [solve_with_forces(system) for system in systems]
    torch.testing.assert_close(result.energy, torch.cat([r.energy for r, _ in alone]), **ROUNDING)
    torch.testing.assert_close(forces, torch.cat([f for _, f in alone])[shuffle], **ROUNDING)
    for name in ("atomic_energy", "potential", "field", "charge", "dipole"):
        expected = torch.cat([getattr(r, name) for r, _ in alone])[shuffle]
        torch.testing.assert_close(getattr(result, name), expected, **ROUNDING)


def test_batch_of_empty_structures_has_no_energy(make_system, solve):
    system = make_system(n_atoms=0, periodic=True)
    result = solve(system)
    assert result.energy.tolist() == [0.0]
    assert result.field.shape == (0, 3)


@BOUNDARIES
def test_charge_channels_add_up_and_do_not_see_each_other(periodic, make_system, solve):
    system = make_system(periodic=periodic, order=0, response=None)
    channels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = solve(system._replace(charge=channels))
    alone = [solve(system._replace(charge=column)) for column in channels.unbind(1)]
    torch.testing.assert_close(result.energy, sum(r.energy for r in alone), **ROUNDING)
    torch.testing.assert_close(result.atomic_energy, sum(r.atomic_energy for r in alone), **ROUNDING)
    torch.testing.assert_close(result.field, sum(r.field for r in alone), **ROUNDING)
    torch.testing.assert_close(result.potential, torch.stack([r.potential for r in alone], 1), **ROUNDING)


@BOUNDARIES
def test_energy_is_even_in_the_sign_of_all_moments(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    flipped = system._replace(charge=-system.charge, dipole=-system.dipole, quadrupole=-system.quadrupole)
    torch.testing.assert_close(solve(flipped).energy, solve(system).energy, **ROUNDING)


@BOUNDARIES
def test_result_has_the_dtype_of_the_positions(periodic, make_system, solve):
    system = make_system(periodic=periodic)
    single = type(system)(*(x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in system))
    assert {value.dtype for value in solve(single) if value is not None} == {torch.float32}
    assert {value.dtype for value in solve(system) if value is not None} == {torch.float64}


def test_wires_are_refused(make_system, solve):
    system = make_system()._replace(pbc=torch.tensor([[False, True, False]]))
    with pytest.raises(GeometryError, match=r"pbc is \(False, True, False\) for structure 0.*Wires.*are not built"):
        solve(system)


def test_singular_cell_is_refused(make_system, solve):
    system = make_system()
    flat = system.cell.clone()
    flat[0, 2] = flat[0, 0] + flat[0, 1]
    with pytest.raises(GeometryError, match=r"cell .* is singular .*three independent lattice vectors"):
        solve(system._replace(cell=flat))
    with pytest.raises(GeometryError, match="is singular"):
        solve(system._replace(cell=torch.zeros(1, 3, 3, dtype=torch.float64)))


def test_cell_that_needs_too_many_vectors_is_refused(make_system, solve):
    system = make_system()._replace(cell=2000.0 * torch.eye(3, dtype=torch.float64)[None])
    with pytest.raises(
        GeometryError, match=r"needs a grid of \S+ reciprocal vectors at dl = 1.2 Å, some \S+ GB; allowed: \d+"
    ):
        solve(system)


@pytest.mark.parametrize("edge", [1e3, 1e12, 1e19, 1e102])
@pytest.mark.parametrize("method", ["auto", "direct", "mesh"])
@pytest.mark.parametrize("periodic", [True, "slab"])
def test_cells_of_any_size_are_refused_at_once(edge, method, periodic, make_system, solve):
    system = make_system(periodic=periodic)._replace(cell=edge * torch.eye(3, dtype=torch.float64)[None])
    with pytest.raises(GeometryError, match=r"needs a (grid|mesh) of|span an area of inf"):
        solve(system, method=method, dl=0.3)


def test_a_static_cell_that_needs_too_large_a_grid_is_refused():
    with pytest.raises(
        ConfigError, match=r"static_cell is \[2000.0, .* a grid of 3.7e\+10 reciprocal vectors at dl = 1.2"
    ):
        LatentElectrostatics(static_cell=(2000.0, 2000.0, 4000.0))


def test_a_batch_without_atoms_has_an_energy_with_a_gradient(make_system, solve_with_forces):
    for periodic in (True, False, "slab"):
        none = make_system(periodic=periodic).select(torch.zeros(0, dtype=torch.long))
        result, forces = solve_with_forces(none)
        assert result.energy.tolist() == [0.0]
        assert forces.shape == (0, 3)


@pytest.mark.parametrize("name", ["positions", "cell", "charge", "dipole", "quadrupole", "softness", "polarizability"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(name, value, make_system, solve):
    system = make_system()
    tensor = getattr(system, name).clone()
    tensor.view(-1)[1] = value
    with pytest.raises(GeometryError, match=rf"{name}.* holds NaN or infinity"):
        solve(system._replace(**{name: tensor}))


def test_cell_of_an_open_structure_is_not_read(make_system, solve):
    system = make_system(periodic=False)
    nonsense = system._replace(cell=torch.full((1, 3, 3), float("nan"), dtype=torch.float64))
    torch.testing.assert_close(solve(nonsense).energy, solve(system).energy, rtol=0.0, atol=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": torch.zeros(5, 2)}, r"positions has shape \(5, 2\); allowed: \(5, 3\)"),
        ({"cell": torch.zeros(1, 3)}, r"cell has shape \(1, 3\); allowed: \(1, 3, 3\)"),
        ({"pbc": torch.ones(3, dtype=torch.bool)}, r"pbc has shape \(3,\); allowed: \(1, 3\)"),
        ({"pbc": torch.ones(1, 3)}, r"pbc has dtype torch.float32; allowed: torch.bool"),
        ({"batch": torch.zeros(4, dtype=torch.long)}, r"batch has shape \(4,\); allowed: \(5,\)"),
        ({"batch": torch.ones(5, dtype=torch.long)}, r"batch holds 1…1; allowed: 0…0"),
        ({"charge": torch.zeros(4)}, r"charge has shape \(4,\); allowed: \(5,\) or \(5, channels\)"),
        ({"dipole": torch.zeros(5)}, r"dipole has shape \(5,\); allowed: \(5, 3\)"),
        ({"quadrupole": torch.zeros(5, 5)}, r"quadrupole has shape \(5, 5\); allowed: \(5, 3, 3\)"),
        ({"charge": torch.zeros(5, 2)}, r"charge channels, .* cannot be combined with dipoles or quadrupoles"),
        ({"softness": torch.zeros(5, 1)}, r"softness has shape \(5, 1\); allowed: \(5,\)"),
        ({"polarizability": torch.zeros(5, 3)}, r"polarizability has shape \(5, 3\); allowed: \(5,\) or \(5, 3, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message, make_system, solve):
    with pytest.raises(GeometryError, match=message):
        solve(make_system()._replace(**change))


def test_charge_channels_with_response_or_without_a_channel_are_refused(make_system, solve):
    system = make_system(order=0)
    with pytest.raises(GeometryError, match=r"charge channels.* have no response"):
        solve(system._replace(charge=torch.zeros(5, 2)))
    with pytest.raises(GeometryError, match="charge has no channel"):
        solve(system._replace(charge=torch.zeros(5, 0), softness=None, polarizability=None))


def test_external_field_with_charge_channels_is_refused(make_system, solve):
    system = make_system(periodic=False, order=0, response=None)
    with pytest.raises(GeometryError, match="external_field with charge channels"):
        solve(system._replace(charge=torch.zeros(5, 2)), external_field=torch.ones(3))


def test_external_field_along_periodic_directions_or_of_wrong_shape_is_refused(make_system, solve):
    for periodic in (True, "slab"):
        system = make_system(periodic=periodic)
        flags = rf"\[{', '.join(map(str, system.pbc[0].tolist()))}\]"
        with pytest.raises(GeometryError, match=rf"of structure 0, pbc {flags}: along periodic directions"):
            solve(system, external_field=torch.ones(3))
    with pytest.raises(GeometryError, match=r"external_field has shape \(2,\); allowed: \(3,\) or \(1, 3\)"):
        solve(make_system(periodic=False), external_field=torch.zeros(2))
    with pytest.raises(ConfigError, match="periodic_field is 'charges'; allowed: 'refuse', 'dipoles'"):
        solve(make_system(), external_field=torch.ones(3), periodic_field="charges")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0; allowed: 0.1 … 10 Å"),
        ({"sigma": 10.1}, "sigma is 10.1; allowed: 0.1 … 10 Å"),
        ({"sigma": "1.0"}, "sigma is '1.0'; allowed: 0.1 … 10 Å"),
        ({"sigma": True}, "sigma is True; allowed: 0.1 … 10 Å"),
        ({"dl": float("nan")}, "dl is nan; allowed: 0.3 … 6 Å"),
        ({"dl": 1e-30}, "dl is 1e-30; allowed: 0.3 … 6 Å"),
        ({"dl": 6.1}, "dl is 6.1; allowed: 0.3 … 6 Å"),
        ({"dl": None}, "dl is None; allowed: 0.3 … 6 Å"),
        ({"remove_self_interaction": "no"}, "remove_self_interaction is 'no'; allowed: True, False"),
        ({"method": ["direct"]}, r"method is \['direct'\]; allowed: 'auto', 'direct', 'mesh'"),
        ({"static_cell": 9.0}, "static_cell is 9.0; allowed: three positive lengths in Å"),
        ({"static_cell": ("a", 9.0, 9.0)}, "static_cell is .'a', 9.0, 9.0.; allowed: three positive lengths in Å"),
        ({"workspace": "all"}, "workspace is 'all'; allowed: a positive number of MiB"),
        ({"process_group": "nccl"}, "process_group is 'nccl'; allowed: a group of torch.distributed"),
        (
            {"response": "self_consistent", "response_tolerance": "low"},
            "tolerance of the response is 'low'; allowed: 1e-14 … 0.01",
        ),
        ({"response": "linear"}, "response is 'linear'; allowed: 'one_shot', 'self_consistent', None"),
        ({"total_charge": "fixed"}, "total_charge is 'fixed'; allowed: 'free', or response='self_consistent'"),
        ({"response": "self_consistent", "total_charge": "kept"}, "total_charge is 'kept'; allowed: 'free', 'fixed'"),
        (
            {"response": "self_consistent", "response_tolerance": 1.0},
            "tolerance of the response is 1.0; allowed: 1e-14",
        ),
        ({"method": "ewald"}, "method is 'ewald'; allowed: 'auto', 'direct', 'mesh'"),
        ({"mesh_tolerance": 0.0}, "mesh_tolerance is 0.0; allowed: 1e-09 … 0.01"),
        ({"mesh_tolerance": float("nan")}, "mesh_tolerance is nan; allowed: 1e-09 … 0.01"),
    ],
)
def test_settings_outside_what_is_allowed_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LatentElectrostatics(**settings)


def test_layer_prints_its_settings():
    assert "sigma=1.3, dl=2.0" in repr(LatentElectrostatics(sigma=1.3, dl=2.0))


def test_multipoles_alone_are_enough():
    # two charges, integers for the batch, nothing optional: the smallest call
    result = LatentElectrostatics()(
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 30.0]], dtype=torch.float64),
        torch.zeros(1, 3, 3, dtype=torch.float64),
        torch.zeros(1, 3, dtype=torch.bool),
        torch.zeros(2, dtype=torch.long),
        Multipoles(torch.tensor([1.0, 1.0], dtype=torch.float64)),
    )
    assert result.dipole is None
    assert float(result.energy[0]) == pytest.approx(14.39964 / 30.0, rel=1e-5)  # k_e to seven digits
