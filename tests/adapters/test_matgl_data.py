"""What `les-plugins train matgl` finds wrong in the data before MatGL starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.constraints import FixAtoms

import les_plugins
from les_plugins.adapters.matgl import train as training
from les_plugins.adapters.matgl.contract import training_settings
from les_plugins.errors import CheckpointError, ConfigError, DataError, HostError, LesPluginsWarning
from les_plugins.io.documents import read_yaml
from les_plugins.testing import labelled_waters

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
]


class MatGLStartsError(BaseException):
    """MatGL itself would begin now; carries its data and the weights of the losses."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def fit(model: Any, data: Any, trainer: Any, *rest: Any) -> None:
        raise MatGLStartsError(data, trainer)

    monkeypatch.setattr(training, "_fit", fit)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(some: list[Atoms], valid: list[Atoms] | None = None, **sections: Any) -> Path:
    ase.io.write("train.extxyz", some)
    ase.io.write("valid.extxyz", valid or labelled_waters(2, seed=100))
    settings = training_settings("TensorNet", {"multipoles": ["charge"]})
    for name, changes in sections.items():
        settings[name].update(changes)
    Path("water.yaml").write_text(yaml.safe_dump(settings))
    return Path("water.yaml")


def started(config: Path, *arguments: str) -> tuple[Any, Any]:
    with pytest.raises(MatGLStartsError) as start:
        training.train(config, arguments)
    return start.value.args


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no energy", r"train\.extxyz: 2 of 6 frames \(frames 1, 4\) without energy under the name 'energy'"),
        ("no forces", r"train\.extxyz: 1 of 6 frames \(frame 2\) without forces under the name 'forces'"),
        ("NaN", r"train\.extxyz, frame 3: forces holds NaN or infinity"),
        ("other names", r"none of 6 frames has energy .*did you mean 'REF_energy'.*dataset\.energy_key"),
        ("slab", r"train\.extxyz, frame 2: pbc is T T F"),
        ("validation", r"valid\.extxyz: 1 of 2 frames \(frame 1\) without energy"),
        ("stress", r"train\.extxyz, frame 5: stress holds NaN or infinity"),
    ],
)
def test_what_matgl_would_misread_or_stumble_over_is_an_error_that_names_it(work, what, message):
    some, valid = labelled_waters(6), labelled_waters(2, seed=100)
    if what == "no energy":
        for number in (1, 4):
            del some[number].calc.results["energy"]
    elif what == "no forces":
        del some[2].calc.results["forces"]
    elif what == "NaN":
        some[3].calc.results["forces"][1, 1] = np.nan
    elif what == "other names":
        for atoms in some:
            atoms.info["REF_energy"], atoms.calc = atoms.calc.results["energy"], None
    elif what == "slab":
        some[2].pbc = (True, True, False)
        del some[2].calc.results["stress"]
    elif what == "validation":
        del valid[1].calc.results["energy"]
    else:
        some[5].calc.results["stress"][0] = np.inf
    with pytest.raises(DataError, match=message):
        training.train(write(some, valid))


def test_forces_of_fixed_atoms_reach_matgl_as_they_stand_in_the_file(work):
    some = labelled_waters(6)
    for atoms in some:
        atoms.set_constraint(FixAtoms([0, 1, 2]))
    data, _ = started(write(some))
    forces = np.asarray(data["train"].labels["forces"][0])
    np.testing.assert_allclose(forces, some[0].calc.results["forces"], atol=1e-7)  # eight decimals in the file


def test_a_stress_of_some_frames_is_not_trained_on_and_said_so(work):
    _, trainer = started(write(labelled_waters(6)))
    assert trainer["stress_weight"] == 0.1
    some = labelled_waters(6)
    del some[4].calc.results["stress"]
    words = r"not trained on, for not every frame .*train\.extxyz: 1 of 6 frames, the first is 4"
    with pytest.warns(LesPluginsWarning, match=words):
        _, trainer = started(write(some))
    assert trainer["stress_weight"] == 0.0
    with pytest.raises(ConfigError, match=r"trainer\.stress_weight asks for it, but not every frame"):
        training.train(write(some, trainer={"stress_weight": 0.2}))
    _, trainer = started(write(some, trainer={"stress_weight": 0}))
    with pytest.raises(ConfigError, match=r"dataset\.stress_key names a stress, but .*'REF_stress'"):
        training.train(write(some, dataset={"stress_key": "REF_stress"}))


def test_paths_on_the_command_line_stand_as_they_are(work):
    odd = "a=b, [c] {d} (e) 'f' $h %i #j *k Größe 水 n.."
    Path(odd).mkdir()
    config = write(labelled_waters(6))
    Path("train.extxyz").rename(f"{odd}/train.extxyz")
    arguments = [f"dataset.train={odd}/train.extxyz", f"trainer.save_path={odd}/run"]
    run = training.MatGLTraining(config, arguments)
    run.settings = read_yaml(config)
    run.split()
    assert run.settings["dataset"]["train"] == f"{odd}/train.extxyz"
    assert run.settings["trainer"]["save_path"] == f"{odd}/run"
    started(config, f"dataset.train={odd}/train.extxyz")


def test_odd_names_of_files_and_folders_train(tmp_path, monkeypatch):
    place = tmp_path / "a=b, [c] {d} (e) 'f' $h %i #j *k @ Größe 水 n.."
    place.mkdir()
    monkeypatch.chdir(place)
    config = write(labelled_waters(4)).rename("w=[a] é.yaml")
    folder = training.train(config, ["trainer.save_path=out [1]=x"], {})
    assert folder == Path("out [1]=x.les")
    assert les_plugins.load(folder).has_long_range


def test_nothing_after_the_training_loses_the_model_and_other_processes_write_nothing(work, monkeypatch):
    class Potential:
        def save(self, folder: Path) -> None:
            raise OSError("disk full")

    monkeypatch.setattr(training, "_fit", lambda *given: (Potential(), {}))
    Path("run").mkdir()
    Path("run/best.ckpt").touch()
    config = write(labelled_waters(4))
    with pytest.raises(HostError, match=r"run\.les: .*could not be saved: disk full; .* beside it: best\.ckpt"):
        training.train(config)
    monkeypatch.setattr(training.rank_zero_only, "rank", 1)
    assert training.train(config) is None


def test_what_stands_in_the_checkpoints_place_is_found_before_the_training(work):
    config = write(labelled_waters(4))
    Path("run.les").mkdir()
    Path("run.les/notes.txt").touch()
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        training.train(config)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("trainer", {"lr": -1}, r"trainer\.lr is -1; allowed: a number above 0"),
        ("trainer", {"lr": "fast"}, r"trainer\.lr is 'fast'; allowed: a number"),
        ("trainer", {"max_epochs": 1.5}, r"trainer\.max_epochs is 1\.5"),
        ("trainer", {"energy_weight": -1.0}, r"trainer\.energy_weight is -1\.0; allowed: a number from 0 on"),
        ("trainer", {"data_std": 0.0}, r"trainer\.data_std is 0\.0; allowed: a number above 0"),
        ("trainer", {"save_path": ".."}, r"trainer\.save_path is '\.\.'"),
        ("trainer", {"element_refs": {"H": float("nan"), "O": 0.0}}, r"trainer\.element_refs"),
        ("model", {"cutoff": -1.0}, r"model\.cutoff is -1\.0; allowed: a length"),
    ],
)
def test_numbers_that_matgl_would_stumble_over_or_train_with_are_refused(work, section, changes, message):
    with pytest.raises(ConfigError, match=message):
        training.train(write(labelled_waters(6), **{section: changes}))


def test_a_checkpoint_of_ours_as_the_model_to_load_is_refused_at_once(work):
    Path("run.les").mkdir()
    Path("run.les/manifest.json").write_text("{}")
    config = write(labelled_waters(6))
    settings = {**yaml.safe_load(config.read_text()), "model": {"load": "run.les"}}
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="a checkpoint of les-plugins; allowed: a model of MatGL"):
        training.train(config)


def test_a_number_that_yaml_takes_for_text_is_a_number(work):
    config = write(labelled_waters(6))
    config.write_text(config.read_text().replace("trainer:\n", "trainer:\n  lr: 1e-3\n"))
    _, trainer = started(config)
    assert trainer["lr"] == 1e-3
