"""NequIP's own commands with a long-range part: training from YAML alone, checkpoints, calculator, package."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import ase.io
import numpy as np
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from nequip.integrations.ase import NequIPCalculator
from nequip_models import HOST_SECTIONS, part, training_settings, waters

import les_plugins
from les_plugins import api
from les_plugins.adapters.nequip import LongRangeModel, PretrainedModel
from les_plugins.adapters.nequip import train as training
from les_plugins.adapters.nequip.calculator import LesNequIPCalculator
from les_plugins.adapters.nequip.train import load_checkpoint, train
from les_plugins.errors import CheckpointError, ConfigError, HostError
from les_plugins.model.outputs import long_range_part
from les_plugins.storage import checkpoint, zoo

LONG_RANGE = {"response": {"charge": True, "dipole": "isotropic"}, "dl": 2.0}


def write_frames(path: Path, n: int, seed: int, every_open: int = 3) -> None:
    """Waters with made-up labels that a model can follow; every third frame is open, or none."""
    generator = np.random.default_rng(seed)
    frames = []
    for number in range(n):
        atoms = waters(2, seed=10 * seed + number, pbc=not every_open or number % every_open != every_open - 1)
        forces = 0.1 * generator.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(
            atoms, energy=-8.0 + 0.1 * generator.normal(), forces=forces - forces.mean(0)
        )
        frames.append(atoms)
    ase.io.write(path, frames)


def write_config(
    architecture: str = "nequip", long_range: Any = LONG_RANGE, name: str = "water.yaml", **model: Any
) -> Path:
    section = {**HOST_SECTIONS[architecture], "model_dtype": "float32", **model}
    if long_range is not None:
        section = {
            "_target_": "les_plugins.adapters.nequip.LongRangeModel",
            "model": section,
            "long_range": long_range,
        }
    settings = training_settings(Path("."), section)
    settings["trainer"]["max_epochs"] = 2
    settings["data"]["train_dataloader"] = {**settings["data"]["train_dataloader"], "batch_size": 3}
    Path(name).write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Path(name).resolve()


def nequip(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of NequIP's own console scripts, nothing of ours in the call."""
    call = [sys.executable, "-m", f"nequip.scripts.{command}", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "train.extxyz", 9, seed=1)
    write_frames(tmp_path / "valid.extxyz", 4, seed=2)
    return tmp_path


@pytest.mark.training
@pytest.mark.parametrize("architecture", ["nequip", "allegro"])
def test_nequip_train_alone_trains_from_yaml_and_its_checkpoint_serves_nequips_and_our_calculator(work, architecture):
    config = write_config(architecture)
    done = nequip("train", "-cp", str(config.parent), "-cn", config.stem, f"hydra.run.dir={work}/run")
    assert done.returncode == 0, done.stderr[-3000:]
    written = work / "run" / "best.ckpt"
    model = load_checkpoint(written)
    start = LongRangeModel({**HOST_SECTIONS[architecture], "model_dtype": "float32"}, LONG_RANGE)
    changed = [
        name for name, value in model.state_dict().items() if not np.array_equal(value, start.state_dict()[name])
    ]
    assert any("long_range.heads" in name for name in changed)

    theirs = NequIPCalculator._from_saved_model(str(written), chemical_species_to_atom_type_map=True)
    saved = les_plugins.save(model, work / "saved.les", "nequip")
    ours = les_plugins.load(saved)
    for atoms in (waters(2), waters(2, pbc=False)):
        assert ours.get_potential_energy(atoms) == pytest.approx(theirs.get_potential_energy(atoms), abs=1e-6)
        np.testing.assert_allclose(ours.get_forces(atoms), theirs.get_forces(atoms), atol=1e-6)  # float32 model
        assert ours.get_property("born_effective_charges", atoms).shape == (6, 3, 3)
        assert ours.get_property("polarizability", atoms).shape == (3, 3)

    package = work / "model.nequip.zip"
    done = nequip("package", "build", str(written), str(package))
    assert done.returncode == 0, done.stderr[-3000:]
    packaged = NequIPCalculator._from_saved_model(str(package), chemical_species_to_atom_type_map=True)
    np.testing.assert_allclose(packaged.get_forces(waters(2)), theirs.get_forces(waters(2)), atol=1e-6)

    done = nequip(
        "compile", str(written), str(work / "m.nequip.pt2"), "--mode", "aotinductor", "--device", "cpu",
        "--target", "ase",
    )  # fmt: skip
    assert done.returncode != 0
    assert "set static_cell" in done.stderr


@pytest.mark.training
def test_les_plugins_train_writes_a_checkpoint_with_the_sign_convention(work):
    folder = train(write_config(), ["trainer.max_epochs=1"], {"licence": "made up"})
    assert folder is not None
    assert folder.name == "water.les"
    calculator = les_plugins.load(folder)
    assert calculator.metadata["metadata"]["licence"] == "made up"
    atoms = ase.io.read(work / "train.extxyz", 0)
    charges = np.trace(calculator.get_property("born_effective_charges", waters(2, seed=10)), axis1=1, axis2=2) / 3
    assert len(atoms) == len(charges)
    assert charges[atoms.numbers == 8].mean() < charges.mean()


@pytest.mark.training
def test_the_command_line_trains_predicts_and_evaluates(work):
    write_config("allegro")
    command = [sys.executable, "-m", "les_plugins"]
    overrides = ["trainer.max_epochs=1", "hydra.run.dir=run"]
    done = subprocess.run(
        [*command, "train", "nequip", "--config", "water.yaml", *overrides, "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["training_data"][0]["file"] == "train.extxyz"
    assert summary["long_range"]["dl"] == 2.0
    for arguments in (("predict", "run/water.les", "valid.extxyz", "-o", "out.extxyz"), ("evaluate", "run/water.les")):
        more = () if arguments[0] == "predict" else ("valid.extxyz", "--json")
        done = subprocess.run([*command, *arguments, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(ase.io.read("out.extxyz", ":")) == 4


@pytest.mark.training
def test_without_our_section_the_hosts_own_model_is_trained_and_saved(work):
    folder = train(write_config(long_range=None), ["trainer.max_epochs=1", f"hydra.run.dir={work}/plain"])
    assert folder == work / "plain" / "water.les"
    assert not les_plugins.load(folder).has_long_range


@pytest.mark.training
def test_a_checkpoint_of_ours_trains_on_with_the_zero_of_other_data(work):
    first = train(write_config(), ["trainer.max_epochs=1", f"hydra.run.dir={work}/first"])
    config = write_config()
    settings = yaml.safe_load(config.read_text())
    shifts = {name: 5.0 for name in checkpoint.read_config(first)["model"]["type_names"]}
    settings["training_module"]["model"] = {
        "_target_": "nequip.model.modify",
        "modifiers": [{"modifier": "modify_PerTypeScaleShift", "shifts": shifts}],
        "model": {"_target_": "les_plugins.adapters.nequip.PretrainedModel", "checkpoint": str(first)},
    }
    settings["training_module"]["optimizer"]["lr"] = 1e-12
    config.write_text(yaml.safe_dump(settings))
    second = train(config, ["trainer.max_epochs=1", f"hydra.run.dir={work}/second"])
    before, after, atoms = les_plugins.load(first), les_plugins.load(second), waters(2)
    # lr 1e-12 moves no weight by more than the rounding of float32
    assert np.allclose(after.get_forces(atoms), before.get_forces(atoms), rtol=0, atol=1e-4)
    tensors = api.load_model(first)[0].state_dict()
    old = next(value for name, value in tensors.items() if name.endswith("per_type_energy_scale_shift.shifts"))
    zero = dict(zip(shifts, old.flatten().tolist(), strict=True))
    expected = sum(5.0 - zero[symbol] for symbol in atoms.symbols)
    shift = after.get_potential_energy(atoms) - before.get_potential_energy(atoms)
    assert shift == pytest.approx(expected, abs=1e-4)
    assert after.metadata["metadata"]["data_licence"] == "not stated"  # as of the first


def test_a_training_begins_with_what_its_model_section_opens_and_its_licence(work):
    (work / "first").mkdir()
    facts = {"data_licence": "MIT", "training": {"host_checkpoint": "best.ckpt"}}
    api.save(LongRangeModel(HOST_SECTIONS["nequip"]), work / "first" / "water.les", "nequip", facts)
    config = write_config()
    settings = yaml.safe_load(config.read_text())

    def begins_with(model: dict[str, Any]) -> dict[str, str | None]:
        settings["training_module"]["model"] = model
        config.write_text(yaml.safe_dump({**settings, "place": f"{work}/first"}))
        run = training.NequIPTraining(config)
        run.settings = yaml.safe_load(config.read_text())
        run.split()
        return run.begins_with()

    of_nequip = {"_target_": "nequip.model.ModelFromCheckpoint", "checkpoint_path": "${place}/best.ckpt"}
    ours = {"_target_": "les_plugins.adapters.nequip.PretrainedModel", "checkpoint": "${place}/water.les"}
    inside = {"_target_": "les_plugins.adapters.nequip.LongRangeModel", "long_range": {}, "model": of_nequip}
    assert begins_with(inside) == {"best.ckpt": "MIT"}
    assert begins_with({**of_nequip, "checkpoint_path": "${place}/last.ckpt"}) == {"last.ckpt": None}
    assert begins_with(ours) == {"water.les": "MIT"}
    modified = {"_target_": "nequip.model.modify", "modifiers": [], "model": ours}
    assert begins_with(modified) == {"water.les": "MIT"}
    assert begins_with(yaml.safe_load(write_config().read_text())["training_module"]["model"]) == {}


def test_a_pretrained_model_has_its_weights_under_another_width():
    section = checkpoint.read_config(zoo.find_folder("water-nequip"))["long_range"]
    before = PretrainedModel("water-nequip")
    after = PretrainedModel("water-nequip", {**section, "sigma": 0.7, "dl": 0.84})
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    assert long_range_part(after).config.sigma == 0.7
    assert after.training


def test_a_pretrained_model_with_fixed_charges_of_elements_has_those_of_the_new_section():
    section = checkpoint.read_config(zoo.find_folder("mapbi3-nequip"))["long_range"]
    charges = {"Pb": 0.8, "I": -0.4, "N": -0.2, "H": 0.1}
    before = PretrainedModel("mapbi3-nequip")
    after = PretrainedModel("mapbi3-nequip", {**section, "initial_charges": charges, "element_charges": "fixed"})
    heads = long_range_part(after).heads
    assert dict(zip(["H", "C", "N", "I", "Pb"], heads.element_charge.tolist(), strict=True)) == pytest.approx(
        {**charges, "C": 0.0}, abs=1e-6
    )  # float32
    assert not heads.element_charge.requires_grad
    others = {name: value for name, value in before.state_dict().items() if not name.endswith("element_charge")}
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in others.items())


@pytest.mark.parametrize("name", ["water-nequip-q", "water-nequip-sr"])
def test_a_pretrained_model_keeps_its_weights_when_terms_are_added(name):
    before, after = PretrainedModel(name), PretrainedModel(name, LONG_RANGE)
    new = after.state_dict()
    assert all(torch.equal(value, new[key]) for key, value in before.state_dict().items())
    assert any("heads.quadrupole" in key for key in new.keys() - before.state_dict().keys())
    again = PretrainedModel(name, LONG_RANGE).state_dict()  # new heads are drawn with the model's seed
    assert all(torch.equal(value, again[key]) for key, value in new.items())
    result = LesNequIPCalculator(after.eval()).get_property("latent_quadrupoles", waters(2))
    assert np.abs(result).max() > 0.0


def test_a_polarizability_that_is_to_be_anisotropic_starts_fresh_and_the_rest_is_kept():
    section = checkpoint.read_config(zoo.find_folder("water-nequip"))["long_range"]
    assert section["response"]["dipole"] == "isotropic"
    response = {**section["response"], "dipole": "anisotropic"}
    before = PretrainedModel("water-nequip").state_dict()
    after = PretrainedModel("water-nequip", {**section, "response": response}).state_dict()
    assert {key.split("heads.")[1].split(".")[0] for key in after.keys() - before.keys()} == {"anisotropy"}
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert {key.split("heads.")[1].split(".")[0] for key in changed} == {"polarizability"}


def test_a_pretrained_model_keeps_its_other_weights_when_a_term_is_left_out():
    section = checkpoint.read_config(zoo.find_folder("water-nequip"))["long_range"]
    before = PretrainedModel("water-nequip").state_dict()
    after = PretrainedModel("water-nequip", {**section, "multipoles": ["charge", "dipole"]}).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all("heads.quadrupole" in name for name in before.keys() - after.keys())
    assert len(after) < len(before)


def test_a_pretrained_model_raises_an_error(work):
    for arguments, words in (
        ({}, "checkpoint is missing"),
        ({"checkpoint": "nothing.les"}, "does not exist"),
        ({"checkpoint": "water-nequip", "weights": 1}, "unknown key 'weights'"),
        ({"checkpoint": "water-nequip", "long_range": {"hidden": 5}}, "whatever else has weights"),
        ({"checkpoint": "water-nequip", "long_range": {"sigmas": 0.7}}, "unknown key 'sigmas'"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=words):
            PretrainedModel(**arguments)


@pytest.mark.training
def test_a_long_range_part_is_attached_to_a_checkpoint_and_to_a_package_of_nequip_and_trains_on(work):
    plain = train(write_config(long_range=None), ["trainer.max_epochs=1", f"hydra.run.dir={work}/plain"])
    before = les_plugins.load(plain).get_potential_energy(waters(2))
    written, package = work / "plain" / "best.ckpt", work / "plain.nequip.zip"
    assert nequip("package", "build", str(written), str(package)).returncode == 0
    start = {**LONG_RANGE, "zero_init": True}
    for section in (
        {"_target_": "nequip.model.ModelFromCheckpoint", "checkpoint_path": str(written)},
        {"_target_": "nequip.model.ModelFromPackage", "package_path": str(package)},
    ):
        model = LongRangeModel(section, start).eval()
        assert LesNequIPCalculator(model).get_potential_energy(waters(2)) == pytest.approx(before, abs=1e-6)
        config = write_config(long_range=None)
        settings = yaml.safe_load(config.read_text())
        settings["training_module"]["model"] = {
            "_target_": "les_plugins.adapters.nequip.LongRangeModel",
            "model": section,
            "long_range": start,
        }
        config.write_text(yaml.safe_dump(settings))
        run = work / section["_target_"]
        done = nequip("train", "-cp", str(work), "-cn", "water", f"hydra.run.dir={run}", "trainer.max_epochs=1")
        assert done.returncode == 0, done.stderr[-3000:]
        tuned = load_checkpoint(run / "last.ckpt")
        assert part(tuned).coupling.item() != 0.0
        if section["_target_"].endswith("Checkpoint"):
            assert les_plugins.load(les_plugins.save(tuned, work / "tuned.les", "nequip")).has_long_range
        else:
            with pytest.raises(HostError, match="ModelFromPackage"):
                les_plugins.save(tuned, work / "packaged.les", "nequip")


@pytest.mark.training
def test_a_failing_run_is_reported_in_one_line_without_a_traceback(work):
    write_config()
    command = [sys.executable, "-m", "les_plugins", "train", "nequip", "--config", "water.yaml"]
    done = subprocess.run(
        [*command, "trainer.max_epochs=nonsense", "hydra.run.dir=run"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: water.yaml: nequip-train ended with status 1: ")
    assert last.endswith("no checkpoint was written")
    assert "assert isinstance(self.max_epochs, int)" in last  # Lightning's own, which has no words
    assert (work / "run" / "nequip-train.traceback").read_text().startswith("Traceback")


@pytest.mark.training
def test_an_interrupted_run_says_what_is_kept(work):
    config = write_config()
    call = [sys.executable, "-m", "les_plugins", "train", "nequip", "--config", config.name]
    process = subprocess.Popen(
        [*call, "trainer.max_epochs=100000", "hydra.run.dir=run"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120.0
    while not list(work.glob("run/*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does for Ctrl-C
    _, errors = process.communicate(timeout=60.0)
    assert process.returncode == 130
    assert "Traceback" not in errors
    line = r"water\.yaml: stopped by Ctrl-C; NequIP kept .*\.ckpt; \+\+ckpt_path="
    assert re.search(line, errors.splitlines()[-1])


@pytest.mark.training
def test_folders_of_odd_names_are_no_obstacle(work, monkeypatch):
    odd = "a=b, [c] {d} (e) 'f' $h %i Größe 水 n.."
    (work / odd).mkdir()
    for name in ("train.extxyz", "valid.extxyz"):
        (work / name).rename(work / odd / name)
    monkeypatch.chdir(work / odd)
    config = write_config(name=f"{odd}.yaml")
    folder = train(config, ["trainer.max_epochs=1"])
    assert folder is not None
    assert folder.parents[2] == work / odd / "outputs"
    assert les_plugins.load(folder).has_long_range


@pytest.mark.training
def test_other_processes_of_a_distributed_training_write_no_checkpoint(work, monkeypatch):
    monkeypatch.setattr(training.rank_zero_only, "rank", 1)
    monkeypatch.setattr(training, "_run", lambda *given: None)
    assert train(write_config(), ["hydra.run.dir=run"]) is None
    assert not list(work.rglob("*.les"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"long_range": {"sigmaa": 1.0}}, r"water.yaml: training_module.model.long_range: unknown key 'sigmaa'"),
        ({"long_range": {"multipoles": ["dipole"]}}, "multipoles"),
    ],
)
def test_wrong_sections_are_refused_before_anything_runs(work, change, message):
    with pytest.raises(ConfigError, match=message):
        train(write_config(**change), [])


def test_wrong_files_raise_an_error(work):
    with pytest.raises(ConfigError, match="cannot be read"):
        train(work / "absent.yaml", [])
    (work / "a.yaml").write_text("data: {}\n")
    with pytest.raises(ConfigError, match=r"training_module.model is missing"):
        train(work / "a.yaml", [])
    settings = yaml.safe_load(write_config(long_range=None).read_text())
    (work / "a.yaml").write_text(yaml.safe_dump({**settings, "long_range": LONG_RANGE}))
    with pytest.raises(ConfigError, match="long_range stands at the top, where NequIP does not read it"):
        train(work / "a.yaml", [])
