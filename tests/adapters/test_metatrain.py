"""The metatrain adapter: what is metatrain's own, beyond the contract (test_metatrain_contract.py)."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("metatrain", reason="metatrain is not installed: nox -s tests-metatrain")

import torch
from metatensor.torch import Labels
from metatomic.torch import ModelOutput, systems_to_torch
from metatrain.pet.modules.finetuning import apply_finetuning_strategy
from metatrain.utils.architectures import get_default_hypers, import_architecture
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info
from metatrain.utils.evaluate_model import evaluate_model
from metatrain.utils.neighbor_lists import get_requested_neighbor_lists, get_system_with_neighbor_lists

from les_plugins import api
from les_plugins.adapters.metatrain.calculator import LesMetatrainCalculator, evaluate
from les_plugins.adapters.metatrain.contract import tiny_hypers, tiny_model
from les_plugins.adapters.metatrain.model import ARCHITECTURES
from les_plugins.adapters.metatrain.state import rebuild, take_apart
from les_plugins.errors import CheckpointError, HostError
from les_plugins.testing.structures import waters

SECTION = {"multipoles": ["charge", "dipole"], "response": {"dipole": "isotropic"}}
#: What `tiny_model` sets: the energy of training is (energy - COMPOSITION * atoms) / SCALE.
COMPOSITION, SCALE = -1.25, 1.75


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


def attached(architecture="pet", **changes):
    torch.manual_seed(0)
    return api.attach(tiny_model(architecture, **changes).double(), SECTION)


def systems_of(model, frames):
    lists = get_requested_neighbor_lists(model)
    return [get_system_with_neighbor_lists(system, lists) for system in systems_to_torch(frames, dtype=torch.float64)]


def metatrains_own(model, frames, is_training):
    """Energies, forces and virials as metatrain's trainers evaluate a model."""
    found = evaluate_model(model, systems_of(model, frames), model.dataset_info.targets, is_training)
    block = found["energy"].block()
    gradients = (block.gradient(name).values.detach().squeeze(-1) for name in ("positions", "strain"))
    return (block.values.detach().squeeze(-1), *gradients)


def test_metatrains_own_evaluation_gives_the_energies_forces_and_stresses_of_the_calculator(architecture):
    model, frames = attached(architecture), [waters(seed=1), waters(2, seed=2)]
    energy, by_position, by_strain = metatrains_own(model, frames, is_training=False)
    ours = evaluate(model, frames)
    # the same operations, in another order
    torch.testing.assert_close(energy, ours.energy.detach(), rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(-by_position, ours.forces, rtol=0, atol=1e-10)
    volumes = torch.tensor([atoms.get_volume() for atoms in frames])[:, None, None]
    symmetric = 0.5 * (by_strain + by_strain.transpose(1, 2)) / volumes  # metatrain strains all nine components
    torch.testing.assert_close(symmetric, ours.stress, rtol=0, atol=1e-10)


def test_in_training_the_long_range_energy_has_the_units_of_the_scaled_target(architecture):
    """metatrain trains on (energy - composition) / scale: the long-range part must be divided, too."""
    model, frames = attached(architecture), [waters(seed=1), waters(2, seed=2)]
    energy, by_position, _ = metatrains_own(model, frames, is_training=False)
    trained, by_position_trained, _ = metatrains_own(model.train(), frames, is_training=True)
    atoms = torch.tensor([len(frame) for frame in frames])
    # rounding of one product and one sum
    torch.testing.assert_close(SCALE * trained + COMPOSITION * atoms, energy, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(SCALE * by_position_trained, by_position, rtol=0, atol=1e-10)
    bare = tiny_model(architecture).double()
    without = metatrains_own(bare, frames, is_training=False)[0]
    assert (energy - without).abs().min() > 1e-6  # there is a long-range energy


def test_features_are_those_of_each_atom_whatever_the_order_of_elements(architecture):
    """SOAP-BPNN computes element by element: charges of the wrong atoms would be permuted among them."""
    model, atoms = attached(architecture), waters(2)
    order = np.argsort(atoms.numbers, kind="stable")
    calculator = LesMetatrainCalculator(model)
    mixed = calculator.get_property("charges", atoms).copy()
    sorted_ones = calculator.get_property("charges", atoms[order])
    np.testing.assert_allclose(sorted_ones, mixed[order], rtol=0, atol=1e-12)  # sums in another order
    hydrogen, oxygen = (mixed[atoms.numbers == z].mean() for z in (1, 8))
    assert abs(hydrogen - oxygen) > 1e-6


def test_pet_itself_is_not_invariant_under_rotation():
    """The reason why the contract leaves the law out for PET; where this fails, it no longer has to."""
    model, atoms = tiny_model("pet").double(), waters(pbc=False)
    turned = atoms.copy()
    turned.rotate(40, (1.0, 2.0, -1.5))
    energies = evaluate(model, [atoms, turned]).energy.detach()
    assert abs(float(energies[0] - energies[1])) > 1e-6


def test_a_zbl_repulsion_of_the_host_has_its_forces_and_stress():
    """It has a neighbour list of its own, whose distances carry the graph."""
    hypers = {**tiny_hypers("pet", 3.5), "zbl": True}
    torch.manual_seed(0)
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"}, True, True)
    pet = import_architecture("pet").__model__
    model = pet(hypers, DatasetInfo("angstrom", [1, 8], {"energy": energy})).double().eval()
    model = api.attach(model, SECTION)
    atoms = waters(1, edge=5.0)
    atoms.positions[1] = atoms.positions[0] + [0.3, 0.0, 0.0]  # within the repulsion
    found, step = evaluate(model, [atoms]), 1e-4
    moved = [atoms.copy(), atoms.copy()]
    for frame, sign in zip(moved, (1, -1), strict=True):
        frame.positions[1, 0] += sign * step
    high, low = evaluate(model, moved).energy.detach()
    force = float(found.forces.detach()[1, 0])
    assert force > 10.0  # eV/Å
    assert float(low - high) / (2 * step) == pytest.approx(force, rel=1e-5)  # step² times the third derivative
    for frame, sign in zip(moved, (1, -1), strict=True):
        frame.set_cell(atoms.cell * (1 + sign * step), scale_atoms=True)
        frame.positions[:] = atoms.positions * (1 + sign * step)
    high, low = evaluate(model, moved).energy.detach()
    trace = float(found.stress.detach()[0].diagonal().sum()) * atoms.get_volume()
    assert float(high - low) / (2 * step) == pytest.approx(trace, rel=1e-5)


@pytest.mark.parametrize(
    ("targets", "length", "changes", "words"),
    [
        ({"energy": "eV", "mtt::other": "eV"}, "angstrom", {}, "one energy of structures"),
        ({}, "angstrom", {}, "one energy of structures"),
        ({"energy": "kcal/mol"}, "angstrom", {}, "kcal/mol"),
        ({"energy": "eV"}, "bohr", {}, "bohr"),
        ({"energy": "eV"}, "angstrom", {"long_range": {"enable": True}}, "metatrain's own long_range"),
        ({"energy": "eV"}, "angstrom", {"system_conditioning": True}, "take every structure for neutral"),
    ],
)
def test_models_that_cannot_have_a_long_range_part_raise_an_error(targets, length, changes, words):
    infos = {name: get_energy_target_info(name, {"quantity": "energy", "unit": unit}) for name, unit in targets.items()}
    model = import_architecture("pet").__model__(tiny_hypers("pet", 3.5), DatasetInfo(length, [1, 8], infos))
    model.hypers.update(changes)
    with pytest.raises(HostError, match=words):
        api.attach(model, SECTION)


def test_another_architecture_of_metatrain_is_named_in_the_error():
    model = tiny_model("pet").additive_models[0]
    with pytest.raises(HostError, match=r"pet and soap_bpnn of metatrain, not to metatrain\.composition"):
        api.attach(model, SECTION)


def test_an_evaluation_of_some_atoms_raises_an_error():
    model = attached()
    some = Labels(["system", "atom"], torch.tensor([[0, 0]]))
    with pytest.raises(HostError, match="selected_atoms"):
        model(systems_of(model, [waters(1)]), {"energy": ModelOutput(sample_kind="system")}, some)


def test_outputs_beside_the_energy_are_the_hosts_own():
    model, bare = attached(), tiny_model("pet").double()
    systems = systems_of(model, [waters(1)])
    wanted = {"feature": ModelOutput(sample_kind="atom")}
    ours, hosts = (each(systems, wanted)["feature"].block().values for each in (model, bare))
    torch.testing.assert_close(ours, hosts, rtol=0, atol=0)
    both = model(systems, {**wanted, "energy": ModelOutput(sample_kind="system")})
    assert set(both) == {"feature", "energy"}
    assert set(model(systems, {"energy": ModelOutput(sample_kind="system")})) == {"energy"}


def test_a_model_with_another_target_beside_the_energy_is_saved_and_loaded(tmp_path):
    """As foundation models have: forces that are no gradients."""
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"}, True, True)
    vector = {
        "quantity": "", "unit": "eV/A", "type": {"cartesian": {"rank": 1}}, "num_subtargets": 1, "sample_kind": "atom",
        "description": "",
    }  # fmt: skip
    forces = get_generic_target_info("non_conservative_force", vector)
    info = DatasetInfo("angstrom", [1, 8], {"energy": energy, "non_conservative_force": forces})
    model = api.attach(import_architecture("pet").__model__(tiny_hypers("pet", 3.5), info).double().eval(), SECTION)
    again, _ = api.load_model(api.save(model, tmp_path / "two.les", "metatrain"))
    wanted = {"non_conservative_force": ModelOutput(sample_kind="atom")}
    found, expected = (each(systems_of(each, [waters(1)]), wanted) for each in (again, model))
    values = (each["non_conservative_force"].block().values for each in (found, expected))
    torch.testing.assert_close(*values, rtol=0, atol=0)


def test_lora_layers_are_refused_when_a_model_is_saved(tmp_path):
    model = tiny_model("pet")
    lora = {"method": "lora", "config": {"rank": 2, "alpha": 4}, "inherit_heads": {}}
    with pytest.raises(HostError, match="LoRA"):
        api.save(apply_finetuning_strategy(model, lora), tmp_path / "lora.les", "metatrain")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("architecture", "llpr", "allowed: pet, soap_bpnn"),
        ("architecture", ["pet"], "allowed: pet, soap_bpnn"),
        ("hypers", None, "expected a section"),
        ("atomic_types", [1, 200], "atomic numbers"),
        ("atomic_types", "HO", "atomic numbers"),
        ("targets", {"energy": {"layout": "???"}}, "does not describe"),
        ("dtype", "float16", "float32, float64"),
        ("length_unit", "furlong", "does not describe"),
    ],
)
def test_a_description_that_is_not_metatrains_is_refused(key, value, words):
    state = take_apart(tiny_model("pet"))
    with pytest.raises(CheckpointError, match=words):
        rebuild(state.__class__(**{**vars(state), "model": {**state.model, key: value}}))


def test_hyperparameters_larger_than_the_weights_are_refused():
    state = take_apart(tiny_model("pet"))
    for key, value in (("d_pet", 10**9), ("num_gnn_layers", 10**6), ("cutoff", 1e6)):
        hypers = {**state.model["hypers"], key: value}
        with pytest.raises(CheckpointError, match=key):
            rebuild(state.__class__(**{**vars(state), "model": {**state.model, "hypers": hypers}}))


def test_metatrain_has_the_architectures_outputs_and_names_that_the_adapter_relies_on(architecture):
    hypers = get_default_hypers(architecture)
    assert {"model", "training"} <= set(hypers)
    model = tiny_model(architecture).double()
    assert {"energy", "feature"} <= set(model.supported_outputs())
    values = model(systems_of(model, [waters(1)]), {"feature": ModelOutput(sample_kind="atom")})["feature"]
    assert values.block().values.shape[1] == ARCHITECTURES[architecture](model)
