"""`start_from:`: a SevenNet training that begins with a model whose architecture the file does not repeat."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

import ase.io
import numpy as np
import sevenn._keys as keys
import torch
import yaml
from ase import Atoms

import les_plugins
from les_plugins import api
from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
from les_plugins.adapters.sevennet.contract import tiny_model, training_settings
from les_plugins.adapters.sevennet.model import last_layer
from les_plugins.adapters.sevennet.start import Start, add_to_shift, completed, read_model, write_checkpoint
from les_plugins.adapters.sevennet.train import SevenNetTraining, load_checkpoint
from les_plugins.data.zero_of_energy import fitted_change
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.hosting import registry
from les_plugins.model.outputs import long_range_part
from les_plugins.storage.checkpoint import read_config
from les_plugins.testing import labelled_waters, waters

START_EXACTLY = {"zero_init": True}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A model as a file base.pth of SevenNet, in a folder with training and validation frames."""
    ase.io.write(tmp_path / "train.extxyz", labelled_waters(4))
    ase.io.write(tmp_path / "valid.extxyz", labelled_waters(2, seed=100))
    monkeypatch.chdir(tmp_path)
    model = tiny_model(7, torch.float32)
    frames = labelled_waters(4)  # whose zero of energy it has
    energies, calculator = [atoms.get_potential_energy() for atoms in frames], LesSevenNetCalculator(model)
    add_to_shift(model, fitted_change(frames, energies, lambda atoms: calculator.get_property("energy", atoms)))
    write_checkpoint(model, Path("base.pth"))
    return model


def train(start: Any = "base.pth", long_range: Any = START_EXACTLY, **changes: Any) -> Path:
    settings = {**training_settings(), "start_from": start}
    settings["model"] = changes.pop("model", None)
    for key in ("train", "data"):
        settings[key].update(changes.pop(key, {}))
    if settings["model"] is None:
        del settings["model"]
    if long_range is not None:
        settings["long_range"] = long_range
    Path("tuned.yaml").write_text(yaml.safe_dump({**settings, **changes}))
    written = registry.host("sevennet").train(Path("tuned.yaml"), (), {})
    assert written is not None
    return written


def numbers(model: torch.nn.Module) -> tuple[float, np.ndarray]:
    calculator = LesSevenNetCalculator(model)
    atoms = waters(3)
    return calculator.get_property("energy", atoms), calculator.get_property("forces", atoms)


def test_a_training_without_a_model_section_starts_exactly_at_the_model(base):
    folder = train()
    energy, forces = numbers(base)
    started_energy, started_forces = numbers(load_checkpoint("checkpoint_0.pth"))
    assert started_energy == energy
    assert np.array_equal(started_forces, forces)
    tuned, config = api.load_model(folder)
    assert long_range_part(tuned).coupling.item() != 0.0
    assert not np.array_equal(numbers(tuned)[1], forces)
    assert config["metadata"]["training"]["start_from"] == "base.pth"
    assert config["metadata"]["data_licence"] == "not stated; not stated (base.pth)"


def test_the_licence_of_a_model_in_the_wheel_goes_on():
    training = SevenNetTraining(Path("tuned.yaml"))
    training.settings, training.start = {"train": {}}, Start.parse("7net-0", "start_from")
    assert training.begins_with() == {"7net-0": "MIT"}
    training.settings, training.start = {"train": {"continue": {"checkpoint": "7net-0"}}}, None
    assert training.begins_with() == {"7net-0": "MIT"}
    training.settings = {"train": {"continue": {"checkpoint": "checkpoint_best.pth"}}}  # of a run of one's own
    assert training.begins_with() == {}


def test_the_shift_is_fitted_to_the_energies_of_the_training_set(base):
    frames = ase.io.read("train.extxyz", ":")
    for atoms in frames:
        atoms.calc.results["energy"] += 12.0
    ase.io.write("train.extxyz", frames)
    predicted = [LesSevenNetCalculator(base).get_property("energy", atoms) for atoms in frames]
    facts = read_config(train({"checkpoint": "base.pth", "shift": "fit"}))["metadata"]["training"]
    started = LesSevenNetCalculator(load_checkpoint("checkpoint_0.pth"))
    error = [started.get_property("energy", atoms) - atoms.get_potential_energy() for atoms in frames]
    # one composition: the fit takes the mean off; a float32 energy of some -10 eV is good to 1e-5 eV
    assert abs(np.mean(error)) < 1e-4
    change = facts["shift_change"]
    expected = np.mean([atoms.get_potential_energy() for atoms in frames]) - np.mean(predicted)
    assert 4 * change["H"] + 2 * change["O"] == pytest.approx(expected, abs=1e-4)
    assert change["H"] == pytest.approx(2 * change["O"], abs=1e-6)  # the smallest changes that do it


def test_the_shift_of_an_element_moves_the_energy_of_its_atoms_alone(base):
    atoms, calculator = waters(3), LesSevenNetCalculator(base)
    before = calculator.get_property("energies", atoms)
    add_to_shift(base, {"O": -3.0})
    calculator.reset()
    change = calculator.get_property("energies", atoms) - before
    # float32 energies of some -4 eV an atom
    np.testing.assert_allclose(change, np.where(atoms.numbers == 8, -3.0, 0.0), rtol=0, atol=1e-5)


def test_another_zero_of_energy_is_told_where_the_shift_is_kept(base):
    frames = ase.io.read("train.extxyz", ":")
    for atoms in frames:
        atoms.calc.results["energy"] += 5.0 * len(atoms)
    ase.io.write("train.extxyz", frames)
    with pytest.warns(LesPluginsWarning, match=r"start_from: .* eV an atom from those of base.pth.*shift: fit"):
        train(train={"epoch": 1})


def test_a_fit_needs_energies(base):
    start = Start.parse({"checkpoint": "base.pth", "shift": "fit"}, "start_from")
    start.model = base
    with pytest.raises(DataError, match="no frame of the training set has an energy"):
        start.set_zero_of_energy([waters()], [None])


def test_elements_without_an_energy_are_named(base):
    start = Start.parse({"checkpoint": "base.pth", "shift": "fit"}, "start_from")
    start.model, start.file = base, Path("started.pth")
    with pytest.warns(LesPluginsWarning, match="no frame with an energy has C, Cl, whose energies stay"):
        facts = start.set_zero_of_energy([waters(), Atoms("CH3Cl")], [-12.0, None])
    assert set(facts["shift_change"]) == {"H", "O"}


@pytest.mark.parametrize("train_only", ["long_range", "last_layer"])
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_is_trained(base, train_only):
    section = {"run": {"train_only": train_only}}  # without zero_init, so that every head has a gradient at once
    optimizer = {"optimizer": "adamw", "optim_param": {"lr": 0.01, "weight_decay": 0.5}}
    tuned, config = api.load_model(train(long_range=section, train={**optimizer, "epoch": 2}))
    trained = {
        name
        for name, module in tuned.named_children()
        if name == "long_range" or (train_only == "last_layer" and any(module is one for one in last_layer(tuned)))
    }
    assert ("1_convolution" in trained) == (train_only == "last_layer")
    before = load_checkpoint("checkpoint_0.pth").state_dict()
    own = dict(base.named_parameters())
    for name, parameter in tuned.named_parameters():
        if name.partition(".")[0] not in trained:
            assert torch.equal(parameter, own[name]), name
        elif parameter.numel() and not (name in own and not own[name].requires_grad):
            assert not torch.equal(parameter, before[name]), name
    assert config["long_range"]["run"]["train_only"] == train_only


def test_a_folder_of_les_plugins_is_started_from_and_terms_may_be_added(base):
    first = train(long_range={"multipoles": ["charge"]}, train={"epoch": 1})
    first.rename("first.les")
    before = numbers(api.load_model("first.les")[0])
    train("first.les", {"multipoles": ["charge"]})
    np.testing.assert_allclose(
        numbers(load_checkpoint("checkpoint_0.pth"))[1], before[1], rtol=0, atol=1e-6
    )  # the same weights; float32
    richer = api.load_model(train("first.les", {"multipoles": ["charge", "dipole"]}))[0]
    assert long_range_part(richer).config.order == 1
    with pytest.raises(ConfigError, match=r"start_from: the long_range section of first\.les is"):
        train("first.les", None)
    with pytest.raises(ConfigError, match=r"start_from: the long_range section of first\.les is"):
        train("first.les", {"multipoles": ["charge"], "hidden": 7})


def test_a_checkpoint_keeps_the_number_of_neighbours_of_the_weights(base, tmp_path):
    base.host_config[keys.CONV_DENOMINATOR] = 0.0  # as in 7net-0
    les_plugins.save(base, tmp_path / "base.les", "sevennet")
    again = api.load_model(tmp_path / "base.les")[0]
    assert again.host_config[keys.CONV_DENOMINATOR] == [4.0, 4.0]  # contract.MODEL
    assert numbers(again)[0] == numbers(base)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "7net-9"}, r"start_from is '7net-9', which is not there; allowed: a pretrained model .*7net-0"),
        ({"start": {"checkpoint": "base.pth", "shfit": "fit"}}, "start_from: unknown key 'shfit'"),
        ({"start": {"checkpoint": "base.pth", "shift": "refit"}}, r"start_from.shift is 'refit'; allowed: keep, fit"),
        ({"start": 3}, "start_from is 3; expected a section"),
        ({"model": {"channel": 8}}, r"model.channel is 8; the model of start_from has 4: leave the key out"),
        ({"model": {"chemical_species": ["H"]}}, r"model.chemical_species is \['H'\]; the model of start_from has"),
        ({"model": {"cutoff_function": {"cutoff_function_name": "XPLOR"}}}, "model.cutoff_function is"),
        ({"model": {"conv_denominator": 3.0}}, "model.conv_denominator is that of the model"),
        ({"data": {"shift": "per_atom_energy_mean"}}, r"data.shift is 'per_atom_energy_mean'; with start_from"),
        ({"train": {"continue": {"checkpoint": "base.pth"}}}, "start_from and train.continue both say"),
        ({"model": {"chanel": 4}}, r"unknown model keys: \['chanel'\]"),
    ],
)
def test_what_contradicts_the_model_raises_an_error_that_names_the_key(base, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(**changes)
    assert not Path("checkpoint_0.pth").exists()


def test_what_agrees_with_the_model_may_be_written_out(base):
    settings = training_settings()
    own = {"chemical_species": ["O", "H"], "channel": 4, "radial_basis": {"bessel_basis_num": 4}, "cutoff": 3.5}
    found = completed({**settings, "model": own}, base, Path("base.pth"), "tuned.yaml")
    assert found["model"]["num_convolution_layer"] == 2
    assert found["train"]["continue"]["checkpoint"] == "base.pth"


@pytest.mark.slow
def test_the_example_teaches_7net_the_charges_of_ions_from_ten_frames(tmp_path, monkeypatch):
    """Energies and forces alone; half a minute on one core."""
    examples = Path(__file__).parents[2] / "examples" / "quickstart"
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, str(examples / "make_data.py")], check=True, capture_output=True)
    folder = registry.host("sevennet").train(examples / "sevennet.yaml", ["-w", "7net"], {})
    calculator = les_plugins.load(folder)
    tested = ase.io.read("runs/quickstart/data/test.xyz", ":")
    found: dict[str, list[float]] = {"Na": [], "Cl": []}
    for atoms in tested:
        traces = np.trace(calculator.get_property("born_effective_charges", atoms), axis1=1, axis2=2) / 3
        for symbol, charge in zip(atoms.symbols, traces, strict=True):
            found[symbol].append(charge)
    # exactly one; a run on one machine gave 1.02, and other processors round otherwise
    assert np.mean(found["Na"]) == pytest.approx(1.0, abs=0.1)
    assert np.mean(found["Cl"]) == pytest.approx(-1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["7net-0", "7net-0_22May2024", "SevenNet-l3i5", "7net-mf-0"])
def test_pretrained_models_start_exactly_where_they_were(name, base):
    """Loading each takes seconds; forces of a model with a long-range part at zero coupling."""
    model = read_model(name, "start_from")
    modal = "PBE" if model.modal_map else None
    both = (model, les_plugins.attach(model, START_EXACTLY))
    forces, longer = (LesSevenNetCalculator(one, modal=modal).get_property("forces", waters(2)) for one in both)
    np.testing.assert_allclose(longer, forces, rtol=0, atol=1e-6)  # float32, one sum more
