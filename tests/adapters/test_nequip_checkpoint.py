"""Checkpoints of NequIP and Allegro models: the same numbers after a round trip, errors for forged files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import numpy as np
import torch
from ase import Atoms
from nequip_models import HOST_SECTIONS, batch_of, tiny_host, tiny_long_range, waters

import les_plugins
from les_plugins.adapters.nequip import LongRangeModel
from les_plugins.adapters.nequip.state import rebuild, take_apart
from les_plugins.errors import CheckpointError, HostError
from les_plugins.storage.checkpoint import sha256

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}


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
    return les_plugins.save(tiny_long_range("nequip", FULL), tmp_path / "model.les", "nequip")


@pytest.mark.parametrize("architecture", ["nequip", "allegro"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loaded_model_gives_exactly_the_same_numbers(architecture, dtype, tmp_path):
    model = tiny_long_range(architecture, FULL, model_dtype=dtype)
    folder = les_plugins.save(model, tmp_path / "model.les", "nequip")
    again, config = les_plugins.api.load_model(folder)
    before, after = model(batch_of([waters()])), again(batch_of([waters()]))
    for key in ("total_energy", "forces", "stress", "latent_charges", "long_range_energy"):
        assert torch.equal(before[key], after[key])
    assert config["host"] == "nequip"
    assert ("nequip-allegro" in config["versions"]) == (architecture == "allegro")


def test_a_short_range_model_is_kept_too(tmp_path):
    folder = les_plugins.save(tiny_host(), tmp_path / "model.les", "nequip")
    calculator = les_plugins.load(folder)
    assert not calculator.has_long_range
    expected = tiny_host()(batch_of([waters()]))["total_energy"].item()
    assert calculator.get_potential_energy(waters()) == expected


def test_the_same_energy_in_a_fresh_process(saved):
    atoms = waters()
    code = (
        "import sys, json, les_plugins\nfrom ase import Atoms\n"
        "numbers, positions, cell = json.loads(sys.stdin.read())\n"
        "calc = les_plugins.load(sys.argv[1])\n"
        "print(repr(calc.get_potential_energy(Atoms(numbers, positions, cell=cell, pbc=True))))\n"
    )
    structure = json.dumps([atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.array.tolist()])
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved)], input=structure, capture_output=True, text=True, check=True
    )
    here = les_plugins.load(saved).get_potential_energy(atoms)
    # threads may sum in another order in another process
    assert float(done.stdout.strip().splitlines()[-1].removeprefix("np.float64(").rstrip(")")) == pytest.approx(
        here, rel=1e-13
    )


@pytest.mark.filterwarnings("ignore:.*the sign of the charges is not certain")  # of random weights
def test_the_sign_convention_changes_no_energy(tmp_path):
    model = tiny_long_range("nequip", FULL)
    before = model(batch_of([waters()]))["total_energy"].item()
    folder = les_plugins.save(model, tmp_path / "model.les", "nequip", frames=[waters()])
    calculator = les_plugins.load(folder)
    assert calculator.get_potential_energy(waters()) == pytest.approx(before, rel=1e-14)
    charges = np.trace(calculator.get_property("born_effective_charges", waters()), axis1=1, axis2=2) / 3
    assert charges[waters().numbers == 8].mean() < charges.mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_target_": "os.system"}, "_target_ of the model is 'os.system'; allowed: nequip.model.NequIPGNNModel"),
        ({"pair_potential": {"_target_": "builtins.eval"}}, "'builtins.eval'; allowed inside a model"),
        ({"pair_potential": [{"a": {"_target_": "os.system"}}]}, "'os.system'; allowed inside a model"),
        ({"num_bessels": "${oc.env:HOME}"}, "is an interpolation"),
        ({"pair_potential": {"_partial_": True}}, "key '_partial_'"),
        ({"num_layers": "many"}, "num_layers is 'many'; the weights have 2"),
        ({"no_such_argument": 1}, "does not describe a model of this NequIP"),
        ({"num_features": 5}, "has shape"),
    ],
)
def test_a_forged_model_section_raises_an_error(saved, changes, message):
    with pytest.raises(CheckpointError, match=message):
        les_plugins.load(forge(saved, **changes))


def test_missing_and_unknown_tensors_are_refused_by_name(saved):
    state = take_apart(tiny_long_range("nequip", FULL))
    tensors = dict(state.tensors)
    name, value = tensors.popitem()
    with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
        rebuild(type(state)("nequip", {}, state.model, state.long_range, tensors))
    with pytest.raises(CheckpointError, match="'stray' is unknown"):
        rebuild(type(state)("nequip", {}, state.model, state.long_range, {**tensors, name: value, "stray": value}))


def test_a_model_of_unknown_origin_is_not_saved(tmp_path):
    model = tiny_long_range("nequip", FULL)
    model.host_section = None
    with pytest.raises(HostError, match="not known: build it with"):
        les_plugins.save(model, tmp_path / "model.les", "nequip")


def test_a_bare_model_that_is_attached_later_can_be_saved(tmp_path):
    bare = LongRangeModel(HOST_SECTIONS["allegro"])
    folder = les_plugins.save(les_plugins.attach(bare, FULL), tmp_path / "model.les", "nequip")
    structure: Atoms = waters()
    assert np.isfinite(les_plugins.load(folder).get_forces(structure)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l_max": 50}, "l_max is 50"),
        ({"l_max": 11}, "l_max is 11"),
        ({"num_layers": 1000000}, "num_layers is 1000000"),
        ({"num_features": 10**9}, "num_features is 1000000000"),
        ({"radial_mlp_depth": 1000000}, "radial_mlp_depth is 1000000"),
        ({"radial_mlp_width": 10**9}, "radial_mlp_width is 1000000000"),
        ({"num_bessels": 10**9}, "num_bessels is 1000000000"),
        ({"r_max": 10**9}, "r_max is 1000000000"),
        ({"r_max": 3.6}, "in the weights it is"),
        ({"num_features": 512}, "which makes features of"),
    ],
)
def test_a_size_that_the_weights_do_not_hold_is_refused_before_anything_is_built(saved, changes, message):
    """Built, these take from minutes to for ever, or more memory than there is."""
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        les_plugins.load(forge(saved, **changes))
    assert time.monotonic() - start < 20.0
