"""Checkpoints of SevenNet models: the same numbers after a round trip, errors for forged files."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

import numpy as np
import torch
from sevenn.calculator import SevenNetCalculator

import les_plugins
from les_plugins import api
from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
from les_plugins.adapters.sevennet.contract import batch_of, tiny_model
from les_plugins.adapters.sevennet.state import rebuild, take_apart
from les_plugins.adapters.sevennet.train import load_checkpoint
from les_plugins.errors import CheckpointError
from les_plugins.storage.checkpoint import sha256
from les_plugins.testing import waters

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}


def forge(folder: Path, **changes: Any) -> Path:
    """A checkpoint whose model section was edited and whose manifest was made to agree."""
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["config.json"] = sha256(folder / "config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return les_plugins.attach(tiny_model(), FULL)


@pytest.fixture
def saved(model: torch.nn.Module, tmp_path: Path) -> Path:
    return les_plugins.save(model, tmp_path / "model.les", "sevennet")


@pytest.mark.slow
def test_a_copy_of_a_pretrained_model_can_be_saved_though_e3nns_code_keeps_constants_in_it(tmp_path):
    """A copy is what the sign of the charges is turned in; of tiny models it holds nothing new."""
    model = les_plugins.attach(load_checkpoint("7net-0"), {"multipoles": ["charge"]})
    copied = copy.deepcopy(model)
    assert any("_tensor_constant" in name for name in copied.state_dict())
    again, _ = api.load_model(les_plugins.save(copied, tmp_path / "copy.les", "sevennet"))
    batch = batch_of([waters(1)], torch.float32)
    assert torch.equal(again(batch.clone())["inferred_force"], model(batch.clone())["inferred_force"])


def test_a_checkpoint_with_constants_of_e3nns_code_can_be_loaded(tmp_path):
    model = les_plugins.attach(tiny_model(is_parity=False, lmax=2), FULL)
    state = take_apart(model)
    extra = {"1_convolution.convolution._compiled_main_left_right._tensor_constant0": torch.zeros(3)}
    again = rebuild(dataclasses.replace(state, tensors={**state.tensors, **extra}))
    batch = batch_of([waters()], torch.float64)
    assert torch.equal(again(batch.clone())["inferred_force"], model(batch.clone())["inferred_force"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"is_parity": False, "lmax": 2, "self_connection_type": "linear"}])
def test_a_loaded_model_gives_exactly_the_same_numbers(dtype, settings, tmp_path):
    model = les_plugins.attach(tiny_model(dtype=dtype, **settings), FULL)
    again, config = api.load_model(les_plugins.save(model, tmp_path / "model.les", "sevennet"))
    before, after = model(batch_of([waters()], dtype)), again(batch_of([waters()], dtype))
    for key in ("inferred_total_energy", "inferred_force", "inferred_stress", "latent_charges", "long_range_energy"):
        assert torch.equal(before[key], after[key])
    assert config["host"] == "sevennet"
    assert set(config["versions"]) == {"sevenn", "e3nn", "torch"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'; allowed: float32, float64"),
        ({"no_such_setting": 1}, "unknown key 'no_such_setting'"),
        ({"interaction_type": "os.system"}, "does not describe a model of this SevenNet"),
        ({"act_radial": "eval"}, "does not describe a model of this SevenNet"),
        ({"num_convolution_layer": "many"}, "num_convolution_layer is 'many'; the weights have 2"),
        ({"_type_map": None}, "does not describe a model of this SevenNet"),
        ({"channel": 5}, "has shape"),
        ({"num_convolution_layer": 3}, "num_convolution_layer is 3; the weights have 2"),
    ],
)
def test_a_forged_model_section_raises(saved, changes, message):
    with pytest.raises(CheckpointError, match=message):
        les_plugins.load(forge(saved, **changes))


def test_missing_and_unknown_tensors_are_refused_by_name(model):
    state = take_apart(model)
    tensors = dict(state.tensors)
    name, value = tensors.popitem()
    with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
        rebuild(type(state)("sevennet", {}, state.model, state.long_range, tensors))
    with pytest.raises(CheckpointError, match="'stray' is unknown"):
        rebuild(type(state)("sevennet", {}, state.model, state.long_range, {**state.tensors, "stray": value}))


def test_files_that_are_no_checkpoints_of_sevennet_raise(tmp_path):
    (tmp_path / "text.pth").write_text("nothing of the kind")
    torch.save({"epoch": 1}, tmp_path / "other.pth")
    for name in ("absent.pth", "text.pth", "other.pth"):
        with pytest.raises(CheckpointError, match="SevenNet cannot read it"):
            load_checkpoint(tmp_path / name)


@pytest.mark.training
def test_a_pretrained_model_takes_a_long_range_part_and_starts_exactly_where_it_was(tmp_path):
    """7net-0 comes with SevenNet's distribution; it has no parity, its vectors are called 1e."""
    bare, atoms = load_checkpoint("7net-0"), waters(2)
    model = les_plugins.attach(bare, {**FULL, "zero_init": True})
    expected = SevenNetCalculator("7net-0", device="cpu").get_property("forces", atoms)
    assert np.array_equal(LesSevenNetCalculator(model).get_property("forces", atoms), expected)
    calculator = les_plugins.load(les_plugins.save(model, tmp_path / "tuned.les", "sevennet"))
    assert calculator.has_long_range
    assert np.array_equal(calculator.get_property("forces", atoms), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lmax": 50}, "lmax is 50"),
        ({"lmax": 11}, "lmax is 11"),
        ({"num_convolution_layer": 1000000}, "num_convolution_layer is 1000000"),
        ({"channel": 10**9}, "channel is 1000000000"),
        ({"weight_nn_hidden_neurons": [1000000000]}, "weight_nn_hidden_neurons is 1000000000"),
        ({"weight_nn_hidden_neurons": [500] * 50}, "more parameters"),
        ({"cutoff": 10**9}, "cutoff is 1000000000"),
        (
            {"radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 1000000000}},
            "bessel_basis_num is 1000000000",
        ),
        ({"irreps_manual": ["4x0e"] * 100000}, "irreps_manual has 100000 items"),
    ],
)
def test_a_size_that_the_weights_do_not_hold_is_refused_before_anything_is_built(saved, changes, message):
    """Built, these take from minutes to for ever, or more memory than there is."""
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        les_plugins.load(forge(saved, **changes))
    assert time.monotonic() - start < 20.0
