"""What `les-plugins train nequip` finds wrong in a config and its data before NequIP starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import ase.io
import numpy as np
import yaml
from ase.constraints import FixAtoms
from nequip_models import HOST_SECTIONS, SPECIES, training_settings

from les_plugins.adapters.nequip import LongRangeModel
from les_plugins.adapters.nequip import train as training
from les_plugins.adapters.nequip.builder import TARGET
from les_plugins.adapters.nequip.data import spread
from les_plugins.adapters.nequip.hydra_config import overrides, run_directory
from les_plugins.errors import CheckpointError, ConfigError, DataError, HostError, LesPluginsWarning
from les_plugins.model.outputs import long_range_part
from les_plugins.testing import labelled_waters

#: Characters that Hydra's grammar, the shell or both take for something else.
ODD = "a=b, [c] {d} (e) 'f' \"g\" $h %i #j ~k *l @m Größe 水 n.."


class NequIPStartsError(BaseException):
    """NequIP itself would begin now; carries how it would be called."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def run(config_file: Path, own: list[str], folder: Path) -> None:
        raise NequIPStartsError(own, folder)

    monkeypatch.setattr(training, "_run", run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames(count: int = 6, **changes: Any) -> list[Any]:
    return labelled_waters(count, **changes)


def write(some: list[Any], valid: list[Any] | None = None, name: str = "water.yaml", **data: Any) -> Path:
    """The config of a tiny training on some frames; `data` replaces keys of that section."""
    for file, what in (("train.extxyz", some), ("valid.extxyz", valid or frames(2))):
        if what and not isinstance(what, str):
            ase.io.write(file, what)
    section = {"_target_": TARGET, "model": HOST_SECTIONS["nequip"], "long_range": {"multipoles": ["charge"]}}
    settings = training_settings(Path("."), section)
    settings["data"].update(data)
    Path(name).write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Path(name)


def renamed(some: list[Any], **names: str) -> list[Any]:
    """Labels under other names, as many programs write them."""
    for atoms in some:
        results, atoms.calc = atoms.calc.results, None
        for key, value in results.items():
            holder = atoms.arrays if key == "forces" else atoms.info
            holder[names.get(key, key)] = value
    return some


def test_labelled_frames_start_and_the_signs_frames_come_from_all_over_the_set(work, monkeypatch):
    lone = frames(1)[0]
    del lone[1:]
    lone.calc = frames(1)[0].calc.__class__(lone, energy=-1.0, forces=np.zeros((1, 3)), stress=np.zeros(6))
    write([lone, *frames(20)])
    seen: list[Any] = []
    monkeypatch.setattr(training, "spread", lambda *given: seen.extend(spread(*given)))
    with pytest.raises(NequIPStartsError):
        training.train(Path("water.yaml"), [])
    assert len(seen) == 20
    assert all(len(set(atoms.numbers)) == 2 for atoms in seen)
    assert all(atoms.calc is None for atoms in seen)
    places = [next(n for n, f in enumerate(frames(20)) if np.allclose(f.positions, a.positions)) for a in seen]
    assert max(np.diff(places)) <= 2
    assert places[-1] >= 18


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no energy", r"train\.extxyz: 2 of 6 frames \(frames 1, 4\) without energy under the name 'total_energy'"),
        ("no forces", r"train\.extxyz: 1 of 6 frames \(frame 2\) without forces under the name 'forces'"),
        ("NaN", r"train\.extxyz, frame 3: forces holds NaN or infinity"),
        ("other names", r"none of 6 frames has energy .*did you mean 'REF_energy'.*data.key_mapping"),
        ("two names", r"train\.extxyz, frame 0: both 'REF_forces' and 'forces' are read as forces, and differ"),
        ("wire", r"train\.extxyz, frame 2: pbc is T F F"),
        ("unknown element", r"train\.extxyz, frame 5: NequIP cannot read it: KeyError: .*chemical species"),
        ("field of some", r"train\.extxyz: 5 of 6 frames have 'stress' \(frames 0, 1, 2, 3, 5\)"),
        ("field unknown to NequIP", r"train\.extxyz: '\w+' is no field of NequIP.*data.exclude_keys"),
    ],
)
def test_what_nequip_would_misread_or_stumble_over_is_an_error_that_names_it(work, what, message):
    some, data = frames(), {}
    if what == "no energy":
        for number in (1, 4):
            del some[number].calc.results["energy"]
    elif what == "no forces":
        del some[2].calc.results["forces"]
    elif what == "NaN":
        some[3].calc.results["forces"][1, 1] = np.nan
    elif what == "other names":
        renamed(some, energy="REF_energy", forces="REF_forces", stress="REF_stress")
    elif what == "two names":
        for atoms in some:
            atoms.arrays["REF_forces"] = 2.0 * atoms.calc.results["forces"]
        data = {"key_mapping": {"REF_forces": "forces"}}
    elif what == "wire":
        some[2].pbc = (True, False, False)
        for atoms in some:
            del atoms.calc.results["stress"]
    elif what == "unknown element":
        some[5].numbers[0] = 6
    elif what == "field of some":
        del some[4].calc.results["stress"]
    else:
        for atoms in some:
            atoms.info["foo"] = 1.5
        data = {"include_keys": ["foo"]}
    with pytest.raises(DataError, match=message):
        training.train(write(some, **data), [])


def test_labels_under_other_names_and_validation_sets_are_looked_at_as_the_config_reads_them(work):
    mapping = {"key_mapping": {"REF_energy": "total_energy", "REF_forces": "forces"}, "exclude_keys": ["stress"]}
    some = renamed(frames(), energy="REF_energy", forces="REF_forces")
    valid = frames(2)
    for atoms in valid:
        atoms.calc = None
    with pytest.raises(DataError, match=r"valid\.extxyz: none of 2 frames has energy under the name 'total_energy'"):
        training.train(write(some, valid, **mapping), [])
    with pytest.raises(NequIPStartsError):
        training.train(write(some, renamed(frames(2), energy="REF_energy", forces="REF_forces"), **mapping), [])


def test_forces_of_fixed_atoms_are_read_as_they_stand_in_the_file(work):
    some = frames()
    for atoms in some:
        atoms.set_constraint(FixAtoms([0]))
    path = write(some)
    assert "move_mask" in Path("train.extxyz").read_text()
    expected = some[0].calc.results["forces"]
    found: list[Any] = []
    original = training.check_frames
    training.check_frames = lambda sets, *rest: (found.extend(sets["train"][0]), original(sets, *rest))
    try:
        with pytest.raises(NequIPStartsError):
            training.train(path, [])
    finally:
        training.check_frames = original
    np.testing.assert_allclose(found[0].info["forces"], expected, atol=1e-7)  # eight decimals in the file
    assert np.abs(expected[0]).max() > 1e-6


def test_a_split_set_is_read_whole_and_stress_of_some_with_nan_is_left_out(work):
    some = frames(8)
    del some[3].calc.results["forces"]
    split = {"file_path": "train.extxyz", "train": 5, "val": 3}
    none = {"train_file_path": [], "val_file_path": [], "split_dataset": split}
    with pytest.raises(DataError, match=r"train\.extxyz: 1 of 8 frames \(frame 3\) without forces"):
        training.train(write(some, **none), [])
    some = frames(6)
    del some[1].calc.results["stress"]
    path = write(some, some)
    settings = yaml.safe_load(path.read_text())
    stress = {"coeffs": {"total_energy": 1.0, "forces": 1.0, "stress": 1.0}}
    settings["training_module"]["loss"] = {"_target_": "nequip.train.EnergyForceStressLoss", **stress}
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(DataError, match=r"1 of 6 frames \(frame 1\) without stress under the name 'stress'"):
        training.train(path, [])
    settings["training_module"]["loss"]["ignore_nan"] = {"stress": True}
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(DataError, match=r"frame 1: has no 'stress'; .*AddNaNStressTransform"):
        training.train(path, [])
    settings["data"]["transforms"].insert(0, {"_target_": "nequip.data.transforms.AddNaNStressTransform"})
    path.write_text(yaml.safe_dump(settings))
    with (
        pytest.warns(UserWarning, match=r"1 of 6 frames \(frame 1\) without stress.*left out of this term"),
        pytest.raises(NequIPStartsError),
    ):
        training.train(path, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_file_path": ["train.extxyz", "train.extxyz"]}, "data holds 2 train sets; NequIP needs exactly one"),
        ({"val_file_path": []}, "data holds 0 val sets; NequIP needs at least one"),
        ({"key_maping": {}}, r"water\.yaml: data: NequIP cannot use this section: TypeError: .*key_maping"),
        ({"train_file_path": "${nothing}"}, r"water\.yaml: data: .*nothing"),
    ],
)
def test_impossible_data_sections_are_refused_before_nequip_starts(work, change, message):
    with pytest.raises(ConfigError, match=message):
        training.train(write(frames(), **change), [])


def test_a_missing_file_is_an_error_that_names_it(work):
    with pytest.raises(DataError, match=r"absent\.xyz: NequIP cannot read it"):
        training.train(write(frames(), train_file_path="absent.xyz"), [])


@pytest.mark.parametrize("key", ["long_rang", "long-range", "les"])
@pytest.mark.parametrize("place", ["top", "training_module", "model", "inside", "data", "override"])
def test_a_misspelt_section_is_refused_wherever_it_stands(work, key, place):
    path = write(frames())
    settings = yaml.safe_load(path.read_text())
    module = settings["training_module"]
    target = {
        "top": settings, "training_module": module, "model": module["model"], "inside": module["model"]["model"],
        "data": settings["data"],
    }  # fmt: skip
    if place != "override":
        target[place][key] = module["model"].pop("long_range")
        path.write_text(yaml.safe_dump(settings))
    arguments = [f"+{key}.sigma=1.0"] if place == "override" else []
    with pytest.raises(ConfigError, match=rf"unknown key '{key}' .did you mean 'long_range'"):
        training.train(path, arguments)


def test_a_section_of_the_right_name_in_a_wrong_place_is_refused(work):
    path = write(frames())
    settings = yaml.safe_load(path.read_text())
    model = settings["training_module"]["model"]
    model["model"]["long_range"] = model.pop("long_range")
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"long_range stands under training_module\.model\.model, where it is not"):
        training.train(path, [])
    with pytest.raises(ConfigError, match=r"unknown key 'long_rang' \(did you mean 'long_range'\?\)"):
        LongRangeModel(model=HOST_SECTIONS["nequip"], long_rang={})


def test_a_section_can_stand_at_the_top_and_be_referred_to(work):
    path = write(frames())
    settings = yaml.safe_load(path.read_text())
    settings["long_range"] = settings["training_module"]["model"].pop("long_range")
    settings["training_module"]["model"]["long_range"] = "${long_range}"
    settings["names"], settings["training_module"]["model"]["model"]["type_names"] = SPECIES, "${names}"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(NequIPStartsError):
        training.train(path, [])


@pytest.mark.parametrize(("section", "has"), [({"long_range": None}, True), ({"long_range": {}}, True), ({}, False)])
def test_an_empty_section_is_a_full_model_as_in_every_host(work, section, has):
    built = LongRangeModel(model=HOST_SECTIONS["nequip"], **section)
    assert (long_range_part(built) is not None) == has


def test_our_builder_without_a_section_says_that_the_model_is_nequips_alone(work):
    config = write(frames())
    with (
        pytest.warns(LesPluginsWarning, match="LongRangeModel and has no long_range"),
        pytest.raises(NequIPStartsError),
    ):
        training.train(config, ["~training_module.model.long_range"])


def test_checkpoints_of_an_earlier_run_in_the_same_folder_are_not_taken_for_this_ones(work, monkeypatch):
    folder = work / "run"
    folder.mkdir()
    (folder / "best.ckpt").write_bytes(b"old")
    os.utime(folder / "best.ckpt", (1e9, 1e9))
    monkeypatch.setattr(training, "_run", lambda config_file, own, folder: None)
    arguments = [f"hydra.run.dir={folder}"]
    with pytest.raises(HostError, match="wrote no checkpoint"):
        training.train(write(frames()), arguments)
    (folder / "last.ckpt").write_bytes(b"new")
    assert training.newest_checkpoint(folder, 1e9 + 1.0).name == "last.ckpt"
    assert training.newest_checkpoint(folder).name == "best.ckpt"  # a run that goes on from the older one


def test_metrics_of_single_types_are_read_for_a_model_that_brings_its_types(work):
    path = write(frames())
    settings = yaml.safe_load(path.read_text())
    module = settings["training_module"]
    module["model"] = {"_target_": "les_plugins.adapters.nequip.PretrainedModel", "checkpoint": "water-nequip"}
    module["loss"] = {
        "_target_": "nequip.train.EnergyForceLoss",
        "coeffs": {"total_energy": 1.0, "forces": 1.0},
        "per_type_forces_coeffs": {"H": 1.0, "O": 2.0},
    }
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(NequIPStartsError):
        training.train(path, [])


def test_folders_and_files_of_odd_names_reach_nequip_as_they_are(work, monkeypatch):
    place = work / ODD
    place.mkdir()
    monkeypatch.chdir(place)
    path = write(frames(), name=f"{ODD}.yaml")
    Path(f"{ODD}.extxyz".replace("@", "")).write_text(Path("train.extxyz").read_text())
    with pytest.raises(NequIPStartsError) as started:
        training.train(path, [f"data.train_file_path={ODD}.extxyz".replace("@", ""), "trainer.max_epochs=3"])
    own, folder = started.value.args
    assert folder.parent == place / "outputs" / ODD
    assert own[1] == "trainer.max_epochs=3"
    assert run_directory(path, [f"hydra.run.dir={ODD}/run"]) == place / ODD / "run"
    assert run_directory(path, ["hydra.run.dir='a=b'"]) == place / "a=b"


def test_overrides_that_hydra_understands_are_left_alone(work):
    given = ["trainer.max_epochs=1", "+a.b=[1,2]", "~trainer.logger", "x={a:1}", "y=null", "z='a b'", "w=1e-3"]
    Path("1").touch()
    assert overrides(given) == given
    assert overrides(["x=a=b"]) == ["x='a=b'"]
    for wrong in ("--multirun", "-m", "nothing"):
        with pytest.raises(ConfigError, match="allowed: overrides of Hydra"):
            overrides([wrong])


def test_what_stands_in_the_checkpoints_place_is_found_before_the_training(work):
    config = write(frames())
    Path("run/water.les").mkdir(parents=True)
    Path("run/water.les/notes.txt").touch()
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        training.train(config, ["hydra.run.dir=run"])


@pytest.mark.parametrize("charges", [(1, None), (None, None)])
def test_frames_without_the_field_of_a_given_charge_are_refused_with_what_names_it(
    work: Path, charges: tuple[int | None, ...]
) -> None:
    some = frames(2)
    for atoms, charge in zip(some, charges, strict=True):
        if charge is not None:
            atoms.info["charge"] = charge
    config = write(some, some)
    settings = yaml.safe_load(config.read_text())
    settings["training_module"]["model"]["long_range"] = {"total_charge": "given", "multipoles": ["charge"]}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(DataError, match=r"has no 'charge', .* total_charge: given: .* data.include_keys: \[charge\]"):
        training.train(config, [])


@pytest.mark.parametrize(
    ("name", "data", "kept"),
    [
        ("Q", {"key_mapping": {"Q": "charge"}}, "Q"),
        ("total_charge", {"key_mapping": {"total_charge": "charge"}}, None),
        ("charge", {"include_keys": ["charge"]}, None),
    ],
)
def test_the_name_that_files_have_the_charge_under_is_kept(
    work: Path, name: str, data: dict[str, Any], kept: str | None
) -> None:
    some = frames(4)
    for number, atoms in enumerate(some):
        atoms.info[name] = float(number % 2)
    config = write(some, some, **data)
    settings = yaml.safe_load(config.read_text())
    settings["training_module"]["model"]["long_range"] = {"total_charge": "given", "multipoles": ["charge"]}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    run = training.NequIPTraining(config)
    with pytest.raises(NequIPStartsError):
        run.run()
    assert run.facts.get("total_charge_key") == kept
    assert [atoms.info["charge"] for atoms in run.frames] == [0.0, 1.0, 0.0, 1.0]
