"""SevenNet's own trainer with a long-range part in the model: command line, checkpoints, restarts, wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

import ase.io
import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from sevenn.calculator import SevenNetCalculator
from sevenn.main import sevenn as command
from sevenn.scripts.deploy import deploy

import les_plugins
from les_plugins import api
from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
from les_plugins.adapters.sevennet.contract import training_settings
from les_plugins.adapters.sevennet.train import load_checkpoint
from les_plugins.errors import ConfigError, DataError, DeviceError, HostError
from les_plugins.hosting import registry as plugins
from les_plugins.model.outputs import long_range_part
from les_plugins.storage import checkpoint
from les_plugins.testing import labelled_waters, waters

LONG_RANGE = {"response": {"charge": True, "dipole": "isotropic"}, "epsilon_infinity": 1.5}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with train and valid files of six and two small frames; one of the former is open."""
    frames = labelled_waters(6)
    open_one = Atoms(frames[1].numbers, frames[1].positions)
    labels = {name: frames[1].calc.results[name] for name in ("energy", "forces")}
    open_one.calc = SinglePointCalculator(open_one, **labels)
    ase.io.write(tmp_path / "train.extxyz", [frames[0], open_one, *frames[2:]])
    ase.io.write(tmp_path / "valid.extxyz", labelled_waters(2, seed=100))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(long_range: Any = LONG_RANGE, model: Any = None, data: Any = None, **train: Any) -> Path:
    settings: dict[str, Any] = training_settings(**train)
    settings["model"].update(model or {})
    settings["data"].update(data or {})
    if long_range is not None:
        settings["long_range"] = long_range
    settings["data"] = {key: value for key, value in settings["data"].items() if value is not None}
    Path("water.yaml").write_text(yaml.safe_dump(settings))
    return Path("water.yaml")


def train(config: Path, *arguments: str) -> Path:
    hooks = plugins.host("sevennet")
    return hooks.train(config, arguments, {"data_licence": "none"})


def test_training_writes_checkpoints_of_both_kinds_that_load_and_know_where_they_came_from(work):
    globals_before = dict(command.global_config)
    folder = train(write_config())
    assert folder == Path("water.les")
    assert command.global_config == globals_before
    config = checkpoint.read_config(folder)
    assert config["metadata"]["training_data"][0]["sha256"] == checkpoint.sha256(work / "train.extxyz")
    assert config["metadata"]["training"]["host_options"]["train"]["epoch"] == 1
    assert config["metadata"]["training"]["last_errors"]["validset_Force_RMSE"] > 0.0
    assert config["metadata"]["training"]["weights"] == "checkpoint_best.pth"
    assert config["epsilon_infinity"] == 1.5
    assert str(work) not in json.dumps(config)  # no path of this machine

    atoms, calculator = waters(2), les_plugins.load(folder)
    charges = np.trace(calculator.get_property("born_effective_charges", atoms), axis1=1, axis2=2) / 3
    assert charges[atoms.numbers == 8].mean() < charges[atoms.numbers == 1].mean()  # the sign convention
    reloaded = LesSevenNetCalculator(load_checkpoint("checkpoint_best.pth"))
    for frame in (atoms, waters(2, pbc=False)):
        assert np.array_equal(reloaded.get_property("forces", frame), calculator.get_property("forces", frame))

    # SevenNet alone must not read its file without the long-range part, by whatever way
    for use in (
        lambda: SevenNetCalculator("checkpoint_best.pth", device="cpu"),
        lambda: SevenNetCalculator("checkpoint_best.pth", device="cpu", enable_cueq=True),
        lambda: deploy("checkpoint_best.pth", "deployed.pt"),
    ):
        with pytest.raises(HostError, match="SevenNet alone would drop"):
            use()
    assert not Path("deployed.pt").exists()


@pytest.mark.training
def test_a_run_goes_on_from_its_checkpoint_and_never_without_its_long_range_part(work):
    train(write_config(epoch=1))
    first = load_checkpoint("checkpoint_1.pth").state_dict()
    resume = {"checkpoint": "checkpoint_1.pth"}
    with pytest.raises(ConfigError, match="which would be lost: add its long_range section"):
        train(write_config(None, **{"continue": resume}))
    with pytest.raises(ConfigError, match="was trained with another long_range section"):
        train(write_config({"dl": 2.0}, **{"continue": resume}))
    train(write_config(epoch=2, **{"continue": resume}))
    table = Path("lc0.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["epoch", "2"]
    second = load_checkpoint("checkpoint_2.pth").state_dict()
    assert any(not torch.equal(first[name], second[name]) for name in first if "long_range.heads" in name)


@pytest.mark.training
def test_a_long_range_part_is_added_to_a_checkpoint_without_one_and_trains_on(work):
    plain = train(write_config(None))
    assert not les_plugins.load(plain).has_long_range
    before = les_plugins.load(plain).get_property("forces", waters(2))
    start = {**LONG_RANGE, "zero_init": True}
    resume = {"checkpoint": "checkpoint_best.pth"}
    with pytest.raises(ConfigError, match="set reset_optimizer: true"):
        train(write_config(start, **{"continue": resume}))
    resume.update(reset_optimizer=True, reset_scheduler=True, reset_epoch=True)
    fresh = {"data_format_args": {"force_reload": True}}  # the graphs of the run before have no cell
    folder = train(write_config(start, data=fresh, **{"continue": resume}), "-w", "tuned")
    assert folder == Path("tuned/water.les")
    started = LesSevenNetCalculator(load_checkpoint("tuned/checkpoint_0.pth"))
    # zero_init: fine-tuning starts where the checkpoint was
    np.testing.assert_allclose(started.get_property("forces", waters(2)), before, rtol=0, atol=1e-6)
    tuned, _ = api.load_model(folder)
    assert long_range_part(tuned).coupling.item() != 0.0


def test_graphs_that_sevennet_built_before_are_made_anew_unless_the_file_says_otherwise(work):
    train(write_config(None))
    with pytest.raises(HostError, match="remove the folder sevenn_data"):
        train(write_config(data={"data_format_args": {"force_reload": False}}))
    assert les_plugins.load(train(write_config())).has_long_range


@pytest.mark.training
def test_without_a_validation_set_the_last_epoch_is_saved(work):
    folder = train(write_config(data={"load_validset_path": None}, epoch=1, per_epoch=100))
    assert checkpoint.read_config(folder)["metadata"]["training"]["weights"] == "last epoch"
    started = load_checkpoint("checkpoint_0.pth").state_dict()
    ended = api.load_model(folder)[0].state_dict()
    changed = [name for name in started if not torch.equal(started[name], ended[name])]
    assert any("long_range.heads" in name for name in changed)


@pytest.mark.training
@pytest.mark.parametrize(
    "data",
    [{"dataset_type": "atoms"}, {"preprocess_num_cores": 2}],
    ids=["batch by batch", "in other processes"],
)
def test_graphs_hold_the_cell_wherever_they_are_built(work, data):
    folder = train(write_config(data=data))
    assert les_plugins.load(folder).has_long_range


@pytest.mark.training
def test_training_changes_every_part_of_the_model_and_lowers_the_loss(work):
    train(write_config(epoch=12))
    early, late = (load_checkpoint(f"checkpoint_{epoch}.pth").state_dict() for epoch in (1, 12))
    heads = [name for name in late if name.startswith("long_range.") and "gauge" not in name]
    assert heads
    for name in heads:
        assert not torch.equal(early[name], late[name]), name
    loss = np.genfromtxt("lc.csv", delimiter=",", names=True)["validset_TotalLoss"]
    assert loss[-1] < 0.8 * loss[0]


@pytest.mark.training
def test_the_command_prints_pure_json_on_standard_output_and_takes_sevennets_options(work):
    config = str(write_config())
    command = [
        sys.executable,
        "-m",
        "les_plugins",
        "train",
        "sevennet",
        "--config",
        config,
        "-s",
        "-w",
        "run",
        "--json",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout)
    assert summary["checkpoint"] == "run/water.les"
    assert summary["training"]["last_errors"]["epoch"] == 1.0
    assert "Epoch 1/1" in done.stderr


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"long_range": {"sigmaa": 1.0}}, ConfigError, "water.yaml: long_range: unknown key 'sigmaa'"),
        ({"long_range": {"multipoles": ["dipole"]}}, ConfigError, "multipoles"),
        ({"model": {"long_range": {}}}, ConfigError, "long_range stands under model"),
        ({"model": {"chanel": 4}}, ConfigError, r"unknown model keys: \['chanel'\]"),
        ({"epochs": 4}, ConfigError, r"unknown train keys: \['epochs'\]"),
        ({"model": {"chemical_species": ["H"]}}, DataError, r"train.extxyz .*does not know O; it knows: H"),
        ({"model": {"lmax": "one"}}, ConfigError, "SevenNet cannot use it: ValueError: Expect 'one' for 'lmax'"),
        ({"model": {"use_flash_tp": True}}, HostError, "FlashTP has not been tested"),
        ({"data": {"load_trainset_path": None}}, ConfigError, "load_trainset_path is missing"),
        ({"data": {"load_trainset_path": "absent.extxyz"}}, ConfigError, "Cannot find absent.extxyz"),
        (
            {"data": {"data_format_args": {"energy_key": "E", "force_key": "F"}}},
            DataError,
            "none of 6 frames has energy under the name 'E'",
        ),
        ({"device": "cuda:97"}, DeviceError, "cuda"),
    ],
)
def test_wrong_input_raises(work, changes, error, message):
    with pytest.raises(error, match=message):
        train(write_config(**changes))
    assert not Path("checkpoint_0.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--no_such_option"], ConfigError, "unrecognized arguments: --no_such_option"),
        (["-m", "train_v1"], ConfigError, "--mode train_v1"),
        (["--enable_cueq"], HostError, "--enable_cueq has not been tested"),
    ],
)
def test_wrong_options_raise(work, arguments, error, message):
    with pytest.raises(error, match=message):
        train(write_config(), *arguments)


def test_what_sevennet_itself_refuses_ends_in_one_line(work):
    with pytest.raises(HostError, match=r"sevenn train stopped with TypeError: .*gamma"):
        train(write_config(scheduler_param={}))


def test_wrong_files_raise(work):
    with pytest.raises(ConfigError, match="cannot be read"):
        train(work / "absent.yaml")
    for text, message in (
        ("model: [", "not valid YAML"),
        ("- 1", "expected keys and values"),
        ("long_rang: {}", "unknown key 'long_rang' .did you mean 'long_range'"),
        ("model: {}", "train is missing or not a section"),
    ):
        Path("bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            train(Path("bad.yaml"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("wire", r"train.extxyz, frame 2: pbc is T F F.*Wires"),
        ("NaN label", r"train.extxyz, frame 2: forces holds NaN"),
        ("zero cell", r"train.extxyz, frame 2: pbc is T T T but the cell"),
    ],
)
def test_frames_that_cannot_be_used_are_named_with_file_and_frame(work, what, message):
    frames = ase.io.read(work / "train.extxyz", ":")
    if what == "wire":
        frames[2].pbc = (True, False, False)
    elif what == "zero cell":
        frames[2].set_cell([[6.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 0.0, 6.0]])
    else:
        frames[2].calc.results["forces"][0, 0] = np.nan
    ase.io.write(work / "train.extxyz", frames)
    with pytest.raises(DataError, match=message):
        train(write_config())
