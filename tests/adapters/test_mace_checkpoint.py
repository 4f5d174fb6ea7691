"""Checkpoints of MACE models: the same numbers in a fresh process, and nothing but MACE's own classes comes back."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
from mace_models import amplify, tiny_mace, waters
from safetensors.torch import load_file, save_file

import les_plugins
from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.api import load_model
from les_plugins.errors import CheckpointError
from les_plugins.storage.checkpoint import CONFIG, MANIFEST, WEIGHTS

SECTION = {"response": {"charge": True, "dipole": "anisotropic"}, "dl": 1.5, "epsilon_infinity": 1.78}
PROPERTIES = ("energy", "forces", "stress", "charges", "dipole", "long_range_energy", "born_effective_charges")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = amplify(les_plugins.attach(tiny_mace(), SECTION))
    return les_plugins.save(model, tmp_path_factory.mktemp("mace") / "water.les", "mace")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy.les"
    folder.mkdir()
    for name in (CONFIG, WEIGHTS, MANIFEST):
        (folder / name).write_bytes((saved / name).read_bytes())
    return folder


def seal(folder: Path) -> None:
    """Make the manifest fit the files again, as somebody who forges a checkpoint would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def change_model(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["model"].update(changes)
    (folder / CONFIG).write_text(json.dumps(config))
    seal(folder)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    seal(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        les_plugins.load(folder)
    return str(caught.value)


#: A process in which nothing is imported yet. MACE and e3nn read constants of their own with torch.load: only the
#: checkpoint may not be read so. With e3nn 0.4 an import of e3nn before mace fails: the loader must get that right.
FRESH = f"""
import sys
import torch
original = torch.load
def watched(file, *rest, **named):
    if "water.les" in str(file):
        raise AssertionError("the checkpoint was read with torch.load")
    return original(file, *rest, **named)
torch.load = watched
import les_plugins
calculator = les_plugins.load(sys.argv[1])
import numpy as np
from mace_models import waters
atoms = waters(2)
np.savez(sys.argv[2], **{{name: np.asarray(calculator.get_property(name, atoms)) for name in {PROPERTIES}}})
"""


def test_a_fresh_process_predicts_the_same_without_any_setting_of_torch_load(saved: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TORCH_FORCE")}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    target = tmp_path / "fresh.npz"
    command = [sys.executable, "-W", "ignore", "-c", FRESH, str(saved), str(target)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calculator, atoms, fresh = les_plugins.load(saved), waters(2), np.load(target)
    for name in PROPERTIES:
        here = calculator.get_property(name, atoms)
        np.testing.assert_allclose(fresh[name], here, rtol=0.0, atol=1e-12, err_msg=name)  # same operations: rounding


@pytest.mark.parametrize(
    ("hidden", "dtype"),
    [("4x0e", torch.float32), ("4x0e+4x1o", torch.float64), ("4x0e+4x1o+4x2e", torch.float32)],
)
def test_every_tensor_comes_back_bit_for_bit_in_its_own_dtype(tmp_path: Path, hidden: str, dtype: torch.dtype) -> None:
    model = les_plugins.attach(tiny_mace(hidden_irreps=hidden, dtype=dtype), SECTION)
    loaded, _ = load_model(les_plugins.save(model, tmp_path / "model.les", "mace"))
    assert torch.get_default_dtype() == torch.float32
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype, name
        assert after[name].device.type == "cpu"
        assert torch.equal(after[name], tensor), name


def test_buffers_are_saved_too(saved: Path) -> None:
    """The basis of the coupling tensors differs between versions of e3nn: parameters alone give other energies."""
    names = load_file(saved / WEIGHTS).keys()
    model, _ = load_model(saved)
    buffers = {name for name, _ in model.named_buffers()} & model.state_dict().keys()
    assert any("U_matrix" in name for name in buffers)
    assert buffers <= names


def test_a_short_range_model_comes_back_as_one(tmp_path: Path) -> None:
    model = tiny_mace()
    loaded, config = load_model(les_plugins.save(model, tmp_path / "short.les", "mace"))
    assert type(loaded) is type(model)
    assert config["long_range"] is None


def test_the_config_comes_back(saved: Path) -> None:
    model, config = load_model(saved)
    assert isinstance(model, LongRangeMACE)
    assert model.long_range.config.dl == 1.5
    assert model.long_range.electrostatics.settings.dl == 1.5
    assert set(config["versions"]) == {"mace-torch", "e3nn", "torch"}


@pytest.mark.parametrize("key", ["interaction_cls", "interaction_cls_first", "readout_cls", "class", "gate"])
@pytest.mark.parametrize("name", ["os.system", "Linear", None, ["silu"]])
def test_a_class_or_function_that_mace_does_not_list_is_refused(copy: Path, key: str, name: object) -> None:
    if (key, name) == ("gate", None):
        pytest.skip("a model may have no gate")
    change_model(copy, **{key: name})
    message = refusal(copy)
    assert key in message
    assert "allowed" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_irreps": "os.system('true')"},
        {"hidden_irreps": 3},
        {"num_interactions": "two"},
        {"atomic_numbers": "water"},
        {"num_elements": -1},
        {"unheard_of": 1},
        {"dtype": "float16"},
        {"dtype": "bfloat16"},
    ],
)
def test_a_config_that_describes_no_mace_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    change_model(copy, **changes)
    assert str(copy) in refusal(copy)


def test_a_missing_tensor_is_named(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.pop("les_readouts.0.heads.charge.linear.0.weight"))
    assert "'les_readouts.0.heads.charge.linear.0.weight' is missing" in refusal(copy)


def test_an_extra_tensor_is_named(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.update(stowaway=torch.zeros(1)))
    assert "'stowaway' is unknown" in refusal(copy)


def test_a_tensor_of_another_shape_is_named(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.update({"les_readouts.0.gauge": torch.ones(2, dtype=torch.float64)}))
    assert "'les_readouts.0.gauge' has shape (2,), expected ()" in refusal(copy)


def test_a_tensor_of_another_dtype_is_named(copy: Path) -> None:
    change_tensors(copy, lambda tensors: tensors.update({"les_readouts.0.gauge": torch.ones((), dtype=torch.float32)}))
    assert "'les_readouts.0.gauge' is torch.float32, expected torch.float64" in refusal(copy)


def test_another_long_range_section_does_not_fit_the_tensors(copy: Path) -> None:
    config = json.loads((copy / CONFIG).read_text())
    config["long_range"]["multipoles"] = ["charge"]
    (copy / CONFIG).write_text(json.dumps(config))
    seal(copy)
    assert "is unknown" in refusal(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_irreps": "100000x0e+100000x1o"}, "multiplicity is 100000"),
        ({"correlation": 12}, "correlation is 12"),
        ({"num_interactions": 1000000}, "num_interactions is 1000000"),
        ({"max_ell": 50}, "max_ell is 50"),
        ({"max_ell": 11}, "max_ell is 11"),
        ({"radial_MLP": [1000000000]}, "radial_MLP is 1000000000"),
        ({"radial_MLP": [512] * 100}, "more parameters"),
        ({"r_max": 10**9}, "r_max is 1000000000"),
        ({"r_max": 3.6}, "in the weights it is"),
        ({"num_bessel": 10**9}, "num_bessel is 1000000000"),
        ({"MLP_irreps": "1000000x0e"}, "multiplicity is 1000000"),
        ({"heads": ["a"] * 100000}, "heads has 100000 items"),
        ({"avg_num_neighbors": 0.0}, "avg_num_neighbors is 0.0"),
    ],
)
def test_a_size_that_the_weights_do_not_hold_is_refused_before_anything_is_built(copy, changes, message):
    """Built, these take from minutes to for ever, or more memory than there is."""
    change_model(copy, **changes)
    start = time.monotonic()
    assert message in refusal(copy)
    assert time.monotonic() - start < 20.0
