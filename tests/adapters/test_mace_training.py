"""MACE's own trainer with a long-range part in the model: from the command line and from Python."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import ase.io
import torch
import yaml
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from mace_models import waters

import les_plugins
from les_plugins import api
from les_plugins.adapters.mace import contract
from les_plugins.errors import CheckpointError, ConfigError, DataError, DeviceError, LesPluginsWarning
from les_plugins.hosting import registry as plugins
from les_plugins.storage import checkpoint

SETTINGS = contract.SETTINGS | {"model": "ScaleShiftMACE", "max_num_epochs": 2}
README = Path(__file__).parents[2] / "README.md"
LONG_RANGE = {"response": {"charge": True, "dipole": "isotropic"}, "epsilon_infinity": 1.5}


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A folder with train and valid files of six and two small frames, labelled by a Lennard-Jones potential."""
    for name, count in (("train", 6), ("valid", 2)):
        frames = []
        for seed in range(count):
            atoms = waters(2, seed=seed + (0 if name == "train" else 100))
            atoms.calc = LennardJones(sigma=1.0, epsilon=0.05, rc=3.0)
            energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
            frames.append(atoms)
        ase.io.write(tmp_path / f"{name}.extxyz", frames)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(work: Path, long_range=LONG_RANGE, **changes) -> Path:
    settings = SETTINGS | {"train_file": "train.extxyz", "valid_file": "valid.extxyz"} | changes
    if long_range is not None:
        settings["long_range"] = long_range
    path = work / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
    return path


def train(config: Path, *arguments: str):
    return plugins.host("mace").train(config, arguments, {"data_licence": "none"})


def test_training_writes_a_checkpoint_that_loads_and_knows_where_it_came_from(work):
    folder = train(write_config(work))
    assert folder == Path("tiny.les")
    config = checkpoint.read_config(folder)
    assert config["metadata"]["training_data"][0]["sha256"] == checkpoint.sha256(work / "train.extxyz")
    assert config["epsilon_infinity"] == 1.5
    assert config["metadata"]["data_licence"] == "none"
    assert config["metadata"]["training"]["host_options"]["max_num_epochs"] == 2
    assert str(work) not in json.dumps(config)  # no path of this machine
    atoms = waters(2)
    calculator = les_plugins.load(folder)
    charges = np.trace(calculator.get_property("born_effective_charges", atoms), axis1=1, axis2=2) / 3
    assert charges[atoms.numbers == 8].mean() < charges[atoms.numbers == 1].mean()  # the sign convention
    assert np.isfinite(calculator.get_forces(atoms)).all()


def test_training_changes_every_part_of_the_model_and_lowers_the_loss(work):
    train(write_config(work, max_num_epochs=1))
    early = les_plugins.api.load_model("tiny.les")[0].state_dict()
    losses = [json.loads(line) for line in (work / "results").glob("*_train.txt").__next__().read_text().splitlines()]
    train(write_config(work, name="longer", max_num_epochs=12))
    late = les_plugins.api.load_model("longer.les")[0].state_dict()
    heads = [name for name in late if name.startswith("les_readouts") and "gauge" not in name]
    assert heads
    for name in heads:
        assert not torch.equal(early[name], late[name]), name
    lines = [json.loads(line) for line in (work / "results" / "longer_run-123_train.txt").read_text().splitlines()]
    validation = [line["loss"] for line in lines if line["mode"] == "eval"]
    assert validation[-1] < 0.8 * validation[0]
    assert losses


def test_without_the_section_the_model_is_maces_own(work):
    folder = train(write_config(work, long_range=None, max_num_epochs=1))
    model, config = les_plugins.api.load_model(folder)
    assert type(model).__name__ == "ScaleShiftMACE"
    assert config["long_range"] is None


@pytest.mark.training
def test_a_run_that_was_stopped_goes_on_from_its_last_checkpoint(work):
    train(write_config(work, max_num_epochs=2, restart_latest=True))
    train(write_config(work, max_num_epochs=4, restart_latest=True))
    lines = [json.loads(line) for line in (work / "results" / "tiny_run-123_train.txt").read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if line["mode"] == "eval" and line["epoch"] is not None]
    assert epochs == [0, 1, 1, 2, 3]  # MACE repeats the epoch whose checkpoint it loads


@pytest.mark.training
def test_stage_two_and_the_stress_loss_train_as_in_mace(work):
    folder = train(
        write_config(
            work, max_num_epochs=4, swa=True, start_swa=2, loss="stress", stress_key="stress", stress_weight=1.0
        )
    )
    log = next((work / "logs").glob("*.log")).read_text()
    assert "Changing loss based on Stage Two Weights" in log
    assert "Loaded Stage two model" in log
    calculator = les_plugins.load(folder)
    assert np.isfinite(calculator.get_property("stress", waters(2))).all()


@pytest.mark.training
def test_a_foundation_model_is_fine_tuned_with_a_long_range_part(work):
    train(write_config(work, long_range=None, max_num_epochs=1))
    folder = train(
        write_config(
            work,
            {**LONG_RANGE, "zero_init": True},
            name="tuned",
            foundation_model="tiny.model",
            multiheads_finetuning=False,
            max_num_epochs=2,
        )
    )
    tuned, _ = les_plugins.api.load_model(folder)
    assert tuned.long_range.coupling.item() != 0.0
    lines = [json.loads(line) for line in (work / "results" / "tuned_run-123_train.txt").read_text().splitlines()]
    first = next(line for line in lines if line["mode"] == "eval")
    before = [json.loads(line) for line in (work / "results" / "tiny_run-123_train.txt").read_text().splitlines()]
    last = [line for line in before if line["mode"] == "eval"][-1]
    # zero_init: fine-tuning starts where the foundation model was, forces do not depend on the new E0s
    assert first["rmse_f"] == pytest.approx(last["rmse_f"], rel=1e-6)


def test_slabs_among_the_training_frames_are_trained_on(work):
    frames = ase.io.read(work / "train.extxyz", ":")
    frames[2].pbc = (True, True, False)
    ase.io.write(work / "train.extxyz", frames)
    model, _ = les_plugins.api.load_model(train(write_config(work)))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_wire_among_the_training_frames_is_refused_with_file_and_frame(work):
    frames = ase.io.read(work / "train.extxyz", ":")
    frames[2].pbc = (True, False, False)
    ase.io.write(work / "train.extxyz", frames)
    with pytest.raises(DataError, match=r"train.extxyz, frame 2: pbc is T F F.*Wires"):
        train(write_config(work))


def test_an_element_that_only_the_validation_file_has_is_refused(work):
    frames = ase.io.read(work / "valid.extxyz", ":")
    frames[1].numbers[0] = 7
    ase.io.write(work / "valid.extxyz", frames)
    with pytest.raises(DataError, match=r"valid.extxyz .*frame 1: the model does not know N; it knows: H, O"):
        train(write_config(work))


def test_the_same_from_python_without_the_seam(work):
    example = Path(__file__).parents[2] / "examples" / "mace_from_python.py"
    command = [sys.executable, str(example), "train.extxyz", "valid.extxyz", "out.les", "--epochs", "1"]
    subprocess.run([*command, "--channels", "4", "--cutoff", "3.0"], check=True, capture_output=True)
    assert les_plugins.load("out.les").has_long_range


def test_the_seam_is_closed_after_success_and_after_failure(work):
    from les_plugins.adapters.mace.seam import model_seam, run_train, tools
    from les_plugins.config import LongRangeConfig

    original = run_train.configure_model, tools.train

    def fail_inside() -> None:
        with model_seam(LongRangeConfig()):
            assert run_train.configure_model is not original[0]
            assert tools.train is not original[1]
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert (run_train.configure_model, tools.train) == original


def test_dry_run_writes_no_checkpoint(work):
    assert train(write_config(work), "--dry_run") is None
    assert not (work / "tiny.les").exists()


@pytest.mark.parametrize(
    ("changes", "long_range", "error", "message"),
    [
        ({}, {"sigmaa": 1.0}, ConfigError, "unknown key 'sigmaa'.*allowed keys: multipoles"),
        ({}, {"multipoles": ["charge", "quadrupole"]}, ConfigError, "multipoles"),
        ({"max_num_epoch": 3}, LONG_RANGE, ConfigError, "unknown key 'max_num_epoch'.*did you mean"),
        ({"train_file": None}, LONG_RANGE, ConfigError, "train_file is missing"),
        ({"train_file": "absent.extxyz"}, LONG_RANGE, DataError, "absent.extxyz: no such file"),
        (
            {"energy_key": "E", "forces_key": "F"},
            LONG_RANGE,
            DataError,
            "no.* energy under the name 'E' .*mean 'energy'",
        ),
        ({"model": "MACELES"}, LONG_RANGE, ConfigError, "MACELES"),
        ({"device": "cuda"}, LONG_RANGE, DeviceError, "cuda"),
    ],
)
def test_wrong_input_raises_an_error(work, changes, long_range, error, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(error, match=message):
        train(write_config(work, long_range, **changes))


def test_the_command_prints_pure_json_on_standard_output_and_maces_log_on_the_other(work):
    command = [sys.executable, "-m", "les_plugins", "train", "mace", "--config", str(write_config(work)), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout)
    assert summary["checkpoint"] == "tiny.les"
    assert summary["training"]["last_validation"]["rmse_f"] > 0
    assert "Epoch 1" in done.stderr
    assert "cuequivariance" not in done.stderr
    assert "UserWarning: Environment" not in done.stderr


def test_an_unknown_option_raises_an_error(work):
    with pytest.raises(ConfigError, match=r"unknown option '--max_num_epochss'.*did you mean 'max_num_epochs'"):
        train(write_config(work), "--max_num_epochss", "3")


def test_nan_labels_are_refused_with_file_and_frame(work):
    frames = ase.io.read(work / "train.extxyz", ":")
    frames[3].calc.results["forces"][0, 0] = np.nan
    ase.io.write(work / "train.extxyz", frames)
    with pytest.raises(DataError, match=r"train.extxyz, frame 3: forces holds NaN"):
        train(write_config(work))


def test_fine_tuning_begins_with_the_weights_of_a_checkpoint_and_the_zero_of_the_new_data(work):
    first = train(write_config(work, name="first"))
    frames = ase.io.read("train.extxyz", ":")
    for atoms in frames:  # another zero of energy, as of another functional
        atoms.calc.results["energy"] += 5.0 * len(atoms)
    ase.io.write("shifted.extxyz", frames)
    second = train(
        write_config(
            work,
            name="second",
            start_from=str(first),
            train_file="shifted.extxyz",
            valid_file="shifted.extxyz",
            lr=1e-12,
        )
    )
    before, after = les_plugins.load(first), les_plugins.load(second)
    atoms = waters(2)
    # lr 1e-12 moves no weight by more than the rounding of float32; energies are of some eV
    assert np.allclose(after.get_forces(atoms), before.get_forces(atoms), rtol=0, atol=1e-4)
    shift = after.get_potential_energy(atoms) - before.get_potential_energy(atoms)
    assert shift == pytest.approx(5.0 * len(atoms), abs=1e-2)
    assert checkpoint.read_config(second)["metadata"]["training"]["start_from"] == "first.les"
    assert checkpoint.read_config(second)["metadata"]["data_licence"] == "none"


def test_fine_tuning_under_another_width_keeps_the_weights(work):
    first = train(write_config(work, name="first", max_num_epochs=1))
    other = {**LONG_RANGE, "sigma": 0.8, "dl": 0.96, "epsilon_infinity": 2.0}
    second = train(
        write_config(work, name="second", max_num_epochs=1, lr=1e-12, start_from=str(first), long_range=other)
    )
    old, new = (api.load_model(folder)[0] for folder in (first, second))
    assert new.long_range.config.sigma == 0.8
    for name, value in new.long_range.state_dict().items():  # the gauge is a sign, the rest has not been trained
        assert torch.allclose(value.abs(), old.long_range.state_dict()[name].abs(), rtol=0, atol=1e-6), name


@pytest.mark.parametrize("less", [{**LONG_RANGE, "multipoles": ["charge"], "response": {}}, None])
def test_fine_tuning_with_more_terms_keeps_what_was_trained(work, less):
    first = train(write_config(work, name="first", max_num_epochs=1, long_range=less))
    second = train(write_config(work, name="second", max_num_epochs=1, lr=1e-12, start_from=str(first)))
    old, new = (api.load_model(folder)[0].state_dict() for folder in (first, second))
    prefix = "" if less else "base."
    shared = {prefix + name: value for name, value in old.items() if prefix + name in new}
    assert len(shared) == len(old)
    for name, value in shared.items():  # the gauge is a sign, the zero of energy that of the data
        assert torch.allclose(new[name].double().abs(), value.double().abs(), rtol=0, atol=1e-6), name
    fresh = {name.split("heads.")[1].split(".")[0] for name in new.keys() - shared.keys() if "heads." in name}
    assert fresh == {"dipole", "quadrupole", "softness", "polarizability"} | (set() if less else {"charge"})


def test_fine_tuning_without_a_term_keeps_the_rest(work):
    first = train(write_config(work, name="first", max_num_epochs=1))
    fewer = {**LONG_RANGE, "response": {"charge": False, "dipole": "isotropic"}}
    second = train(
        write_config(work, name="second", max_num_epochs=1, lr=1e-12, start_from=str(first), long_range=fewer)
    )
    old, new = (api.load_model(folder)[0].state_dict() for folder in (first, second))
    assert {name.split("heads.")[1].split(".")[0] for name in old.keys() - new.keys()} == {"softness"}
    for name, value in new.items():  # the gauge is a sign, the zero of energy that of the data
        assert torch.allclose(old[name].double().abs(), value.double().abs(), rtol=0, atol=1e-6), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"long_range": {**LONG_RANGE, "hidden": 5}}, "must be the same here"),
        ({"long_range": None}, "must be the same here"),
        ({"r_max": 3.9}, "r_max is 3.9 here"),
        ({"hidden_irreps": "6x0e + 6x1o"}, "hidden_irreps is '6x0e"),
        ({"gate": "tanh"}, "gate is 'tanh' here"),
        ({"atomic_numbers": "[1, 6, 8]", "E0s": "{1: 0.0, 6: 0.0, 8: 0.0}"}, "knows the atomic numbers"),
        ({"start_from": "nothing.les"}, "does not exist"),
        ({"start_from": 3}, "expected a .les folder"),
        ({"foundation_model": "small"}, "give one of them"),
    ],
)
def test_fine_tuning_is_refused_where_the_weights_mean_nothing(work, changes, words):
    first = train(write_config(work, name="first", max_num_epochs=1))
    given = {"start_from": str(first), **changes}
    with pytest.raises((ConfigError, CheckpointError), match=words):
        train(write_config(work, name="second", **given))


def test_the_section_of_the_readme_sets_off_no_warning_of_ours_after_two_epochs(work, recwarn):
    """In periodic cells, doubled ones too: charges add up to zero, and no charge is induced that screens long waves."""
    (block,) = re.findall(r"^    long_range:\n(?:      .*\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)
    folder = train(write_config(work, yaml.safe_load(block)["long_range"]))
    warnings.simplefilter("always", LesPluginsWarning)
    calculator, atoms = les_plugins.load(folder), waters(8)
    for frame in (atoms, atoms.repeat((2, 1, 1))):
        charges = calculator.get_property("latent_charges", frame)
        calculator.get_property("born_effective_charges", frame)
        assert abs(charges.sum()) < 1e-5  # float32 heads
        assert np.abs(charges).max() > 1e-4
    ours = [str(warning.message) for warning in recwarn if issubclass(warning.category, LesPluginsWarning)]
    assert [text for text in ours if "sign of the charges" not in text] == []  # two epochs leave it open
