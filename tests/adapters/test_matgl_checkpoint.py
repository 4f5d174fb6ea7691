"""Checkpoints of MatGL models: the same numbers after a round trip, errors for forged files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import numpy as np
import torch
from matgl.apps.pes import Potential
from matgl.models import QET
from matgl_models import ARCHITECTURES, FULL, batch_of, tiny_long_range, tiny_model, tiny_potential, waters

import les_plugins
from les_plugins.adapters.matgl.state import rebuild, take_apart
from les_plugins.api import load_model
from les_plugins.errors import CheckpointError, HostError
from les_plugins.storage.checkpoint import sha256


def forge(folder: Path, **changes) -> Path:
    """A checkpoint whose model section was edited and whose manifest was made to agree."""
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["config.json"] = sha256(folder / "config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return les_plugins.save(tiny_long_range(), tmp_path / "model.les", "matgl")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loaded_model_gives_exactly_the_same_numbers_and_keeps_scale_and_references(architecture, dtype, tmp_path):
    model = tiny_long_range(architecture).to(dtype)
    folder = les_plugins.save(model, tmp_path / "model.les", "matgl")
    again, config = load_model(folder)
    for before, after in zip(model(*batch_of([waters()])), again(*batch_of([waters()])), strict=True):
        assert torch.equal(before, after)
    assert again.data_std.item() == pytest.approx(1.7, rel=1e-6)
    assert again.element_refs.property_offset.tolist() == [-1.0, -3.0]
    assert config["host"] == "matgl"
    assert config["model"]["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("long_range", [None, FULL])
def test_an_energy_model_without_a_potential_is_kept_too(architecture, long_range, tmp_path):
    bare = tiny_model(architecture).double()
    model = bare if long_range is None else les_plugins.attach(bare, long_range)
    again, _ = load_model(les_plugins.save(model, tmp_path / "model.les", "matgl"))
    assert type(again) is type(model)
    energies = [Potential(one).double()(*batch_of([waters()]))[0].item() for one in (model, again)]
    assert energies[0] == energies[1]


def test_a_short_range_model_is_kept_too(tmp_path):
    folder = les_plugins.save(tiny_potential(), tmp_path / "model.les", "matgl")
    calculator = les_plugins.load(folder)
    assert not calculator.has_long_range
    expected = tiny_potential()(*batch_of([waters()]))[0].item()
    assert calculator.get_potential_energy(waters()) == expected


def test_the_sign_convention_changes_no_energy(tmp_path):
    model = tiny_long_range()
    before = model(*batch_of([waters()]))[0].item()
    folder = les_plugins.save(model, tmp_path / "model.les", "matgl", frames=[waters()])
    calculator = les_plugins.load(folder)
    assert calculator.get_potential_energy(waters()) == pytest.approx(before, rel=1e-14)
    charges = np.trace(calculator.get_property("born_effective_charges", waters()), axis1=1, axis2=2) / 3
    assert charges[waters().numbers == 8].mean() < charges.mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "os.system"}, "architecture is 'os.system'; allowed: TensorNet, M3GNet"),
        ({"dtype": "float16"}, "dtype is 'float16'; allowed: float32, float64"),
        ({"arguments": {"no_such_argument": 1}}, "arguments holds 'no_such_argument'; allowed: activation_type"),
        ({"arguments": 3}, "arguments holds 3"),
        ({"arguments": {"units": "many"}}, "does not describe a model of this MatGL"),
        ({"arguments": {"units": 5, "element_types": ["H", "O"], "is_intensive": False}}, "weights: "),
        ({"potential": {"calc_forces": True}}, "potential is .*; allowed: null, or calc_forces"),
        ({"potential": "Potential"}, "potential is 'Potential'"),
    ],
)
def test_a_forged_model_section_raises_an_error(saved, changes, message):
    with pytest.raises(CheckpointError, match=message):
        les_plugins.load(forge(saved, **changes))


def test_missing_and_unknown_tensors_are_refused_by_name():
    state = take_apart(tiny_long_range())
    tensors = dict(state.tensors)
    name, value = tensors.popitem()
    with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
        rebuild(type(state)("matgl", {}, state.model, state.long_range, tensors))
    with pytest.raises(CheckpointError, match="'stray' is unknown"):
        rebuild(type(state)("matgl", {}, state.model, state.long_range, {**tensors, name: value, "stray": value}))


def test_what_a_checkpoint_cannot_hold_raises_an_error(tmp_path):
    qet = QET(element_types=("H", "O"), units=4, nblocks=1, use_warp=False, is_intensive=False)
    with pytest.raises(HostError, match="TensorNet and M3GNet of MatGL, not to QET"):
        les_plugins.save(Potential(qet), tmp_path / "qet.les", "matgl")
    with pytest.raises(HostError, match="calc_magmom=True"):
        les_plugins.save(Potential(tiny_model(), calc_magmom=True), tmp_path / "magmom.les", "matgl")


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("TensorNet", {"units": 10**9}, "units is 1000000000"),
        ("TensorNet", {"units": 512}, "more parameters"),
        ("TensorNet", {"nblocks": 10**6}, "nblocks is 1000000"),
        ("TensorNet", {"num_rbf": 10**9}, "num_rbf is 1000000000"),
        ("TensorNet", {"cutoff": 1e9}, "cutoff is 1000000000.0"),
        ("M3GNet", {"max_l": 50}, "max_l is 50"),
        ("M3GNet", {"max_n": 11}, "max_n \\* max_l is 22"),
        ("M3GNet", {"nlayers_set2set": 10**6}, "nlayers_set2set is 1000000"),
        ("M3GNet", {"cutoff": 3.6}, "in the weights it is"),
        ("TensorNet", {"element_types": ["H", "Xx"]}, "element_types is .'H', 'Xx'.; expected"),
        ("TensorNet", {"element_types": None}, "element_types is None"),
    ],
)
def test_a_size_that_the_weights_do_not_hold_is_refused_before_anything_is_built(
    architecture, changes, message, tmp_path
):
    """Built, these take from minutes to for ever, or more memory than there is."""
    folder = les_plugins.save(tiny_long_range(architecture), tmp_path / "model.les", "matgl")
    arguments = json.loads((folder / "config.json").read_text())["model"]["arguments"]
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        les_plugins.load(forge(folder, arguments={**arguments, **changes}))
    assert time.monotonic() - start < 20.0
