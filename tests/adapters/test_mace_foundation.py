"""Fine-tuning of a foundation model of MACE: where it starts, replayed data, zeros of energy, heads, frozen parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import ase.io
import numpy as np
import torch
import yaml
from mace_models import tiny_mace

import les_plugins
from les_plugins import api
from les_plugins.adapters.mace import contract
from les_plugins.adapters.mace.foundation import licence_of_foundation
from les_plugins.adapters.mace.model import last_layer
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.hosting import registry
from les_plugins.storage.checkpoint import read_config
from les_plugins.testing import labelled_waters, waters

#: Of a coupling that is next to zero charges are too.
SMALL_CHARGES = "ignore:.*the sign of the charges is not certain:les_plugins.errors.LesPluginsWarning"
#: As a user writes it: nothing of the architecture, which is the foundation model's.
SETTINGS: dict[str, Any] = {
    **{key: contract.SETTINGS[key] for key in ("device", "default_dtype", "pin_memory", "plot", "batch_size")},
    **{"energy_key": "energy", "forces_key": "forces", "valid_batch_size": 2, "eval_interval": 1},
    **{"name": "tuned", "foundation_model": "foundation.model", "multiheads_finetuning": False, "max_num_epochs": 1},
    **{"train_file": "train.xyz", "valid_file": "valid.xyz", "E0s": "foundation", "lr": 0.01},
    "long_range": {"zero_init": True},
}
REPLAY = {
    **{"multiheads_finetuning": True, "pt_train_file": "replay.xyz", "pt_valid_file": "replay.xyz"},
    **{"num_samples_pt": 2, "force_mh_ft_lr": True, "stress_key": "stress"},
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A tiny MACE as the file foundation.model, in a folder with structure files."""
    for name, count, seed in (("train", 4, 0), ("valid", 2, 100), ("replay", 2, 200)):
        ase.io.write(tmp_path / f"{name}.xyz", labelled_waters(count, seed), format="extxyz")
    monkeypatch.chdir(tmp_path)
    model = tiny_mace(3)
    torch.save(model, "foundation.model")
    return model


def train(*arguments: str, **changes: Any) -> Path:
    settings = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    Path("tuned.yaml").write_text(yaml.safe_dump(settings))
    written = registry.host("mace").train(Path("tuned.yaml"), arguments, {})
    assert written is not None
    return written


def forces_of(model: torch.nn.Module, head: str | None = None) -> np.ndarray:
    calculator = registry.host("mace").calculator(model, {"head": head}, "cpu")
    return calculator.get_property("forces", waters(3))


@pytest.mark.filterwarnings(SMALL_CHARGES)
def test_training_starts_exactly_at_the_foundation_model(base):
    folder = train("--lr=1e-14")  # MACE evaluates before the first step, and keeps what no step has changed
    model, config = api.load_model(folder)
    # a step of 1e-14 along c and the weights
    np.testing.assert_allclose(forces_of(model), forces_of(base), rtol=0, atol=1e-10)
    assert model.long_range.config.zero_init
    assert config["metadata"]["training"]["host_options"]["foundation_model"] == "foundation.model"
    assert config["metadata"]["data_licence"] == "not stated; not stated (foundation.model)"


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("medium-mpa-0", "MIT"),
        ("small-0b2", "MIT"),
        ("medium_off", "Academic Software License"),
        ("mace-matpes-r2scan-0", "Academic Software License"),
        ("mh-1", None),
        ("foundation.model", None),
    ],
)
def test_the_licence_of_a_foundation_model_is_what_mace_says_of_its_name(name, licence, base):
    assert licence_of_foundation(name) == licence


@pytest.mark.filterwarnings(SMALL_CHARGES)
def test_energies_of_atoms_are_the_foundation_models_or_estimated_from_its_errors(base):
    same = api.load_model(train("--lr=1e-14"))[0]
    assert same.atomic_energies_fn.atomic_energies.flatten().tolist() == [-1.0, -3.0]
    estimated = api.load_model(train("--lr=1e-14", E0s="estimated"))[0]
    frames = ase.io.read("train.xyz", ":")
    calculator = registry.host("mace").calculator(estimated, {}, "cpu")
    error = [calculator.get_property("energy", atoms) - atoms.get_potential_energy() for atoms in frames]
    assert abs(np.mean(error)) < 1e-6  # one composition: least squares takes the mean off


@pytest.mark.parametrize("e0s", ["foundation", "estimated", "{1: -1.5, 8: -2.5}"])
def test_replayed_data_are_trained_in_a_head_of_their_own(base, e0s):
    folder = train(**REPLAY, E0s=e0s)
    model, _ = api.load_model(folder)
    assert model.heads == ["pt_head", "Default"]
    assert model.long_range.coupling.item() != 0.0
    calculators = {head: les_plugins.load(folder, head=head) for head in model.heads}
    atoms = waters(2)
    energies = {head: one.get_property("energy", atoms) for head, one in calculators.items()}
    charges = {head: one.get_property("born_effective_charges", atoms) for head, one in calculators.items()}
    assert energies["pt_head"] != energies["Default"]
    assert np.array_equal(charges["pt_head"], charges["Default"])  # heads share the long-range part
    assert les_plugins.load(folder).get_property("energy", atoms) == energies["Default"]
    table = model.atomic_energies_fn.atomic_energies
    assert table[0].tolist() == [-1.0, -3.0]  # of replayed data: the foundation model's, whatever E0s says
    if e0s.startswith("{"):
        assert table[1].tolist() == [-1.5, -2.5]


def test_zeros_of_energy_of_isolated_atoms_go_with_replayed_data(base):
    frames = ase.io.read("train.xyz", ":")
    for symbol, energy in (("H", -1.25), ("O", -2.75)):
        atoms = frames[0][[list(frames[0].symbols).index(symbol)]]
        atoms.info["config_type"], atoms.info["energy"] = "IsolatedAtom", energy
        atoms.arrays["forces"] = np.zeros((1, 3))
        atoms.calc = None
        frames.append(atoms)
    ase.io.write("train.xyz", frames, format="extxyz")
    model, _ = api.load_model(train(**REPLAY, E0s=None))
    assert model.atomic_energies_fn.atomic_energies[1].tolist() == [-1.25, -2.75]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({**REPLAY, "E0s": "average"}, ConfigError, r"E0s is 'average'.*allowed: foundation, estimated, a mapping"),
        ({"lora": True}, HostError, "lora converts MACE's own classes only"),
        ({"r_max": 5.0}, ConfigError, r"r_max is 5.0; the foundation model has 3.5: leave the key out"),
        ({"hidden_irreps": "8x0e"}, ConfigError, "hidden_irreps is '8x0e'; the foundation model has 4x0e"),
        ({"foundation_head": "dft"}, ConfigError, "foundation_head is 'dft'; the foundation model has one head"),
        ({**REPLAY, "pt_train_file": "none.xyz"}, DataError, "pt_train_file: none.xyz: no such file"),
        ({"multiheads_finetuning": True}, ConfigError, "multiheads_finetuning is true and there are no data to replay"),
    ],
)
def test_what_does_not_fit_the_foundation_model_is_named(base, changes, error, message):
    with pytest.raises(error, match=message):
        train(**changes)
    assert not Path("tuned.les").exists()


def test_an_element_that_the_foundation_model_does_not_know_is_named(base):
    frames = ase.io.read("train.xyz", ":")
    frames[1].symbols[0] = "S"
    ase.io.write("train.xyz", frames, format="extxyz")
    with pytest.raises(DataError, match=r"train.xyz .*frame 1: the model does not know S; it knows: H, O"):
        train()


@pytest.mark.parametrize("train_only", ["long_range", "last_layer"])
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_is_trained(base, train_only):
    section = {"run": {"train_only": train_only}}
    decay = {"optimizer": "adamw", "weight_decay": 0.5, "ema": True, "max_num_epochs": 2}
    folder = train(long_range=section, **decay)
    tuned = api.load_model(folder)[0]
    own = dict(base.named_parameters())
    trained = {id(p) for p in tuned.long_range.parameters()}
    if train_only == "last_layer":
        trained |= {id(p) for module in last_layer(tuned) for p in module.parameters()}
    moved = 0
    for name, parameter in tuned.named_parameters():
        if id(parameter) not in trained:
            assert torch.equal(parameter, own[name.removeprefix("base.")]), name
        elif name.startswith("base.") and parameter.numel():
            assert not torch.equal(parameter, own[name.removeprefix("base.")]), name
            moved += 1
    assert (moved > 0) == (train_only == "last_layer")
    assert read_config(folder)["long_range"]["run"]["train_only"] == train_only


@pytest.mark.parametrize("train_only", ["all", "long_range", "last_layer"])
def test_every_parameter_that_is_trained_reaches_the_loss(base, train_only):
    from mace_models import batch_of

    from les_plugins.model.frozen import freeze

    model = les_plugins.attach(base, {})
    freeze(model, train_only, last_layer(model))
    output = model(batch_of([waters(2)]), training=True)
    (output["energy"].sum() + (output["forces"] ** 2).sum()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
