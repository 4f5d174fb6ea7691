"""A MACE with a long-range part in metatomic's file, run by metatomic's ASE calculator."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-metatomic")
pytest.importorskip("metatomic.torch", reason="metatomic is not installed: nox -s tests-metatomic")

import torch
from ase import Atoms
from mace_models import amplify, tiny_mace, waters
from metatensor.torch import Labels
from metatomic.torch import ModelOutput, load_atomistic_model, systems_to_torch
from metatomic_ase import MetatomicCalculator

import les_plugins
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.errors import HostError
from les_plugins.hosting.registry import host

SECTION = {
    "response": {"charge": "pairs", "dipole": "anisotropic"},
    "total_charge": "conserved",
    "run": {"static_cell": [9.0, 9.0, 9.0], "net_charge_warning": None},
    "epsilon_infinity": 1.8,
}
SUSCEPTIBILITY = 0.2
#: Sums in another order, float64.
ROUNDING = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def model():
    return amplify(les_plugins.attach(tiny_mace(), SECTION)).requires_grad_(False)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    facts = {"checkpoint": "tiny.les", "susceptibility": SUSCEPTIBILITY}
    output = tmp_path_factory.mktemp("metatomic") / "tiny.pt"
    return host("mace").compile(model, output, None, "cpu", facts, target="metatomic")


@pytest.fixture(scope="module")
def metatomic(path):
    return MetatomicCalculator(path, check_consistency=True)


def skew(count: int, seed: int) -> Atoms:
    """Water in a triclinic cell, atoms outside it too: every shift of an edge has a sign that shows."""
    atoms = waters(count, seed=seed)
    atoms.set_cell(atoms.cell.array @ [[1.1, 0.0, 0.0], [0.2, 0.95, 0.0], [-0.15, 0.1, 1.0]], scale_atoms=True)
    atoms.positions[::2] += atoms.cell[0] - 2.0 * atoms.cell[2]
    return atoms


@pytest.mark.parametrize("atoms", [waters(2), skew(3, 1), skew(1, 2)], ids=["box", "skew", "small"])
def test_energy_forces_and_stress_are_those_of_the_model(model, metatomic, atoms):
    expected = LesMACECalculator(model)
    for name in ("energy", "forces", "stress"):
        right = expected.get_property(name, atoms)
        np.testing.assert_allclose(metatomic.get_property(name, atoms), right, err_msg=name, **ROUNDING)
    assert abs(expected.results["long_range_energy"]) > 0.1


def test_charges_dipoles_and_the_long_range_energy_are_those_of_the_model(model, metatomic):
    names = ("charge", "les_plugins::latent_charge", "les_plugins::latent_dipole")
    atoms, calculator = skew(3, 4), LesMACECalculator(model, metadata={"susceptibility": SUSCEPTIBILITY})
    wanted = {name: ModelOutput(sample_kind="atom") for name in names}
    wanted["les_plugins::long_range_energy"] = ModelOutput(sample_kind="system")
    found = {name: value.block().values.detach().numpy() for name, value in metatomic.run_model(atoms, wanted).items()}
    calculator.get_property("energy", atoms)
    right = calculator.results
    np.testing.assert_allclose(found["charge"][:, 0], right["charges"], **ROUNDING)
    np.testing.assert_allclose(found["les_plugins::latent_charge"][:, 0], right["latent_charges"], **ROUNDING)
    np.testing.assert_allclose(found["les_plugins::latent_dipole"][:, :, 0], right["latent_dipoles"], **ROUNDING)
    np.testing.assert_allclose(found["les_plugins::long_range_energy"], [[right["long_range_energy"]]], **ROUNDING)


@pytest.mark.parametrize("neutralize", ["background", "keep"])
def test_charges_that_heads_leave_free_add_up_to_the_total_charge_of_each_structure(neutralize, tmp_path):
    section = {"multipoles": ["charge"], "dl": 2.0, "neutralize": neutralize, "run": SECTION["run"]}
    model = amplify(les_plugins.attach(tiny_mace(), section)).requires_grad_(False)
    path = host("mace").compile(model, tmp_path / "free.pt", None, "cpu", {"susceptibility": None}, target="metatomic")
    frames, expected = [waters(2), skew(3, 1)], LesMACECalculator(model)
    found = MetatomicCalculator(path).run_model(frames, {"charge": ModelOutput(sample_kind="atom")})
    charges = np.concatenate([expected.get_property("charges", atoms).copy() for atoms in frames])
    np.testing.assert_allclose(found["charge"].block().values.detach().numpy()[:, 0], charges, **ROUNDING)
    assert (abs(charges[:6].sum()) > 0.01) == (neutralize == "keep")


def test_a_batch_and_selected_atoms(model, metatomic):
    frames = [waters(2), skew(3, 1)]
    batch = metatomic.compute_energy(frames, compute_forces_and_stresses=True)
    expected = LesMACECalculator(model)
    for number, atoms in enumerate(frames):
        np.testing.assert_allclose(batch["energy"][number], expected.get_property("energy", atoms), **ROUNDING)
        np.testing.assert_allclose(batch["forces"][number], expected.get_property("forces", atoms), **ROUNDING)
    energies = expected.get_property("energies", frames[0])
    chosen = Labels(["system", "atom"], torch.tensor([[0, 1], [0, 3]]))
    for kind, right in (("atom", energies[[1, 3], None]), ("system", energies[[1, 3]].sum()[None, None])):
        found = metatomic.run_model(frames[0], {"energy": ModelOutput(sample_kind=kind)}, chosen)
        np.testing.assert_allclose(found["energy"].block().values.detach().numpy(), right, **ROUNDING)


def test_what_the_grid_does_not_cover_raises_an_error(metatomic):
    large, open_structure = waters(2), waters(2, pbc=False)
    large.set_cell(large.cell.array * 3.0)
    for atoms in (large, open_structure):
        with pytest.raises(torch.jit.Error, match="static_cell"):
            metatomic.get_property("energy", atoms)


def test_the_file_says_what_it_is(path):
    model = load_atomistic_model(str(path))
    assert model.capabilities().interaction_range == float("inf")
    assert set(model.capabilities().outputs) >= {"energy", "charge", "les_plugins::latent_dipole"}
    assert model.metadata().extra["checkpoint"] == "tiny.les"
    assert systems_to_torch(waters(1)).positions.shape == (3, 3)


def test_without_the_materials_susceptibility_there_are_no_physical_charges(model, tmp_path):
    other = host("mace").compile(
        model, tmp_path / "other.pt", None, "cpu", {"susceptibility": None}, target="metatomic"
    )
    assert "charge" not in load_atomistic_model(str(other)).capabilities().outputs


def test_the_command_makes_the_file_and_names_a_wrong_target(model, tmp_path, les_plugins_command):
    folder = les_plugins.save(model, tmp_path / "tiny.les", "mace")
    output, atoms = tmp_path / "file.pt", waters(2)
    done = les_plugins_command("compile", folder, output, "--target", "metatomic", "--json")
    assert json.loads(done.output)["target"] == "metatomic"
    right = LesMACECalculator(model).get_property("energy", atoms)
    assert MetatomicCalculator(output).get_property("energy", atoms) == pytest.approx(right, abs=1e-9)
    refused = les_plugins_command("compile", folder, output, "--target", "onnx")
    assert refused.code == 1
    assert "torchscript, metatomic" in refused.errors


def test_several_heads_raise_an_error(tmp_path):
    model = les_plugins.attach(tiny_mace(heads=["one", "two"]), SECTION)
    with pytest.raises(HostError, match="one, two"):
        host("mace").compile(model, tmp_path / "heads.pt", None, "cpu", {}, target="metatomic")
