"""`les-plugins train chgnet`: its file, its labels, what CHGNet's own trainer makes of them, CHGNet's own files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("chgnet", reason="chgnet is not installed: nox -s tests-chgnet")

import ase.io
import torch
import yaml
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

import les_plugins
from les_plugins.adapters.chgnet.calculator import LesCHGNetCalculator
from les_plugins.adapters.chgnet.contract import TINY, tiny_model
from les_plugins.adapters.chgnet.model import LongRangeCHGNet, last_layer
from les_plugins.adapters.chgnet.train import CHGNetTraining, fit_references, train
from les_plugins.api import load_model
from les_plugins.distillation.teachers import open_teacher
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsError, LesPluginsWarning
from les_plugins.io.documents import read_yaml
from les_plugins.storage.checkpoint import read_config
from les_plugins.testing import waters

SECTION = {"multipoles": ["charge", "dipole"], "total_charge": "conserved"}
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "hosts" / "chgnet.md"


def labelled(atoms: Atoms, seed: int, **more: Any) -> Atoms:
    """A structure with made-up labels in ASE's units."""
    generator = np.random.default_rng(seed)
    forces = 0.1 * generator.normal(size=(len(atoms), 3))
    labels = {"energy": -5.0 * len(atoms) + 0.1 * generator.normal(), "forces": forces - forces.mean(0), **more}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    frames = [labelled(waters(2, seed=seed), seed, stress=np.full(6, 0.01), magmoms=np.zeros(6)) for seed in range(6)]
    ase.io.write("train.xyz", frames[:4], format="extxyz")
    ase.io.write("valid.xyz", frames[4:], format="extxyz")
    return tmp_path


def write_config(**changes: Any) -> Path:
    """A training of one epoch in seconds, its sections changed as given."""
    settings: dict[str, Any] = {
        "data": {"train": "train.xyz", "valid": "valid.xyz", "batch_size": 2},
        "model": dict(TINY),
        "trainer": {"epochs": 1, "use_device": "cpu", "save_dir": "run"},
        "long_range": SECTION,
    }
    for name, section in changes.items():
        settings[name] = {**settings.get(name, {}), **section} if name != "model" else section
    Path("c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Path("c.yaml")


def targets_of(path: Path, frame: Atoms) -> dict[str, torch.Tensor]:
    """The labels of a frame as CHGNet's trainer is given them."""
    run = CHGNetTraining(path)
    run.settings = read_yaml(path)
    run.split()
    run.read_frames()
    return run._item(frame, tiny_model())[1]


def test_labels_reach_chgnet_in_its_units(work):
    frame = labelled(waters(1), 0, stress=np.array([1, 2, 3, 4, 5, 6]) * units.GPa, magmoms=np.array([-1.0, 0.5, 0.0]))
    found = targets_of(write_config(trainer={"targets": "efsm"}), frame)
    assert found["e"].item() == pytest.approx(frame.get_potential_energy() / 3)  # eV an atom
    np.testing.assert_allclose(found["f"].numpy(), frame.get_forces())
    # GPa, with the sign of ASE: CHGNet turns that of VASP round when it reads it
    np.testing.assert_allclose(found["s"].numpy(), [[1, 6, 5], [6, 2, 4], [5, 4, 3]], rtol=1e-12)
    np.testing.assert_allclose(found["m"].numpy(), [1.0, 0.5, 0.0])


def test_the_best_epoch_is_kept_and_not_the_last(work):
    """CHGNet's get_best_model returns the model itself, as the last epoch left it."""
    path = write_config(trainer={"epochs": 6, "learning_rate": 0.3, "targets": "efs"})
    folder = train(path)
    kept = les_plugins.load(folder).metadata["metadata"]["training"]["last_validation"]
    calculator = les_plugins.load(folder)
    frames = ase.io.read("valid.xyz", ":")
    errors = [abs(calculator.get_property("forces", atoms) - atoms.get_forces()).mean() for atoms in frames]
    assert np.mean(errors) == pytest.approx(kept["f"], abs=2e-6)  # CHGNet rounds to 1e-6
    last = torch.load(next(Path("run").glob("epoch*")), weights_only=True)["training_history"]["f"]["val"]
    assert kept["f"] == min(last)
    assert kept["f"] < last[-1], "this training is to get worse at its end"


@pytest.mark.filterwarnings("ignore:.*the sign of the charges is not certain:les_plugins.errors.LesPluginsWarning")
@pytest.mark.parametrize("kind", ["packaged", "own file", "own file with a long-range part"])
def test_training_goes_on_from_packaged_weights_and_from_files_of_chgnet(kind, work):
    if kind == "packaged":
        load, section = "0.2.0", {**SECTION, "zero_init": True}
    else:
        section = SECTION
        settings = read_yaml(write_config())
        if kind == "own file":
            del settings["long_range"]
        Path("first.yaml").write_text(yaml.safe_dump(settings))
        train(Path("first.yaml"))
        load = str(next(Path("run").glob("bestF*")))
    # a learning rate of zero: the weights of the start
    start = {"learning_rate": 0.0, "save_dir": "next", "scheduler": "ExponentialLR"}
    again, _ = load_model(train(write_config(model={"load": load}, trainer=start, long_range=section)))
    if kind == "packaged":
        assert again.version == "0.2.0"
        return
    before, _ = load_model(Path("run.les"))
    own, state = again.state_dict(), before.state_dict()
    assert (kind == "own file") == (len(own) > len(state))
    for name, value in state.items():
        # the sign of the charges was chosen when the checkpoint was saved, and not in CHGNet's file
        assert torch.equal(own[name].abs(), value.abs()), name


def test_chgnets_own_file_of_a_model_with_a_long_range_part_is_read_by_from_file_and_by_distill(work):
    folder = train(write_config())
    file = str(next(Path("run").glob("bestF*")))
    read = LesCHGNetCalculator(LongRangeCHGNet.from_file(file).eval())
    expected, teacher = les_plugins.load(folder), open_teacher(f"chgnet:{file}").calculator
    assert teacher.has_long_range
    for found in (read, teacher):
        for atoms in (waters(2), waters(2, pbc=False)):
            forces = found.get_property("forces", atoms)
            np.testing.assert_allclose(forces, expected.get_property("forces", atoms), rtol=0, atol=1e-5)  # float32


def test_a_training_in_float64_makes_a_model_in_float64_with_the_same_errors(work):
    found = {}
    for dtype in ("float32", "float64"):
        folder = train(write_config(model={**TINY, "dtype": dtype}, trainer={"save_dir": dtype}))
        model, config = load_model(folder)
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
        found[dtype] = config["metadata"]["training"]["last_validation"]
    assert found["float64"]["f"] == pytest.approx(found["float32"]["f"], rel=1e-3)  # one epoch from the same start


def test_molecules_and_slabs_are_trained_on_beside_crystals(work):
    frames = [labelled(waters(2, seed=seed), seed) for seed in range(4)]
    frames[1] = labelled(waters(1, pbc=False), 1)
    slab = waters(2)
    slab.pbc = (True, True, False)
    frames[2] = labelled(slab, 2)
    ase.io.write("train.xyz", frames, format="extxyz")
    calculator = les_plugins.load(train(write_config()))
    assert all(np.isfinite(calculator.get_property("forces", atoms)).all() for atoms in frames)


def test_frames_without_magnetic_moments_are_left_out_with_a_warning(work):
    frames = ase.io.read("train.xyz", ":")
    del frames[1].calc.results["magmoms"]
    ase.io.write("train.xyz", frames, format="extxyz")
    with pytest.warns(LesPluginsWarning, match=r"1 of 4 frames \(frame 1\) without magmoms"):
        folder = train(write_config(trainer={"targets": "efsm"}))
    assert les_plugins.load(folder).metadata["metadata"]["training"]["last_validation"]["m"] > 0.0


def test_a_stress_that_is_missing_is_an_error_that_names_frame_and_way_out(work):
    frames = ase.io.read("train.xyz", ":")
    del frames[2].calc.results["stress"]
    ase.io.write("train.xyz", frames, format="extxyz")
    with pytest.raises(DataError, match=r"train.xyz: 1 of 4 frames \(frame 2\) without stress"):
        train(write_config(trainer={"targets": "efs"}))


def test_references_take_up_another_zero_of_energy_and_elements_without_data_keep_theirs():
    model = tiny_model()
    shift = {"H": -13.6, "O": -432.0}
    frames = [waters(count, seed=count) for count in (1, 2, 3)]
    frames += [Atoms("O2", [[0, 0, 0], [1.2, 0, 0]]), Atoms("OH", [[0, 0, 0], [1.0, 0, 0]])]
    calculator = LesCHGNetCalculator(model)
    energies = [calculator.get_property("energy", atoms) for atoms in frames]
    labels = [
        energy + sum(shift[symbol] for symbol in atoms.get_chemical_symbols())
        for energy, atoms in zip(energies, frames, strict=True)
    ]
    before = model.composition_model.fc.weight[0].detach().clone()
    change = fit_references(model, frames, labels)
    assert change == {symbol: pytest.approx(value, abs=1e-9) for symbol, value in shift.items()}
    assert (model.composition_model.fc.weight[0].detach() - before).count_nonzero() == 2
    for atoms, label in zip(frames, labels, strict=True):
        assert calculator.get_property("energy", atoms) == pytest.approx(label, abs=1e-9)


@pytest.mark.filterwarnings("ignore:.*the sign of the charges is not certain:les_plugins.errors.LesPluginsWarning")
@pytest.mark.parametrize("train_only", ["long_range", "last_layer"])
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_is_trained(train_only, work):
    settings = read_yaml(write_config(trainer={"save_dir": "base"}))
    del settings["long_range"]
    Path("base.yaml").write_text(yaml.safe_dump(settings))
    before, _ = load_model(train(Path("base.yaml")))
    load = str(next(Path("base").glob("bestF*")))
    section = {**SECTION, "run": {"train_only": train_only}}
    after, config = load_model(train(write_config(model={"load": load}, long_range=section)))
    trained = {id(parameter) for module in last_layer(after) for parameter in module.parameters()}
    own, moved = dict(after.named_parameters()), set()
    for name, parameter in before.named_parameters():
        if not torch.equal(own[name], parameter):
            moved.add(id(own[name]))
    assert moved == (trained if train_only == "last_layer" else set())
    assert config["long_range"]["run"]["train_only"] == train_only
    assert config["metadata"]["data_licence"] == "not stated"  # as of the checkpoint beside the file, base.les


@pytest.mark.filterwarnings("ignore:.*the sign of the charges is not certain:les_plugins.errors.LesPluginsWarning")
def test_atom_ref_fit_begins_with_the_zero_of_energy_of_the_labels(work):
    for name in ("train.xyz", "valid.xyz"):
        frames = [labelled(atoms, seed) for seed, atoms in enumerate(ase.io.read(name, ":"))]
        for atoms in frames:
            atoms.calc.results["energy"] -= 100.0 * len(atoms)
        ase.io.write(name, frames, format="extxyz")
    start = {"learning_rate": 0.0, "scheduler": "ExponentialLR"}
    found = {}
    for choice in ("keep", "fit"):
        model, section = {"load": "0.3.0", "atom_ref": choice}, {**SECTION, "zero_init": True}
        folder = train(write_config(model=model, trainer={**start, "save_dir": choice}, long_range=section))
        found[choice] = les_plugins.load(folder).metadata["metadata"]["training"]["last_validation"]
    assert found["keep"]["e"] > 90.0
    assert found["fit"]["e"] < 1.0
    assert found["fit"]["f"] == found["keep"]["f"]  # it moves no force
    licences = {read_config(Path(f"{choice}.les"))["metadata"]["data_licence"] for choice in found}
    assert licences == {"not stated; Modified BSD (0.3.0)"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainer": {"learning_rat": 0.1}}, "trainer: unknown key 'learning_rat'"),
        ({"trainer": {"learning_rate": "fast"}}, "trainer.learning_rate is 'fast'; allowed: a number from 0 on"),
        ({"trainer": {"weight_decay": None}}, "trainer.weight_decay is None; allowed: a number from 0 on"),
        ({"trainer": {"epochs": 0}}, "trainer.epochs is 0; allowed: a number without a fraction, 1 or more"),
        ({"trainer": {"force_loss_ratio": -1.0}}, "force_loss_ratio is -1.0"),
        ({"trainer": {"targets": "em"}}, "trainer.targets is 'em'; allowed: ef, efs, efsm"),
        ({"trainer": {"optimizer": "adam"}}, "trainer.optimizer is 'adam'; allowed: Adam"),
        ({"trainer": {"use_device": "cuda:99"}}, "cuda:99"),
        ({"data": {"batch_size": 1.5}}, "data.batch_size is 1.5"),
        ({"data": {"valid": None}}, "data.valid is missing"),
        ({"data": {"forces_key": "F"}}, "forces under the name 'F'"),
        ({"model": {"load": "0.3.0", "n_conv": 3}}, "model: unknown key 'n_conv'"),
        ({"model": {"load": "0.4.0"}}, "chgnet has no model '0.4.0' (did you mean '0.3.0'?)"),
        ({"model": {"atom_graph_cutoff": -1}}, "model.atom_graph_cutoff"),
        ({"model": {"dtype": "float16"}}, "model.dtype is 'float16'; allowed: float32, float64"),
        ({"model": {"is_intensive": "yes"}}, "model.is_intensive is 'yes'; allowed: true, false"),
        ({"model": {"composition_model": None}}, "model.composition_model is None; allowed: MPtrj"),
    ],
)
def test_what_cannot_be_used_in_the_file_is_an_error_that_names_it(changes, words, work):
    with pytest.raises(LesPluginsError, match=re.escape(words)):
        train(write_config(**changes))
    assert not Path("run.les").exists()


def test_a_number_that_yaml_takes_for_text_is_a_number(work):
    run = CHGNetTraining(write_config(trainer={"learning_rate": "1e-3", "epochs": "2"}))
    run.settings = read_yaml(run.config_file)
    run.split()
    assert (run.trainer["learning_rate"], run.trainer["epochs"]) == (1e-3, 2)


def test_energies_of_elements_of_another_kind_are_refused(work):
    """CHGNet would add the energy of the elements of a cell to its own energy an atom."""
    with pytest.raises(HostError, match="MPF goes with is_intensive=False"):
        train(write_config(model={**TINY, "composition_model": "MPF"}))
    train(write_config(model={**TINY, "composition_model": "MPF", "is_intensive": False, "atom_ref": "fit"}))
    calculator = les_plugins.load("run.les")
    energies = [calculator.get_property("energy", waters(2) * (n, 1, 1)) for n in (1, 2)]
    assert energies[1] == pytest.approx(2 * energies[0], rel=1e-5)  # float32
    assert calculator.get_property("energies", waters(2)).sum() == pytest.approx(energies[0], rel=1e-5)


def test_another_section_than_that_of_the_loaded_file_is_an_error(work):
    train(write_config())
    load = {"load": str(next(Path("run").glob("bestF*")))}
    with pytest.raises(ConfigError, match="part of another long_range section"):
        train(write_config(model=load, long_range={"sigma": 1.3}))
    settings = read_yaml(write_config(model=load))
    del settings["long_range"]  # the part would be trained, and no line of the file says so
    Path("c.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="part of another long_range section"):
        train(Path("c.yaml"))


def test_options_on_the_command_line_are_an_error(work):
    with pytest.raises(ConfigError, match=r"argument '--epochs': CHGNet has no options; write it into c.yaml"):
        train(write_config(), ["--epochs", "3"])


@pytest.mark.parametrize("long_range", [True, False])
def test_a_training_that_diverges_is_an_error_in_one_line(long_range, work):
    path = write_config(trainer={"learning_rate": 1e30, "optimizer": "SGD"})
    settings = read_yaml(path)
    if not long_range:
        del settings["long_range"]
        path.write_text(yaml.safe_dump(settings))
    with pytest.raises(HostError, match="try a lower l"):
        train(path)


def test_the_files_on_the_page_and_of_the_quickstart_are_accepted(work):
    """Every YAML block of the reference page, as a reader would copy it."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    files = [yaml.safe_load(block) for block in blocks if block.lstrip().startswith("data:")]
    files.append(read_yaml(PAGE.parents[3] / "examples" / "quickstart" / "chgnet.yaml"))
    assert len(files) == 3
    for number, settings in enumerate(files):
        run = CHGNetTraining(Path(f"{number}.yaml"))
        run.settings = settings
        run.split()
        assert run.long_range is not None


def test_a_crystal_of_packaged_weights_has_charges_that_conserve_the_total():
    model = les_plugins.attach(tiny_model(), SECTION)
    atoms = bulk("MgO", "rocksalt", 4.3, cubic=True)
    atoms.rattle(0.1, seed=0)
    charges = LesCHGNetCalculator(model).get_property("charges", atoms)
    assert abs(charges).max() > 1e-6
    assert charges.sum() == pytest.approx(0.0, abs=1e-12)  # rounding
