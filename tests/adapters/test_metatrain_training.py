"""`les-plugins train metatrain`: metatrain's own options file, trainer and fine-tuning."""

from __future__ import annotations

import copy
import re
from importlib.util import find_spec

import ase.io
import numpy as np
import pytest
import yaml

pytest.importorskip("metatrain", reason="metatrain is not installed: nox -s tests-metatrain")

import metatrain.pet.trainer
import torch
from metatrain.pet import PET
from metatrain.utils.io import load_model

import les_plugins
from les_plugins import api
from les_plugins.adapters.metatrain.contract import tiny_model, training_settings
from les_plugins.adapters.metatrain.model import ARCHITECTURES, LongRangeModel
from les_plugins.adapters.metatrain.train import with_long_range
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsWarning
from les_plugins.hosting import registry
from les_plugins.testing.structures import labelled_waters, waters

SECTION = {"multipoles": ["charge", "dipole"], "zero_init": True}

pytestmark = pytest.mark.filterwarnings("ignore::les_plugins.errors.LesPluginsWarning")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that trains on six frames in an empty folder, with changes of the settings by dotted keys."""
    monkeypatch.chdir(tmp_path)

    def train(changes=(), arguments=(), frames=None, architecture="pet", section=SECTION):
        frames = labelled_waters(6) if frames is None else frames
        ase.io.write("train.extxyz", frames[:-2])
        ase.io.write("valid.extxyz", frames[-2:])
        settings = copy.deepcopy(training_settings(architecture))
        for path, value in dict(changes).items():
            *parents, last = path.split(".")
            place = settings
            for key in parents:
                place = place.setdefault(key, {})
            place[last] = value
        if section is not None:
            settings["long_range"] = dict(section)
        (tmp_path / "options.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        return registry.host("metatrain").train(tmp_path / "options.yaml", arguments, {})

    return train


def spelled(**energy):
    """The training set in metatrain's long form."""
    return {"training_set": {"systems": "train.extxyz", "targets": {"energy": energy}}}


def test_arguments_override_the_file_and_the_best_epoch_is_kept(run, tmp_path):
    folder = run(arguments=["architecture.training.num_epochs=1", "architecture.training.learning_rate=0.01"])
    assert folder.resolve() == tmp_path / "options.les"
    training = api.load(folder).metadata["metadata"]["training"]
    assert training["host_options"]["architecture"]["training"]["num_epochs"] == 1
    assert training["last_validation"]["best_epoch"] == 0
    assert training["last_validation"]["best_metric"] > 0.0
    log = (tmp_path / "options" / "train.log").read_text(encoding="utf-8")
    assert "forces RMSE" in log
    assert not (tmp_path / "model.pt").exists()  # metatrain would have written the model without long range


def test_the_weights_of_the_best_epoch_are_those_of_its_validation_error(run, tmp_path, monkeypatch):
    """The first epoch is made the best of four: in the last one the weights are others."""
    errors_of_epochs = iter(range(4))
    monkeypatch.setattr(metatrain.pet.trainer, "get_selected_metric", lambda *_: next(errors_of_epochs))
    run(arguments=["architecture.training.num_epochs=4", "architecture.training.learning_rate=0.01"])
    log = (tmp_path / "options" / "train.log").read_text(encoding="utf-8")
    reported = [float(value) for value in re.findall(r"validation forces RMSE: ([0-9.]+)", log)]
    kept = api.load(tmp_path / "options.les")
    best = kept.metadata["metadata"]["training"]["last_validation"]["best_epoch"]
    assert best == 0
    assert reported[0] != pytest.approx(reported[-1], rel=0.01)
    frames = ase.io.read("valid.extxyz", ":")
    errors = [kept.get_property("forces", atoms) - atoms.calc.results["forces"] for atoms in frames]
    # float32 of the training, and the digits that metatrain prints
    assert float(np.sqrt(np.mean(np.concatenate(errors) ** 2))) == pytest.approx(reported[best], rel=1e-3)


def test_without_a_section_a_short_range_model_is_trained(run):
    folder = run(section=None, changes={"architecture.training.num_epochs": 1})
    model, config = api.load_model(folder)
    assert config["long_range"] is None
    assert isinstance(model, PET)


@pytest.mark.skipif(find_spec("torchpme") is None, reason="metatrain's own long_range needs torch-pme")
def test_metatrains_own_long_range_key_of_the_model_is_not_taken_for_ours(run):
    with pytest.raises(HostError, match="metatrain's own long_range"):
        run(changes={"architecture.model.long_range.enable": True, "architecture.model.long_range.use_ewald": True})
    assert run(changes={"architecture.training.num_epochs": 1}).is_dir()  # it stands in the file, and is off


@pytest.mark.filterwarnings("ignore:.*distributed:DeprecationWarning")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture.name": "gap"}, "allowed: pet, soap_bpnn"),
        ({"architecture": "pet"}, "expected a section"),
        (
            {
                "architecture.training.finetune": {
                    "method": "lora",
                    "read_from": "x",
                    "config": {"rank": 2, "alpha": 4.0},
                }
            },
            "allowed: full, heads",
        ),
        ({"training_set": 3}, "training_set"),
        ({"training_set": {"systems": "none.xyz"}}, "training_set"),
        ({"training_set": {"systems": "train.extxyz", "targets": {"x": {"quantity": "dipole"}}}}, "0 targets"),
        ({"architecture.training.distributed": True}, "one process"),
    ],
)
def test_options_that_the_adapter_does_not_serve_raise_an_error(run, changes, words):
    with pytest.raises(ConfigError, match=words):
        run(changes=changes)


@pytest.mark.parametrize("key", ["architecture.training.num_epoch", "architecture.model.d_pett", "devise"])
def test_an_unknown_key_of_metatrain_is_an_error_that_names_it(run, key):
    with pytest.raises(ConfigError, match=key.split(".")[-1]):
        run(changes={key: 1})


@pytest.mark.parametrize("argument", ["long_range.multipole=[charge]", "nothing", "architecture.modle.d_pet=4"])
def test_an_argument_with_an_unknown_key_is_an_error_that_names_it(run, argument):
    with pytest.raises(ConfigError, match=r"multipole|nothing|modle"):
        run(arguments=[argument])


def test_frames_without_forces_can_be_trained_on_where_forces_are_off(run):
    frames = labelled_waters(6)
    for atoms in frames:
        del atoms.calc.results["forces"]
    with pytest.raises(DataError, match="forces: off"):
        run(frames=frames)
    both = {**spelled(forces=False), "architecture.training.num_epochs": 1}
    both["validation_set"] = {"systems": "valid.extxyz", "targets": {"energy": {"forces": False}}}
    assert run(frames=frames, changes=both).is_dir()


def test_a_stress_that_some_frames_lack_is_an_error_where_metatrain_would_leave_all_out(run):
    frames = labelled_waters(6)
    del frames[1].calc.results["stress"]
    with pytest.raises(DataError, match="stress"):
        run(frames=frames)
    for atoms in frames:
        atoms.calc.results.pop("stress", None)
    assert run(frames=frames, changes={"architecture.training.num_epochs": 1}).is_dir()


def test_names_of_labels_are_read_from_the_options(run, tmp_path):
    frames = labelled_waters(6)
    for atoms in frames:
        atoms.info["dft_energy"] = atoms.calc.results.pop("energy")
        atoms.arrays["dft_forces"] = atoms.calc.results.pop("forces")
        atoms.calc = None
    target = {"key": "dft_energy", "forces": {"key": "dft_forces"}, "stress": False}
    changes = {
        **spelled(**target),
        "validation_set": {"systems": "valid.extxyz", "targets": {"energy": target}},
        "architecture.training.num_epochs": 1,
    }
    assert run(frames=frames, changes=changes).is_dir()
    assert "forces RMSE" in (tmp_path / "options" / "train.log").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="dft_energie"):
        run(frames=frames, changes={**changes, **spelled(**{**target, "key": "dft_energie"})})


def test_open_structures_and_slabs_are_trained_on(run):
    frames = labelled_waters(6)
    for number, pbc in ((0, False), (1, (True, True, False)), (5, False)):
        frames[number].pbc = pbc
    for atoms in frames:
        del atoms.calc.results["stress"]
    folder = run(frames=frames, changes={"architecture.training.num_epochs": 1})
    assert np.isfinite(les_plugins.load(folder).get_property("forces", frames[1])).all()


def checkpoint_of_metatrain(path):
    """A file as metatrain's trainers write it, of a bare PET."""
    model = tiny_model("pet").to(torch.float32)
    checkpoint = {**model.get_checkpoint(), "epoch": 0, "best_epoch": 0, "best_model_state_dict": model.state_dict()}
    torch.save({**checkpoint, "trainer_ckpt_version": 15, "train_hypers": {}}, path)
    return model


#: A set in metatrain's long form, with the units of the checkpoint.
DATA = {"systems": {"length_unit": "angstrom"}, "targets": {"energy": {"unit": "eV"}}}
FILES = {"training_set": "train.extxyz", "validation_set": "valid.extxyz"}


@pytest.mark.parametrize("method", ["full", "heads"])
def test_fine_tuning_starts_from_a_checkpoint_of_metatrain(run, tmp_path, method):
    bare = checkpoint_of_metatrain(tmp_path / "base.ckpt")
    finetune = {"read_from": "base.ckpt", "method": method, "inherit_heads": {}}
    if method == "heads":
        finetune["config"] = {
            "head_modules": ["node_heads", "edge_heads"], "last_layer_modules": ["node_last_layers", "edge_last_layers"]
        }  # fmt: skip
    folder = run(
        changes={
            "architecture.training.finetune": finetune,
            "architecture.training.num_epochs": 1,
            "architecture.training.learning_rate": 1e-3,
            **{name: {**DATA, "systems": {**DATA["systems"], "read_from": file}} for name, file in FILES.items()},
        }
    )
    model, _ = api.load_model(folder)
    assert isinstance(model, LongRangeModel)
    own, before = dict(model.base.named_parameters()), dict(bare.named_parameters())
    moved = {name for name in own if not torch.equal(own[name], before[name])}
    assert any("last_layers" in name for name in moved)
    assert any("gnn" in name for name in moved) == (method == "full")
    assert model.long_range.coupling.abs().item() > 0.0  # from its zero start


def test_fine_tuning_with_zero_init_starts_at_the_predictions_of_the_checkpoint(run, tmp_path):
    """Composition and scale are the checkpoint's too, whatever the energies of the new data."""
    bare = checkpoint_of_metatrain(tmp_path / "base.ckpt").double()
    changes = {
        "architecture.training.finetune": {"read_from": "base.ckpt", "method": "full", "inherit_heads": {}},
        "architecture.training.num_epochs": 1,
        "architecture.training.learning_rate": 0.0,
        **{name: {**DATA, "systems": {**DATA["systems"], "read_from": file}} for name, file in FILES.items()},
    }
    trained, read = api.load(run(changes=changes), dtype="float64"), load_model(tmp_path / "base.ckpt").double()
    expected = registry.host("metatrain").calculator(bare, {}, "cpu")
    attached = registry.host("metatrain").calculator(api.attach(read, SECTION), {}, "cpu")
    for name in ("energy", "forces"):
        wanted = expected.get_property(name, waters(2))
        for found in (trained, attached):
            # constants that were rounded to float32 in one of them
            np.testing.assert_allclose(found.get_property(name, waters(2)), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_trainer_keeps_its_own_checkpoints_as_ours(architecture, tmp_path):
    trainer = with_long_range(architecture, None).__trainer__
    model = tiny_model(architecture)
    trainer.save_checkpoint(None, model, tmp_path / "model_100.ckpt")
    calculator = les_plugins.load(tmp_path / "model_100.les")
    expected = registry.host("metatrain").calculator(model, {}, "cpu").get_property("forces", waters(2))
    np.testing.assert_allclose(calculator.get_property("forces", waters(2)), expected, rtol=0, atol=1e-6)  # float32


def test_the_net_charge_of_a_trained_model_is_still_warned_about(run):
    folder = run(section={"multipoles": ["charge"]}, changes={"architecture.training.num_epochs": 1})
    with pytest.warns(LesPluginsWarning, match="net charge"):
        les_plugins.load(folder).get_property("energy", waters(2))
