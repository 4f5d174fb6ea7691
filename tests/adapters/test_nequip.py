"""The NequIP and Allegro adapter: what a model with a long-range part must fulfil whatever its weights are."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import torch
from ase import Atoms
from nequip_models import HOST_SECTIONS, SPECIES, batch_of, part, tiny_host, tiny_long_range, waters
from scipy.spatial.transform import Rotation

import les_plugins
from les_plugins.adapters.nequip import LongRangeModel
from les_plugins.adapters.nequip import model as adapter
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.build import build_long_range

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}
#: Rounding of a few thousand float64 operations.
ROUNDING = 1e-11
ARCHITECTURES = ("nequip", "allegro")


def energy(model, atoms: Atoms) -> float:
    return model(batch_of([atoms]))["total_energy"].item()


def loss_of_energies_and_forces(model) -> torch.Tensor:
    output = model.train()(batch_of([waters()]))
    return output["total_energy"].sum() + output["forces"].square().sum()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(architecture):
    return tiny_long_range(architecture, FULL)


@pytest.mark.parametrize("pbc", [True, False])
def test_zeroed_moments_give_the_hosts_energy_forces_and_stress_back_exactly(architecture, pbc):
    base = tiny_host(architecture)
    model = les_plugins.attach(base, FULL)
    part(model).zero()
    ours, hosts = model(batch_of([waters(pbc=pbc)])), base(batch_of([waters(pbc=pbc)]))
    for key in ("total_energy", "atomic_energy", "forces", "virial") + (("stress",) if pbc else ()):
        torch.testing.assert_close(ours[key], hosts[key], rtol=0, atol=1e-14)  # same operations: last digit only


def test_the_yaml_section_and_attach_give_models_of_the_same_tensors(architecture):
    section = HOST_SECTIONS[architecture]
    built = LongRangeModel(model=section, long_range=FULL)
    attached = les_plugins.attach(tiny_host(architecture), FULL)
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (built, attached)]
    assert shapes[0] == shapes[1]
    host_tensors = tiny_host(architecture).state_dict()
    assert host_tensors.keys() < built.state_dict().keys()
    assert all(torch.equal(built.state_dict()[name], value) for name, value in host_tensors.items())


def test_the_seed_of_the_host_section_decides_the_heads_too():
    one, same = (LongRangeModel(HOST_SECTIONS["nequip"], FULL).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    other = LongRangeModel({**HOST_SECTIONS["nequip"], "seed": 4}, FULL).state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one if "heads" in name)


def test_long_range_none_is_the_hosts_own_model():
    assert LongRangeModel(HOST_SECTIONS["nequip"]).state_dict().keys() == tiny_host().state_dict().keys()


def test_zero_init_starts_exactly_at_the_hosts_predictions(architecture):
    model = les_plugins.attach(tiny_host(architecture), {**FULL, "zero_init": True})
    assert energy(model, waters()) == energy(tiny_host(architecture), waters())


@pytest.mark.parametrize("pbc", [True, False])
def test_forces_are_minus_the_central_difference_of_the_energy(model, pbc):
    atoms = waters(pbc=pbc)
    forces = model(batch_of([atoms]))["forces"]
    step = 1e-3
    for atom, axis in ((0, 0), (1, 1), (5, 2)):
        values = []
        for shift in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions[atom, axis] += shift * step
            values.append(energy(model, moved))
        # five-point formula: error step⁴ E⁽⁵⁾/30 plus rounding 1e-15·E/step, both below 1e-6 of the largest force
        difference = -(values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        assert abs(difference - forces[atom, axis].item()) < 1e-6 * forces.abs().max().item()


def test_stress_is_the_strain_derivative_of_the_energy(model):
    atoms = waters()
    stress = model(batch_of([atoms]))["stress"][0].numpy()
    step = 1e-4
    for strain in (np.diag([1.0, 0, 0]), np.diag([0, 1.0, 0]), np.array([[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])):
        values = []
        for shift in (-2, -1, 1, 2):
            deformed = atoms.copy()
            deformed.set_cell(atoms.cell.array @ (np.eye(3) + shift * step * strain), scale_atoms=True)
            values.append(energy(model, deformed))
        difference = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step) / atoms.get_volume()
        assert abs(difference - (stress * strain).sum()) < 1e-6 * np.abs(stress).max()  # as for the forces


def test_long_range_energy_is_a_visible_part_in_these_tests(model):
    output = model(batch_of([waters()]))
    assert output["long_range_energy"].abs().item() > 1e-2
    for moment in ("latent_charges", "latent_dipoles", "latent_quadrupoles"):
        assert output[moment].abs().max().item() > 1e-3


@pytest.mark.parametrize("pbc", [True, False])
@pytest.mark.parametrize("improper", [False, True])
def test_energy_is_invariant_and_vectors_and_tensors_follow_a_rotation(model, pbc, improper):
    atoms = waters(pbc=pbc)
    rotation = Rotation.from_euler("zyx", [0.3, -1.1, 2.0]).as_matrix() * (-1 if improper else 1)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions @ rotation.T
    before, after = model(batch_of([atoms])), model(batch_of([turned]))
    turn = torch.tensor(rotation)
    energies = before["total_energy"].item(), after["total_energy"].item()
    assert abs(energies[0] - energies[1]) < ROUNDING * abs(energies[0])
    torch.testing.assert_close(after["forces"], before["forces"] @ turn.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(after["latent_dipoles"], before["latent_dipoles"] @ turn.T, rtol=0, atol=1e-11)
    turned_back = turn @ before["latent_quadrupoles"] @ turn.T
    torch.testing.assert_close(after["latent_quadrupoles"], turned_back, rtol=0, atol=1e-11)


def test_permuted_atoms_have_permuted_forces(model):
    atoms = waters()
    order = np.random.default_rng(1).permutation(len(atoms))
    before, after = model(batch_of([atoms])), model(batch_of([atoms[order]]))
    torch.testing.assert_close(after["forces"], before["forces"][torch.tensor(order)], rtol=0, atol=1e-11)


def test_a_mixed_batch_equals_its_structures_one_by_one(model):
    frames = [waters(seed=1), waters(2, seed=2, pbc=False), waters(3, seed=3)]
    together = model(batch_of(frames))
    single = [model(batch_of([atoms])) for atoms in frames]
    for key in ("total_energy", "forces", "atomic_energy", "long_range_energy", "latent_charges", "virial"):
        torch.testing.assert_close(together[key], torch.cat([one[key] for one in single]), rtol=0, atol=1e-10)


def test_one_structure_without_batch_field_is_the_same(model):
    data = batch_of([waters()])
    alone = {key: value for key, value in data.items() if key not in ("batch", "num_atoms")}
    torch.testing.assert_close(model(alone)["forces"], model(data)["forces"], rtol=0, atol=1e-12)


def test_atomic_energies_sum_to_the_total(model):
    output = model(batch_of([waters()]))
    total = output["total_energy"].item()
    assert abs(output["atomic_energy"].sum().item() - total) < 1e-12 * abs(total)


def test_a_doubled_supercell_has_twice_the_energy(model):
    atoms = waters()
    assert abs(energy(model, atoms * (2, 1, 1)) - 2 * energy(model, atoms)) < 1e-10 * abs(energy(model, atoms))


def test_the_same_latent_moments_give_the_same_energy_as_the_layer_alone(architecture):
    model = tiny_long_range(architecture, {"dl": 1.5})
    data = batch_of([waters(seed=1), waters(2, seed=2, pbc=False)])
    output = model(data)
    layer = les_plugins.LatentElectrostatics(sigma=1.0, dl=1.5)
    moments = les_plugins.Multipoles(
        output["latent_charges"][:, 0], output["latent_dipoles"], output["latent_quadrupoles"]
    )
    result = layer(data["pos"], data["cell"], data["pbc"], data["batch"], moments)
    torch.testing.assert_close(output["long_range_energy"][:, 0], result.energy, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [
        FULL,
        {"response": {"charge": True, "dipole": "isotropic"}},
        {"multipoles": ["charge"]},
        {"multipoles": ["charge", "dipole"]},
        {"multipoles": ["charge"], "response": {"dipole": "anisotropic"}, "heads": "edge"},
        {**FULL, "heads": "edge"},
    ],
)
def test_every_parameter_reaches_the_loss_of_energies_and_forces(architecture, config):
    model = tiny_long_range(architecture, config)
    loss_of_energies_and_forces(model).backward()
    bare = tiny_host(architecture)
    loss_of_energies_and_forces(bare).backward()
    hosts_own = {name for name, value in bare.named_parameters() if value.grad is None}
    unused = {name for name, value in model.named_parameters() if value.grad is None}
    assert unused == hosts_own


def test_heads_are_made_for_the_channels_of_every_layer(monkeypatch):
    layouts: list[Any] = []
    monkeypatch.setattr(
        adapter, "build_long_range", lambda layout, config: layouts.append(layout) or build_long_range(layout, config)
    )
    tiny_long_range("nequip", FULL, num_features=[5, 4, 3], l_max=2)
    tiny_long_range("allegro", FULL)
    assert layouts[0].layers == ((5, 4, 3), (5, 0, 0))
    assert layouts[1].layers[0].vectors > 0
    assert layouts[1].layers[0].tensors > 0
    for layout in layouts:
        assert (layout.cutoff, layout.elements) == (3.5, ("H", "O"))
        assert layout.mean_neighbors == pytest.approx(4.0)


def test_heads_get_features_of_every_layer_edges_and_species(model):
    given: list[Any] = []
    handle = part(model).register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    atoms = waters()
    model(batch_of([atoms]))
    handle.remove()
    features = given[0]
    assert features.layers[0].vectors.shape[0] == 12
    assert features.edges.vector.norm(dim=1).max() <= 3.5
    assert [SPECIES[number] for number in features.species] == atoms.get_chemical_symbols()


def test_two_e_features_are_read_in_e3nns_order():
    model = tiny_long_range("nequip", FULL, l_max=2, num_features=[4, 4, 4])
    atoms = waters(pbc=False)
    rotation = Rotation.from_euler("xyz", [0.2, 0.7, -0.5]).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ rotation.T
    turn = torch.tensor(rotation)
    before, after = (model(batch_of([frame]))["latent_quadrupoles"] for frame in (atoms, turned))
    assert before.abs().max().item() > 1e-4
    torch.testing.assert_close(after, turn @ before @ turn.T, rtol=0, atol=1e-11)


def test_a_one_layer_model_gets_edge_heads_and_refuses_equivariant_ones():
    model = tiny_long_range("nequip", FULL, num_layers=1)
    assert model(batch_of([waters()]))["latent_dipoles"].abs().max().item() > 0
    with pytest.raises(ConfigError, match="vector"):
        les_plugins.attach(tiny_host("nequip", num_layers=1), {"heads": "equivariant"})


def test_allegros_vectors_vanish_where_the_last_neighbour_leaves_the_cutoff():
    model = tiny_long_range("allegro", FULL)
    for distance, bound in ((2.0, None), (3.4999, 1e-6), (3.6, 0.0)):
        pair = Atoms("OH", [[0, 0, 0], [0, 0, distance]])
        dipole = part_features(model, pair)
        assert (dipole > 1e-3) if bound is None else (dipole <= bound)


def part_features(model, atoms: Atoms) -> float:
    output = model.model.func(batch_of([atoms]))
    return output["les_features_0"].abs().max().item()


def test_float32_model_agrees_with_float64_to_single_precision(architecture):
    low, high = (tiny_long_range(architecture, FULL, model_dtype=name) for name in ("float32", "float64"))
    high.load_state_dict(low.state_dict())
    low, high = low(batch_of([waters()])), high(batch_of([waters()]))
    # 1e-6 relative of features, forces of order one eV/Å
    torch.testing.assert_close(low["forces"], high["forces"], rtol=0, atol=1e-4)
    assert low["total_energy"].dtype == torch.float64


@pytest.mark.parametrize(
    ("missing", "message"),
    [(("pbc",), "pbc flags"), (("pbc", "cell", "edge_cell_shift"), "pair_allegro"), (("cell",), "has no cell")],
)
def test_inputs_that_cannot_tell_the_boundaries_raise_an_error(model, missing, message):
    data = {key: value for key, value in batch_of([waters()]).items() if key not in missing}
    with pytest.raises(HostError, match=message):
        model(data)


def test_lammps_mliap_raises_an_error(model):
    data = {**batch_of([waters()]), "lmp_mliap_data": SimpleNamespace(nlocal=12)}
    with pytest.raises(HostError, match="ML-IAP"):
        model.model.func(data)


def test_second_attachment_and_foreign_models_raise_an_error(model):
    with pytest.raises(HostError, match="already"):
        les_plugins.attach(model, FULL)
    with pytest.raises(HostError, match="no adapter knows"):
        les_plugins.attach(torch.nn.Linear(2, 2), FULL)
    pair = {**HOST_SECTIONS["nequip"], "_target_": "nequip.model.ZBLPairPotential", "chemical_species": ["H", "O"]}
    keep = ("_target_", "seed", "model_dtype", "type_names", "r_max", "chemical_species")
    with pytest.raises(HostError, match="NequIP and Allegro energy models"):
        LongRangeModel({**{key: pair[key] for key in keep}, "units": "metal"}, FULL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": HOST_SECTIONS["nequip"], "long_range": {"sigmaa": 1.0}}, "unknown key 'sigmaa'.*allowed keys"),
        ({"model": HOST_SECTIONS["nequip"], "longrange": {}}, r"unknown key 'longrange' \(did you mean 'long_range'"),
        ({"long_range": {}}, "model must be the model section"),
    ],
)
def test_wrong_sections_raise_an_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LongRangeModel(**arguments)


def test_an_atom_without_neighbours_has_finite_energy_and_no_force(model):
    for pbc, cell in ((False, None), (True, [9.0, 9.0, 9.0])):
        output = model(batch_of([Atoms("O", [[1.0, 2.0, 3.0]], cell=cell, pbc=pbc)]))
        assert output["total_energy"].isfinite().all()
        assert output["forces"].abs().max().item() < 1e-12
        assert output["latent_dipoles"].abs().max().item() < 1e-12  # nothing around it has a direction


def test_energy_and_forces_are_smooth_where_a_neighbour_leaves_the_cutoff(model):
    energies, forces = [], []
    for shift in (-1e-6, 1e-6):
        output = model(batch_of([Atoms("OHH", [[0, 0, 0], [0.9, 0.2, 0], [0, 0, 3.5 + shift]])]))
        energies.append(output["total_energy"].item())
        forces.append(output["forces"])
    assert abs(energies[1] - energies[0]) < 1e-5  # slope of the energy, some eV/Å, times 2e-6 Å
    assert (forces[1] - forces[0]).abs().max().item() < 1e-4


def test_wire_raises_an_error(model):
    atoms = waters()
    atoms.pbc = (True, False, False)
    with pytest.raises(les_plugins.LesPluginsError, match="Wires"):
        energy(model, atoms)


def test_nequip_imports_our_extension_and_knows_our_fields():
    from nequip.data import _key_registry

    entries = [
        entry for entry in importlib.metadata.entry_points(group="nequip.extension") if "les_plugins" in entry.value
    ]
    assert [entry.value for entry in entries if entry.name == "init_always"] == [
        "les_plugins.adapters.nequip.extension"
    ]
    assert all(importlib.util.find_spec(entry.value) for entry in entries)
    assert _key_registry.get_field_type("long_range_energy") == "graph"
    for name in ("latent_charges", "latent_dipoles", "latent_quadrupoles"):
        assert _key_registry.get_field_type(name) == "node"
