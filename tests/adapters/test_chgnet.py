"""The CHGNet adapter: what is CHGNet's own, beyond the contract (test_chgnet_contract.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("chgnet", reason="chgnet is not installed: nox -s tests-chgnet")

import torch
from ase import Atoms, units
from ase.build import bulk, fcc111
from chgnet.model.composition_model import AtomRef, CompositionModel
from chgnet.model.dynamics import CHGNetCalculator
from chgnet.model.model import CHGNet
from pymatgen.io.ase import AseAtomsAdaptor

import les_plugins
from les_plugins.adapters.chgnet.calculator import LesCHGNetCalculator
from les_plugins.adapters.chgnet.contract import CHGNetContract, tiny_model
from les_plugins.adapters.chgnet.graphs import graph_of
from les_plugins.adapters.chgnet.model import LongRangeCHGNet, precise
from les_plugins.api import load_model
from les_plugins.errors import CheckpointError, HostError
from les_plugins.storage.checkpoint import sha256
from les_plugins.testing import waters

SECTION = {"response": {"charge": True, "dipole": "isotropic"}, "neutralize": "shift"}
PACKAGED = ("0.3.0", "0.2.0", "r2scan")


@pytest.fixture(scope="module")
def model() -> LongRangeCHGNet:
    return CHGNetContract().attached()


@pytest.fixture
def oxide() -> Atoms:
    atoms = bulk("MgO", "rocksalt", 4.3, cubic=True)
    atoms.rattle(0.1, seed=0)
    return atoms


def packaged(name: str) -> CHGNet:
    return CHGNet.load(model_name=name, use_device="cpu", verbose=False).eval()


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_with_zero_init_predict_the_same_to_the_last_bit(name, oxide, tmp_path):
    base, structure = packaged(name), AseAtomsAdaptor.get_structure(oxide)
    attached = les_plugins.attach(base, {**SECTION, "zero_init": True})
    loaded, _ = load_model(les_plugins.save(attached, tmp_path / "model.les", "chgnet"))
    assert loaded.version == name
    expected = base.predict_structure(structure, return_site_energies=True, return_crystal_feas=True)
    for each in (attached, loaded):
        found = each.predict_structure(structure, return_site_energies=True, return_crystal_feas=True)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_the_attached_model_shares_the_weights_and_the_base_stays_what_it_was(oxide):
    base, structure = tiny_model(dtype=torch.float32), AseAtomsAdaptor.get_structure(oxide)
    base.composition_model = AtomRef()  # CHGNet's own
    base.composition_model.initialize_from("MPtrj")
    before = base.predict_structure(structure)
    attached = les_plugins.attach(base, SECTION)
    own, shared = dict(attached.named_parameters()), dict(base.named_parameters())
    assert all(own[name] is parameter for name, parameter in shared.items())
    assert all(name.startswith("long_range.") for name in own.keys() - shared.keys())
    assert type(base) is CHGNet
    assert type(base.composition_model) is AtomRef
    for key, value in base.predict_structure(structure).items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def test_chgnets_own_calculator_has_the_same_energies_forces_and_stress(oxide):
    torch.manual_seed(0)
    attached = les_plugins.attach(packaged("0.3.0"), SECTION)
    ours, theirs = LesCHGNetCalculator(attached), CHGNetCalculator(attached, use_device="cpu")
    theirs.calculate(oxide)
    assert ours.get_property("energy", oxide) == pytest.approx(float(theirs.results["energy"]), abs=1e-5)  # float32
    np.testing.assert_array_equal(ours.get_property("forces", oxide), theirs.results["forces"])
    stress = theirs.results["stress"][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(ours.get_property("stress", oxide), stress, rtol=0, atol=1e-6)  # symmetrised, float32
    np.testing.assert_array_equal(ours.get_property("magmoms", oxide), theirs.results["magmoms"])
    bare = CHGNetCalculator(packaged("0.3.0"), use_device="cpu")
    bare.calculate(oxide)
    assert abs(ours.get_property("forces", oxide) - bare.results["forces"]).max() > 1e-3  # there is a long-range part
    np.testing.assert_array_equal(bare.results["magmoms"], theirs.results["magmoms"])


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)], ids=["slab", "molecule"])
def test_short_range_energies_of_open_boundaries_are_those_of_a_large_box(pbc):
    """No image within the cutoff: pymatgen finds the same pairs."""
    atoms = fcc111("Al", (2, 2, 2), vacuum=10.0)
    atoms.rattle(0.1, seed=0)
    if not any(pbc):
        atoms.set_cell([30.0, 30.0, 30.0])
    boxed = atoms.copy()
    atoms.pbc, boxed.pbc = pbc, True
    calculator = LesCHGNetCalculator(tiny_model())
    found, expected = (calculator.get_property("forces", frame).copy() for frame in (atoms, boxed))
    assert abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)  # rounding
    energies = [calculator.get_property("energy", frame) for frame in (atoms, boxed)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-12)


def test_a_lone_atom_has_the_energy_of_its_element_and_two_far_apart_feel_coulombs_law(model):
    bare, calculator = LesCHGNetCalculator(tiny_model()), LesCHGNetCalculator(model)
    alone = [bare.get_property("energy", Atoms(symbol)) for symbol in ("O", "H")]
    pair = Atoms("OH", [[0.0, 0.0, 0.0], [40.0, 0.0, 0.0]])
    assert bare.get_property("energy", pair) == pytest.approx(sum(alone), abs=1e-12)
    assert alone[0] != pytest.approx(alone[1], abs=1e-3)
    forces = calculator.get_property("forces", pair)
    charges = calculator.results["latent_charges"]
    coulomb = units.Hartree * units.Bohr * charges[0] * charges[1] / 40.0**2
    # atoms without edges have no dipoles; the induced charges of 40 Å are below a thousandth
    assert forces[1, 0] == pytest.approx(coulomb, rel=1e-2)
    assert abs(forces[:, 1:]).max() < 1e-12


def test_a_crystal_whose_quadrupoles_vanish_by_symmetry_is_evaluated(model):
    atoms = bulk("NaCl", "rocksalt", 5.6)
    forces = LesCHGNetCalculator(model).get_property("forces", atoms)
    np.testing.assert_allclose(forces, 0.0, atol=1e-10)  # by symmetry, but for rounding


def test_graphs_keep_boundaries_charge_and_precision_on_their_way_to_a_device():
    atoms = waters(1)
    atoms.pbc, atoms.info["charge"] = (True, True, False), -1
    graph = graph_of(atoms, tiny_model()).to("cpu")
    assert (graph.pbc, graph.total_charge) == ((True, True, False), -1.0)
    positions = (graph.atom_frac_coord @ graph.lattice).detach().numpy()
    np.testing.assert_allclose(positions, atoms.positions, rtol=0, atol=1e-13)  # float64
    assert graph_of(atoms, tiny_model(dtype=torch.float32)).lattice.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energies_of_elements_are_chgnets_own_and_exact_in_float64(dtype):
    theirs = AtomRef()
    theirs.initialize_from("MPtrj")
    graphs = [graph_of(waters(count), tiny_model(dtype=dtype)) for count in (1, 3)]
    expected, found = theirs(graphs), precise(theirs).to(dtype)(graphs)
    if dtype == torch.float32:
        assert torch.equal(found, expected)
    else:
        weights = theirs.fc.weight[0]
        water = (2 * weights[0] + weights[7]) / 3
        torch.testing.assert_close(found, water.double().expand(2), rtol=1e-15, atol=0)  # a rounded third


def test_charges_of_elements_are_those_that_the_section_gives(oxide):
    charges = {"Mg": 1.1, "O": -1.1}
    section = {"multipoles": ["charge"], "initial_charges": charges, "element_charges": "fixed"}
    attached = les_plugins.attach(tiny_model(), section)
    found = LesCHGNetCalculator(attached).get_property("latent_charges", oxide)
    # what the heads add is that of a fresh network
    assert found[oxide.numbers == 12].mean() - found[oxide.numbers == 8].mean() == pytest.approx(2.2, abs=0.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"mlp_first": False}, "mlp_first=True"), ({"n_conv": 1}, "allowed with a long-range part: 2 or more")],
)
def test_models_without_energies_or_features_of_atoms_are_refused(arguments, words):
    with pytest.raises(HostError, match=words):
        les_plugins.attach(tiny_model(**arguments), SECTION)


def test_another_composition_model_is_refused():
    base = tiny_model()
    base.composition_model = CompositionModel()
    with pytest.raises(HostError, match="composition_model is a CompositionModel; allowed: AtomRef"):
        les_plugins.attach(base, SECTION)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_conv": 400}, "the weights have 3 such layers"),
        ({"atom_graph_cutoff": 1e6}, "up to 100 Å"),
        ({"atom_fea_dim": 10**9}, "atom_fea_dim"),
        ({"mlp_hidden_dims": [8] * 10**4}, "mlp_hidden_dims has 10000 items"),
        ({"dtype": "float16"}, "allowed: float32, float64"),
        ({"non_linearity": "os.system"}, "does not describe a CHGNet"),
        ({"references_are_intensive": None}, "composition_model"),
    ],
)
def test_a_forged_checkpoint_is_an_error_in_words(changes, words, model, tmp_path):
    folder = les_plugins.save(model, tmp_path / "model.les", "chgnet")
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["config.json"] = sha256(folder / "config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=words):
        load_model(folder)


def test_making_models_and_calculators_prints_nothing_and_leaves_the_filters_of_warnings(tmp_path: Path):
    """CHGNet prints its number of parameters; its module of data sets switches all warnings off when imported."""
    folder = les_plugins.save(tiny_model(), tmp_path / "model.les", "chgnet")
    script = """if True:
        import sys, warnings, les_plugins, les_plugins.adapters.chgnet.train
        les_plugins.load(sys.argv[1])
        sys.exit(any(item[:3] == ("ignore", None, Warning) for item in warnings.filters))
    """
    run = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
