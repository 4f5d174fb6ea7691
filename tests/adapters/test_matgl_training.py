"""MatGL's own trainer and command with a long-range part, and `les-plugins train matgl`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import ase.io
import lightning
import matgl
import numpy as np
import torch
import yaml
from ase.calculators.singlepoint import SinglePointCalculator
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph, PESCalculator
from matgl.graph.data import MGLDataLoader, MGLDataset
from matgl.utils.training import PotentialLightningModule
from matgl_models import ARCHITECTURES, FULL, long_range_part, tiny_model, waters

import les_plugins
from les_plugins.adapters.matgl.contract import training_settings
from les_plugins.adapters.matgl.train import MatGLTraining, train
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.io.documents import read_yaml
from les_plugins.testing import labelled_waters

LONG_RANGE = {"response": {"charge": True, "dipole": "isotropic"}, "dl": 2.0}
#: Lightning's own, about its own insides and about the machine.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]


def write_frames(path: Path, n: int, seed: int, mixed: bool = True) -> None:
    """Waters with made-up labels that a model can follow; every third frame is open if `mixed`."""
    generator = np.random.default_rng(seed)
    frames = []
    for number in range(n):
        atoms = waters(2, seed=10 * seed + number, pbc=not mixed or number % 3 != 2)
        forces = 0.1 * generator.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(
            atoms, energy=-8.0 + 0.1 * generator.normal(), forces=forces - forces.mean(0)
        )
        frames.append(atoms)
    ase.io.write(path, frames)


def write_config(architecture: str = "TensorNet", long_range: Any = LONG_RANGE, **sections: Any) -> Path:
    settings = training_settings(architecture, long_range)
    settings["trainer"]["max_epochs"] = 2
    for name, changes in sections.items():
        settings[name] = {**settings[name], **changes}
    Path("water.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Path("water.yaml")


def read_settings(path: Path, arguments=()):
    run = MatGLTraining(path, arguments)
    run.settings = read_yaml(path)
    run.split()
    return {**run.settings, "long_range": run.long_range}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path / "train.extxyz", 9, seed=1)
    write_frames(tmp_path / "valid.extxyz", 4, seed=2)
    return tmp_path


@pytest.mark.training
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mgl_train_alone_trains_a_saved_model_with_a_long_range_part(work, architecture):
    """Nothing of ours in the call: `attach`, `save`, and MatGL's own command."""
    ase.io.write(work / "data.extxyz", labelled_waters(8))
    start = Potential(les_plugins.attach(tiny_model(architecture), {**LONG_RANGE, "zero_init": True}))
    start.save(work / "start")
    script = "import sys, matgl.cli; sys.exit(matgl.cli.main(sys.argv[1:]))"
    call = [sys.executable, "-c", script, "train", "-i", "data.extxyz", "-m", "start", "-o", "out"]
    options = ["--epochs", "1", "--batch-size", "2", "--accelerator", "cpu", "--train-ratio", "0.5"]
    ratios = ["--valid-ratio", "0.25", "--test-ratio", "0.25"]
    done = subprocess.run([*call, *options, *ratios], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = matgl.load_model(work / "out").eval()
    coupling = long_range_part(trained).coupling
    assert coupling is not None
    assert coupling.abs().item() > 0.0  # it starts at exactly zero: only an optimizer moves it
    theirs = PESCalculator(trained, stress_unit="eV/A3", use_voigt=True)
    ours = les_plugins.load(les_plugins.save(trained, work / "trained.les", "matgl"))
    for atoms in (waters(2), waters(2, pbc=False)):
        assert ours.get_potential_energy(atoms) == pytest.approx(theirs.get_potential_energy(atoms), abs=1e-5)
        np.testing.assert_allclose(ours.get_forces(atoms), theirs.get_forces(atoms), atol=1e-5)  # float32
        assert ours.get_property("born_effective_charges", atoms).shape == (6, 3, 3)


@pytest.mark.training
def test_matgls_lightning_module_and_data_loader_train_it_from_python(work):
    frames = labelled_waters(6)
    labels = {
        "energies": [atoms.get_potential_energy() for atoms in frames],
        "forces": [atoms.get_forces().tolist() for atoms in frames],
    }
    converter = Atoms2Graph(("H", "O"), 3.5)
    dataset = MGLDataset(structures=frames, converter=converter, labels=labels, save_cache=False, root=str(work / "d"))
    train_loader, valid_loader = MGLDataLoader(dataset, dataset, batch_size=3, num_workers=0)
    model = les_plugins.attach(tiny_model(), LONG_RANGE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = PotentialLightningModule(model=model, lr=0.01, data_std=2.5)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        inference_mode=False,
    )  # fmt: skip
    trainer.fit(module, train_loader, valid_loader)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert any(name.startswith("long_range.heads") for name in changed)
    assert any(name.startswith("base.") for name in changed)
    module.model.save(work / "saved")
    assert matgl.load_model(work / "saved").data_std.item() == 2.5


@pytest.mark.training
def test_training_on_open_and_periodic_frames_writes_a_checkpoint_and_what_matgl_reads(work):
    folder = train(write_config(), ["trainer.max_epochs=1"], {"licence": "made up"})
    assert folder == Path("run.les")
    calculator = les_plugins.load(folder)
    facts = calculator.metadata["metadata"]
    assert facts["licence"] == "made up"
    assert facts["training"]["last_validation"]["val_Force_MAE"] > 0.0
    assert facts["training_data"][0]["file"] == "train.extxyz"
    charges = np.trace(calculator.get_property("born_effective_charges", waters(2, seed=10)), axis1=1, axis2=2) / 3
    numbers = waters(2, seed=10).numbers
    assert charges[numbers == 8].mean() < charges.mean()
    theirs = PESCalculator(matgl.load_model("run").eval())
    assert theirs.get_potential_energy(waters(2)) == pytest.approx(calculator.get_potential_energy(waters(2)), abs=1e-5)


def blocks_of_the_page(language: str) -> list[str]:
    """Indented blocks of docs/reference/hosts/matgl.md, by how they begin."""
    text = (Path(__file__).parents[2] / "docs/reference/hosts/matgl.md").read_text(encoding="utf-8")
    found = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)]
    return [block.strip() for block in found if block.strip().startswith(language)]


@pytest.mark.training
def test_the_python_example_of_the_page_runs(work):
    ase.io.write(work / "water.xyz", labelled_waters(40), format="extxyz")
    (block,) = blocks_of_the_page("import les_plugins")
    small = "max_epochs=1, accelerator='cpu', loader_kwargs={'num_workers': 0}, trainer_kwargs={'logger': False}"
    exec(block.replace("max_epochs=100", small).replace("units=32", "units=6").replace("5.0", "3.5"), {})
    assert isinstance(long_range_part(matgl.load_model("water")), torch.nn.Module)


def test_the_yaml_example_of_the_page_can_be_used(work):
    (block,) = blocks_of_the_page("dataset:")
    Path("water.yaml").write_text(block)
    settings = read_settings(Path("water.yaml"))
    assert settings["long_range"].epsilon_infinity == 1.78


@pytest.mark.training
def test_the_best_epoch_is_kept_and_a_run_can_be_resumed(work):
    # a step so large that the first epoch is better than those after it, or an early one at least
    folder = train(write_config(trainer={"lr": 0.3, "decay_steps": 1, "max_epochs": 4}))
    best = les_plugins.load(folder).metadata["metadata"]["training"]["last_validation"]
    kept = torch.load("run/best.ckpt", weights_only=True)
    assert kept["epoch"] == best["epoch"]
    assert float(kept["callbacks"][next(iter(kept["callbacks"]))]["best_model_score"]) == pytest.approx(
        best["val_Total_Loss"]
    )
    train(write_config(trainer={"max_epochs": 5, "ckpt_path": "run/last.ckpt"}))
    assert torch.load("run/last.ckpt", weights_only=True)["global_step"] == 25  # five epochs of five batches


@pytest.mark.training
def test_the_command_line_trains_predicts_and_evaluates(work):
    write_config("M3GNet")
    command = [sys.executable, "-m", "les_plugins"]
    done = subprocess.run(
        [*command, "train", "matgl", "--config", "water.yaml", "trainer.max_epochs=1", "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["training_data"][0]["file"] == "train.extxyz"
    assert summary["long_range"]["dl"] == 2.0
    for arguments in (("predict", "run.les", "valid.extxyz", "-o", "out.extxyz"), ("evaluate", "run.les")):
        more = () if arguments[0] == "predict" else ("valid.extxyz", "--json")
        done = subprocess.run([*command, *arguments, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(ase.io.read("out.extxyz", ":")) == 4


@pytest.mark.training
@pytest.mark.filterwarnings("ignore:.*the sign of the charges is not certain:les_plugins.errors.LesPluginsWarning")
def test_a_model_of_matgl_is_loaded_and_gets_a_long_range_part_that_starts_at_its_predictions(work):
    plain = train(write_config(long_range=None, trainer={"max_epochs": 1, "data_std": "forces"}))
    assert not les_plugins.load(plain).has_long_range
    before = les_plugins.load(plain)
    tuned = write_config(long_range={**LONG_RANGE, "zero_init": True}, trainer={"save_path": "tuned", "lr": 1e-12})
    settings = yaml.safe_load(tuned.read_text())
    settings["model"] = {"load": "run"}
    tuned.write_text(yaml.safe_dump(settings))
    after = les_plugins.load(train(tuned, ["trainer.max_epochs=1"]))
    assert after.has_long_range
    assert after.metadata["metadata"]["data_licence"] == "not stated"  # as of the checkpoint beside the folder, run.les
    assert after.potential.data_std.item() == before.potential.data_std.item() != 1.0
    for atoms in (waters(2), waters(2, pbc=False)):
        assert after.get_potential_energy(atoms) == pytest.approx(before.get_potential_energy(atoms), abs=1e-5)
    settings["model"], settings["trainer"]["save_path"] = {"load": "tuned"}, "again"
    settings["long_range"] = FULL
    tuned.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="has a long-range part of another long_range section"):
        train(tuned)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"long_range": {"sigmaa": 1.0}}, r"water.yaml: long_range: unknown key 'sigmaa'"),
        ({"dataset": {"trian": "a.xyz"}}, r"dataset: unknown key 'trian' \(did you mean 'train'\?\); allowed"),
        ({"dataset": {"valid": None}}, r"dataset.valid is missing"),
        ({"model": {"unitss": 8}}, r"model: unknown key 'unitss' \(did you mean 'units'\?\)"),
        ({"model": {"is_intensive": True}}, r"model: unknown key 'is_intensive'"),
        ({"model": {"architecture": "MEGNet"}}, r"model.architecture is 'MEGNet'; allowed: TensorNet, M3GNet"),
        ({"model": {"load": "a"}}, r"model: unknown key 'architecture'.*allowed: load"),
        ({"trainer": {"max_epoch": 3}}, r"trainer: unknown key 'max_epoch' \(did you mean 'max_epochs'\?\)"),
        ({"trainer": {"trainer_kwargs": {"loger": 1}}}, r"trainer_kwargs: unknown key 'loger'"),
        ({"trainer": {"trainer_kwargs": {"callbacks": []}}}, r"trainer_kwargs: unknown key 'callbacks'"),
        ({"trainer": {"long_range": {}}}, r"long_range stands under trainer, where it is not read"),
        ({"dataset": {"long-range": {}}}, r"unknown key 'long-range' \(did you mean 'long_range'\?\) under dataset"),
        ({"trainer": {"save_path": "."}}, r"save_path is '.'; allowed: the name of a folder"),
        ({"trainer": {"trainer_kwargs": 3}}, r"trainer_kwargs is 3; expected a section"),
    ],
)
def test_wrong_sections_are_refused_before_anything_runs(work, sections, message):
    path = write_config(**{name: change for name, change in sections.items() if name != "long_range"})
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, **{k: v for k, v in sections.items() if k == "long_range"}}))
    with pytest.raises(ConfigError, match=message):
        read_settings(path)


def test_wrong_files_and_arguments_raise_an_error(work):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(work / "absent.yaml")
    (work / "a.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected keys and values, got list"):
        read_settings(work / "a.yaml")
    (work / "a.yaml").write_text("trainer: [}\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_settings(work / "a.yaml")
    (work / "a.yaml").write_text("trainr: {}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'trainr' \(did you mean 'trainer'\?\)"):
        read_settings(work / "a.yaml")
    with pytest.raises(ConfigError, match=r"argument '--lr=1'; allowed: section.key=value"):
        read_settings(write_config(), ["--lr=1"])
    with pytest.raises(ConfigError, match="is no section"):
        read_settings(write_config(), ["trainer.max_epochs.deep=1"])
    assert read_settings(write_config(), ["trainer.lr=0.5"])["trainer"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"dataset": {"train": "absent.xyz"}}, DataError, "no such file"),
        ({"dataset": {"energy_key": "E"}}, DataError, "none of 9 frames has energy under the name 'E'"),
        ({"model": {"element_types": ["H", "C"]}}, DataError, "train.extxyz, frame 0: the model does not know O"),
        ({"model": {"rbf_type": "no such"}}, ConfigError, "MatGL's TensorNet refuses these arguments"),
        ({"trainer": {"stress_weight": 1.0}}, ConfigError, "not every frame is periodic and has a stress"),
        ({"trainer": {"element_refs": {"H": 1.0}}}, ConfigError, "one energy in eV for each of H, O"),
        ({"trainer": {"trainer_kwargs": {"max_epochs": 3}}}, HostError, "MatGL's trainer stopped with TypeError"),
        ({"trainer": {"data_std": "rms"}}, ConfigError, r"trainer\.data_std is 'rms'; allowed: a number"),
        ({"trainer": {"loss": "huber"}}, ConfigError, r"trainer\.loss is 'huber'; allowed: huber_loss, mse_loss"),
        (
            {"trainer": {"batch_size": 0}},
            ConfigError,
            r"trainer\.batch_size is 0; allowed: a number without a fraction",
        ),
        ({"trainer": {"lr": 1e30}}, HostError, "try a lower lr"),
    ],
)
def test_wrong_values_raise_an_error(work, sections, error, message):
    with pytest.raises(error, match=message):
        train(write_config(**sections))


def test_a_slab_in_the_training_data_is_refused_for_matgl_would_take_it_for_a_molecule(work):
    frames = ase.io.read("train.extxyz", ":")
    frames[1].pbc = (True, True, False)
    ase.io.write("train.extxyz", frames)
    with pytest.raises(DataError, match=r"train\.extxyz, frame 1: pbc is T T F"):
        train(write_config(long_range=None))
