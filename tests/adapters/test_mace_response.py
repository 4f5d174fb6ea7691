"""`response_loss:` in MACE's trainer: labels from files, terms in its loss, errors in its log, ε_∞ as a result."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import ase.io
import numpy as np
import torch
import yaml
from response_frames import LONG_RANGE, labelled

import les_plugins
from les_plugins.adapters.mace import contract
from les_plugins.adapters.mace.response import ResponseTerms
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.hosting import registry
from les_plugins.model.response_config import ResponseLossConfig
from les_plugins.model.response_prediction import Geometry, Observed, Response, Undefined

RESPONSE = {"born_effective_charges": 100.0, "polarizability": 100.0, "polarization": 1.0}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    ase.io.write("train.extxyz", [labelled(number, born=number > 0) for number in range(6)])
    ase.io.write("valid.extxyz", [labelled(number) for number in range(6, 8)])
    return tmp_path


def train(response: Any = RESPONSE, long_range: Any = LONG_RANGE, **changes: Any) -> Path | None:
    settings = {**contract.SETTINGS, "train_file": "train.extxyz", "valid_file": "valid.extxyz", **changes}
    if response is not None:
        settings["response_loss"] = response
    if long_range is not None:
        settings["long_range"] = long_range
    Path("config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return registry.host("mace").train(Path("config.yaml"), (), {})


@pytest.mark.training
def test_training_on_response_lowers_its_errors_and_ends_with_epsilon_infinity_as_a_result(work):
    folder = train(max_num_epochs=8, lr=0.02, batch_size=2)
    assert folder is not None
    (log,) = Path("results").glob("*_train.txt")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    errors = [line["rmse_born_effective_charges"] for line in lines if line["mode"] == "eval"]
    assert errors[-1] < errors[0]
    assert all(np.isfinite(line["rmse_polarizability"]) for line in lines if line["mode"] == "eval")
    config = (folder / "config.json").read_text(encoding="utf-8")
    assert "NaN" not in config
    assert "nan" not in log.read_text()
    calculator = les_plugins.load(folder)
    found, references = [], []
    for atoms in ase.io.read("valid.extxyz", ":"):
        references.append(atoms.arrays["REF_born_effective_charges"].reshape(-1, 3, 3))
        found.append(calculator.get_property("born_effective_charges", atoms))
    chi = calculator.reference_susceptibility
    screening = float(calculator._part.trained_screening().detach())
    assert calculator.epsilon_infinity == pytest.approx(screening * (1.0 + chi), rel=1e-6)
    rmse = float(np.sqrt(np.mean((np.concatenate(found) - np.concatenate(references)) ** 2)))
    # of the epoch of the lowest loss, which MACE keeps; its evaluation and ours are in float64
    assert min(abs(rmse - error) for error in errors) < 1e-6
    assert calculator.metadata["metadata"]["training"]["last_validation"]["rmse_born_effective_charges"] == errors[-1]


def test_sections_and_labels_that_cannot_be_used_are_errors_that_say_what_to_do(work):
    with pytest.raises(ConfigError, match="unknown key 'born'"):
        train({"born": 1.0})
    with pytest.raises(ConfigError, match="has no long_range section beside it"):
        train(long_range=None)
    with pytest.raises(ConfigError, match="screening is trained, and the file has no response_loss"):
        train(None)
    free = {**LONG_RANGE, "total_charge": "free", "element_charges": "trained"}
    with pytest.raises(ConfigError, match=r"response_loss.polarization has a weight, but .*: conserved$"):
        train(long_range=free)
    with pytest.raises(DataError, match="frame 1: has a label of its Born effective charges, which response_loss"):
        train({"born_effective_charges": 1.0}, free)
    with pytest.raises(DataError, match="none of 6 frames has dipole"):
        train({"dipole": 1.0})
    frames = ase.io.read("train.extxyz", ":")
    frames[2].info["REF_polarizability"] = np.eye(3).ravel()
    ase.io.write("train.extxyz", frames)
    with pytest.raises(DataError, match="frame 2: has its polarizability under 'REF_polarizability' and"):
        train()


def test_labels_that_never_count_are_an_error_and_some_that_do_not_a_warning(work):
    frames = ase.io.read("train.extxyz", ":")
    for atoms in frames:
        atoms.info["dipole"] = np.ones(3)
    ase.io.write("train.extxyz", frames)
    with pytest.raises(DataError, match=r"dipole, and none of 6 frames with it counts: .* is polarization;"):
        train({"dipole": 1e6})
    ase.io.write("train.extxyz", [*frames, labelled(8, pbc=False)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train({"dipole": 1e6}, dry_run=True)
    assert any("train.extxyz: of 7 frames with dipole 6 do not count" in str(item.message) for item in caught)


def test_errors_without_a_label_and_without_a_weight_are_not_logged():
    place, cell = torch.zeros(2, 3).double(), torch.eye(3).double()[None]
    geometry = Geometry(place, cell, torch.ones(1, 3, dtype=torch.bool), torch.zeros(2, dtype=torch.long))
    known = Undefined(torch.zeros(1, dtype=torch.bool), "")
    observed = Observed()
    observed.response = Response(geometry, place[:1], torch.zeros(2, 3, 3).double(), None, None, known, known)
    weights = ResponseLossConfig.parse({"dipole": 1.0, "born_effective_charges": 2.0})
    terms = ResponseTerms(lambda **_: torch.ones(()), weights, observed)
    sizes = {"dipole": (1, 3), "polarization": (1, 3), "born_effective_charges": (2, 3, 3)}
    batch = {f"les_response_{name}": torch.ones(size) for name, size in sizes.items()}
    assert float(terms(batch, {})) == pytest.approx(1.0 + 2.0)  # MACE's loss, and 2 × 1 e²
    # a periodic structure has no dipole, and polarization has no weight
    assert terms.root_mean_squares() == {"rmse_born_effective_charges": pytest.approx(1.0)}
    assert terms.root_mean_squares() == {}


def test_labels_that_the_section_does_not_name_are_warned_of(work):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train({"born_effective_charges": 1.0, "dipole": 0.0}, dry_run=True)
    texts = [str(item.message) for item in caught if issubclass(item.category, LesPluginsWarning)]
    assert [text.partition(":")[2] for text in texts] == [
        f" 6 of 6 frames have {name}, which response_loss does not name: it is not trained on"
        for name in ("polarization", "polarizability")
    ]
