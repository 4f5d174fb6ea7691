"""What `les-plugins train sevennet` finds wrong in the data before SevenNet starts, in all forms that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from sevenn.train.graph_dataset import SevenNetGraphDataset

import les_plugins
from les_plugins.adapters.sevennet import train as training
from les_plugins.adapters.sevennet.contract import tiny_model, training_settings
from les_plugins.adapters.sevennet.seam import training as training_of
from les_plugins.config import LongRangeConfig
from les_plugins.errors import CheckpointError, ConfigError, DataError, HostError, LesPluginsWarning
from les_plugins.testing import labelled_waters


class SevenNetStartsError(BaseException):
    """SevenNet itself would begin now."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def run(args: Any, section: Any) -> None:
        raise SevenNetStartsError

    monkeypatch.setattr(training, "_run", run)
    monkeypatch.chdir(tmp_path)
    ase.io.write("valid.extxyz", labelled_waters(2, seed=100))
    return tmp_path


def write(some: list[Atoms], data: Any = None, section: Any = None, **train: Any) -> Path:
    ase.io.write("train.extxyz", some)
    settings: dict[str, Any] = training_settings(**train)
    settings["data"].update(data or {})
    if section is not False:
        settings["long_range"] = section or {"multipoles": ["charge"]}
    Path("water.yaml").write_text(yaml.safe_dump(settings))
    return Path("water.yaml")


def start(config: Path) -> None:
    training.train(config, [])


def renamed(some: list[Atoms]) -> list[Atoms]:
    for atoms in some:
        results, atoms.calc = atoms.calc.results, None
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = results["energy"], results["forces"]
        atoms.info["REF_stress"] = results["stress"]
    return some


KEYS = {"energy_key": "REF_energy", "force_key": "REF_forces"}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no energy", r"train\.extxyz: 2 of 6 frames \(frames 1, 4\) without energy under the name 'energy'"),
        ("no forces", r"train\.extxyz: 1 of 6 frames \(frame 2\) without forces under the name 'forces'"),
        ("NaN", r"train\.extxyz, frame 3: forces holds NaN or infinity"),
        ("other names", r"train\.extxyz: none of 6 frames has energy .*did you mean 'REF_energy'"),
        ("wire", r"train\.extxyz, frame 2: pbc is T F F"),
        ("unknown element", r"train\.extxyz \(chemical_species\), frame 5: the model does not know C"),
        ("stress of a molecule", r"frame 2: has a 'stress' but is open"),
        ("some free energies", r"3 of 6 frames \(the first is 0\) have a free_energy"),
    ],
)
def test_what_sevennet_would_misread_or_stumble_over_is_an_error_that_names_it(work, what, message):
    some = labelled_waters(6)
    if what == "no energy":
        for number in (1, 4):
            del some[number].calc.results["energy"]
    elif what == "no forces":
        del some[2].calc.results["forces"]
    elif what == "NaN":
        some[3].calc.results["forces"][1, 1] = np.nan
    elif what == "other names":
        renamed(some)
    elif what == "wire":
        some[2].pbc = (True, False, False)
    elif what == "unknown element":
        some[5].numbers[0] = 6
    elif what == "stress of a molecule":
        some[2].pbc = False
    else:
        for atoms in some[:3]:
            atoms.calc.results["free_energy"] = atoms.calc.results["energy"] - 0.5
    with pytest.raises(DataError, match=message):
        start(write(some))


def test_names_of_labels_are_looked_for_where_sevennet_does(work):
    valid = {"load_validset_path": "train.extxyz"}
    with pytest.raises(SevenNetStartsError):
        start(write(renamed(labelled_waters(6)), {"data_format_args": KEYS, **valid}))
    # ASE's reader takes the name `energy` out of the frame: SevenNet would end with a KeyError
    keys = {"energy_key": "energy"}
    with pytest.raises(DataError, match=r"none of 6 frames has energy under the name 'energy' .*energy_key"):
        start(write(labelled_waters(6), {"data_format_args": keys}))
    with pytest.raises(DataError, match=r"valid\.extxyz: none of 2 frames has energy under the name 'REF_energy'"):
        start(write(renamed(labelled_waters(6)), {"data_format_args": KEYS}))
    nine = renamed(labelled_waters(6))
    for atoms in nine:
        atoms.info["REF_stress"] = np.eye(3)
    stress = {**KEYS, "stress_key": "REF_stress"}
    with pytest.raises(DataError, match=r"frame 0: REF_stress has shape \(3, 3\); SevenNet takes six numbers"):
        start(write(nine, {"data_format_args": stress, **valid}))


def test_forces_of_fixed_atoms_pass_for_sevennet_reads_them_as_they_stand(work):
    some = labelled_waters(6)
    for atoms in some:
        atoms.set_constraint(FixAtoms([0, 1]))
    with pytest.raises(SevenNetStartsError):
        start(write(some))


def test_stress_that_no_frame_has_is_missed_where_it_is_asked_for(work):
    some = labelled_waters(6)
    for atoms in some:
        del atoms.calc.results["stress"]
    with pytest.raises(SevenNetStartsError):
        start(write(some))
    with pytest.raises(DataError, match=r"none of 6 frames has stress .*train.is_train_stress: false"):
        start(write(some, is_train_stress=True))
    some = labelled_waters(6)
    del some[4].calc.results["stress"]
    with (
        pytest.warns(LesPluginsWarning, match=r"1 of 6 frames \(frame 4\) without stress"),
        pytest.raises(SevenNetStartsError),
    ):
        start(write(some))


def test_files_in_a_list_are_read_and_their_names_of_labels_refused(work):
    item = {"file": "train.extxyz", "index": "1:"}
    listed = {"load_trainset_path": [{"data_modality": "a", "file_list": [item]}]}
    some = labelled_waters(6)
    del some[3].calc.results["forces"]
    with pytest.raises(DataError, match=r"train\.extxyz: 1 of 5 frames \(frame 2\) without forces"):
        start(write(some, listed))
    item["energy_key"] = "REF_energy"
    with pytest.raises(ConfigError, match=r"file_list has energy_key: REF_energy, which SevenNet 0.13 reads and then"):
        start(write(labelled_waters(6), listed))
    del item["energy_key"]
    with pytest.raises(ConfigError, match=r"does not combine data_format_args.energy_key with a file_list"):
        start(write(labelled_waters(6), {**listed, "data_format_args": KEYS}))


@pytest.mark.filterwarnings("ignore:Weights only load failed:UserWarning")  # PyG, of a file that it just wrote
def test_graphs_are_looked_at_too_and_need_a_cell(work):
    some = labelled_waters(4)
    ase.io.write("train.extxyz", some)
    SevenNetGraphDataset(cutoff=3.5, root="plain", files=["train.extxyz"], processed_name="train.pt", log=False)
    with training_of(LongRangeConfig()):
        SevenNetGraphDataset(cutoff=3.5, root="celled", files=["train.extxyz"], processed_name="train.pt", log=False)
    with pytest.raises(DataError, match=r"plain/sevenn_data/train\.pt: its graphs hold no cell"):
        start(write(some, {"load_trainset_path": "plain/sevenn_data/train.pt"}))
    with pytest.raises(SevenNetStartsError):
        start(write(some, {"load_trainset_path": "celled/sevenn_data/train.pt"}))


@pytest.mark.filterwarnings("ignore:Weights only load failed:UserWarning")  # PyG, of a file that was just written
def test_a_file_changed_since_the_last_run_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("valid.extxyz", labelled_waters(2, seed=100))
    start(write(labelled_waters(4), section=False))
    some = labelled_waters(5, seed=50)
    start(write(some, section=False))
    kept = SevenNetGraphDataset(cutoff=3.5, root=".", processed_name="trainset.pt", log=False)
    assert len(kept) == 5
    assert kept[0]["total_energy"].item() == pytest.approx(some[0].calc.results["energy"], rel=1e-5)  # float32


def frames_of(config: Path) -> list[Atoms]:
    """The training set as it was read."""
    run = training.SevenNetTraining(config)
    with pytest.raises(SevenNetStartsError):
        run.run()
    return list(run.frames)


def energies(some: list[Atoms]) -> list[float]:
    return [atoms.get_potential_energy() for atoms in some]


def test_a_file_that_is_rewritten_or_of_another_folder_is_read_as_it_is_now(work, monkeypatch):
    first, second, third = (labelled_waters(4, seed=seed) for seed in (1, 2, 3))
    for some in (first, second):
        assert energies(frames_of(write(some))) == pytest.approx(energies(some))
    other = work / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    ase.io.write("valid.extxyz", labelled_waters(2, seed=100))
    assert energies(frames_of(write(third))) == pytest.approx(energies(third))


def test_a_file_that_is_named_twice_for_other_frames_counts_twice(work):
    some = labelled_waters(5)
    items = [{"file": "train.extxyz", "index": index} for index in (":2", "2:")]
    listed = {"load_trainset_path": [{"data_modality": "a", "file_list": items}]}
    assert energies(frames_of(write(some, listed))) == pytest.approx(energies(some))
    del some[1].calc.results["forces"]
    with pytest.raises(DataError, match=r"train\.extxyz: 1 of 5 frames \(frame 1\) without forces"):
        start(write(some, listed))


@pytest.mark.parametrize("kept", [False, True])
def test_graphs_of_an_earlier_run_are_made_anew_beside_graphs_that_are_given(work, kept):
    some = labelled_waters(4)
    ase.io.write("train.extxyz", some)
    with training_of(LongRangeConfig()):
        for name, root in (("trainset", "given"), ("validset", "out")):
            SevenNetGraphDataset(cutoff=3.5, root=root, files=["train.extxyz"], processed_name=name, log=False)
    data = {"load_trainset_path": "given/sevenn_data/trainset.pt"}
    if kept:  # it is the user's own
        data["load_validset_path"] = "out/sevenn_data/validset.pt"
    with pytest.raises(SevenNetStartsError):
        training.train(write(some, data), ["-w", "out"])
    assert Path("given/sevenn_data/trainset.pt").exists()
    assert Path("out/sevenn_data/validset.pt").exists() == kept


def test_odd_names_of_files_and_folders_train(tmp_path, monkeypatch):
    place = tmp_path / "a=b, [c] {d} (e) 'f' $h %i #j *k @ Größe 水 n.."
    place.mkdir()
    monkeypatch.chdir(place)
    some = labelled_waters(4)
    single = Atoms(some[0].numbers[:1], some[0].positions[:1], cell=some[0].cell, pbc=True)
    single.calc = SinglePointCalculator(single, energy=0.0, forces=np.zeros((1, 3)), stress=np.zeros(6))
    config = write([*some, single])
    Path("train.extxyz").rename("t [1]=?.extxyz")
    ase.io.write("valid.extxyz", labelled_waters(2, seed=100))
    settings = yaml.safe_load(config.read_text())
    settings["data"]["load_trainset_path"] = "t [1]=?.extxyz"
    Path("w=[a] é.yaml").write_text(yaml.safe_dump(settings))
    folder = training.train(Path("w=[a] é.yaml"), ["-w", "out [1]=x"])
    assert folder == Path("out [1]=x/w=[a] é.les")
    assert les_plugins.load(folder).has_long_range


def test_nothing_after_the_training_loses_the_model(work, monkeypatch):
    monkeypatch.setattr(training, "_run", lambda *given: tiny_model())

    def fails(*given: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(les_plugins.api, "save", fails)
    Path("checkpoint_best.pth").touch()
    with pytest.raises(
        HostError, match=r"could not be saved: disk full; checkpoints of the host .*: checkpoint_best\.pth"
    ):
        start(write(labelled_waters(4)))


def test_what_stands_in_the_checkpoints_place_is_found_before_the_training(work):
    config = write(labelled_waters(4))
    Path("water.les").mkdir()
    Path("water.les/notes.txt").touch()
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        start(config)


def test_other_processes_of_a_distributed_training_write_no_checkpoint(work, monkeypatch):
    monkeypatch.setattr(training, "_run", lambda *given: tiny_model())
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert training.train(write(labelled_waters(4)), ["-d"]) is None
    assert not Path("water.les").exists()


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"cutoff": -1.0}, r"model\.cutoff is -1\.0; allowed: a length"),
        (
            "train",
            {"continue": "checkpoint_best.pth"},
            r"train\.continue is 'checkpoint_best\.pth'; expected a section",
        ),
        (
            "train",
            {"continue": {"chekpoint": "a.pth"}},
            r"train\.continue: unknown key 'chekpoint' \(did you mean 'checkpoint'\?\); allowed: checkpoint",
        ),
        (
            "train",
            {"optim_param": {"lr": "1e-3"}},
            r"train\.optim_param\.lr is '1e-3'; allowed: a number, with a point",
        ),
    ],
)
def test_values_that_sevennet_would_stumble_over_or_train_with_are_refused(work, section, changes, message):
    config = write(labelled_waters(6))
    settings = yaml.safe_load(config.read_text())
    settings[section].update(changes)
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=message):
        start(config)


def test_a_training_that_diverges_names_the_learning_rate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("valid.extxyz", labelled_waters(2, seed=100))
    with pytest.raises(HostError, match="try a lower lr"):
        start(write(labelled_waters(6), optim_param={"lr": 1e30}))
