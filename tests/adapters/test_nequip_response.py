"""`response_loss:` in NequIP's trainer: labels from files, terms in the log, and a checkpoint with ε_∞ as a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import ase.io
import numpy as np
import torch
import yaml
from nequip.train import NequIPLightningModule
from nequip_models import HOST_SECTIONS, batch_of, training_settings
from response_frames import LONG_RANGE, labelled

import les_plugins
from les_plugins.adapters.nequip import LongRangeModel
from les_plugins.adapters.nequip.response import EMAResponseLightningModule, ResponseLightningModule
from les_plugins.adapters.nequip.response_section import response_of
from les_plugins.adapters.nequip.train import NequIPTraining, train
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning
from les_plugins.io.documents import read_yaml

RESPONSE = {"born_effective_charges": 1.0, "polarizability": 100.0, "polarization": 1.0}


def settings(response: Any = RESPONSE, architecture: str = "nequip", batch_size: int = 1) -> dict[str, Any]:
    model = {
        "_target_": "les_plugins.adapters.nequip.LongRangeModel",
        "model": {**HOST_SECTIONS[architecture], "model_dtype": "float32"},
        "long_range": LONG_RANGE,
        "response_loss": response,
    }
    found = training_settings(Path("."), model)
    found["trainer"]["max_epochs"] = 1
    found["data"]["train_dataloader"] = {**found["data"]["train_dataloader"], "batch_size": batch_size}
    return found


def written(found: dict[str, Any]) -> Path:
    Path("water.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")
    return Path("water.yaml").resolve()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    ase.io.write("train.extxyz", [labelled(number) for number in range(4)])
    ase.io.write("valid.extxyz", [labelled(number) for number in range(4, 6)])
    return tmp_path


def module_of(found: dict[str, Any], cls: type = ResponseLightningModule) -> Any:
    given = {key: value for key, value in found["training_module"].items() if key != "_target_"}
    given = {key: value for key, value in given.items() if key != "ema_decay" or cls is EMAResponseLightningModule}
    return cls(num_datasets={"train": 1, "val": 1, "test": 0, "predict": 0}, **given)


def batch_with_labels(periodic: bool = True) -> dict[str, torch.Tensor]:
    atoms = [labelled(0, periodic), labelled(1, periodic)]
    batch = batch_of(atoms)
    born = np.concatenate([one.arrays["REF_born_effective_charges"].reshape(-1, 3, 3) for one in atoms])
    batch["born_effective_charges"] = torch.tensor(born)
    batch["polarizability"] = torch.stack([torch.tensor(one.info["polarizability"].reshape(3, 3)) for one in atoms])
    batch["total_energy"], batch["forces"] = torch.zeros(2, 1).double(), torch.zeros(12, 3).double()
    return batch


def test_a_process_whose_batch_has_no_labels_has_a_gradient_of_each_weight(work, monkeypatch):
    batch = batch_with_labels()
    for name in ("born_effective_charges", "polarizability"):
        del batch[name]
    module = module_of(settings())
    module.world_size = 2
    monkeypatch.setattr(module, "log_dict", lambda *given: None)  # needs a trainer
    module.training_step(batch, 0).backward()
    assert [name for name, weight in module.named_parameters() if weight.requires_grad and weight.grad is None] == []


def test_the_loss_has_the_terms_of_the_section_by_their_weights(work):
    plain = settings()
    del plain["training_module"]["model"]["response_loss"]
    batch = batch_with_labels()
    torch.manual_seed(0)
    with_response = module_of(settings({"born_effective_charges": 2.0, "polarizability": 3.0}))
    without = module_of(plain)
    terms = with_response.loss(with_response(batch), batch)
    alone = without.loss(without(batch), batch)
    shares = {name: entry.coeff for name, entry in with_response.loss.entries.items()}
    assert shares["born_effective_charges_mse"] / shares["polarizability_mse"] == pytest.approx(2.0 / 3.0)
    for name, value in alone.items():
        if name != "weighted_sum":
            torch.testing.assert_close(terms[name], value)  # the host's own terms are the same
    total = sum(shares[name] * terms[name] for name in shares)
    torch.testing.assert_close(terms["weighted_sum"], total)
    terms["weighted_sum"].backward()
    slopes = {name: parameter.grad for name, parameter in with_response.model.named_parameters()}
    assert all(slope is not None for slope in slopes.values())
    (screening,) = (slope for name, slope in slopes.items() if name.endswith("log_screening"))
    assert float(screening) != 0.0


def test_validation_keeps_no_graph_of_the_response_and_gives_roots_of_means(work):
    module = module_of(settings({"born_effective_charges": 1.0})).eval()
    batch = batch_with_labels()
    output = module(batch)
    metrics = module.val_metrics[0](output, batch)
    total, components = output["response_error_born_effective_charges"]
    assert not total.requires_grad
    assert float(components) == 12 * 9
    assert metrics["born_effective_charges_rmse"].item() == pytest.approx((total / components).sqrt().item())


def test_an_error_of_a_label_that_no_frame_has_is_not_logged(work, monkeypatch):
    logged = {}
    monkeypatch.setattr(NequIPLightningModule, "log_dict", lambda self, found: logged.update(found))
    module = module_of(settings({"born_effective_charges": 1.0, "polarization": 1.0})).eval()
    batch = batch_with_labels()  # without a polarization
    module.val_metrics[0](module(batch), batch)
    module.on_validation_epoch_end()
    assert np.isfinite(float(logged["val0_epoch/born_effective_charges_rmse"]))
    assert "val0_epoch/polarization_rmse" not in logged


def test_labels_that_never_count_are_an_error(work):
    frames = ase.io.read("train.extxyz", ":")
    for atoms in frames:
        atoms.info["dipole"] = np.ones(3)
    ase.io.write("train.extxyz", frames)
    with pytest.raises(DataError, match="weight for dipole, and none of 4 frames with it counts"):
        train(written(settings({"dipole": 1.0})), [])


def test_a_model_section_with_response_is_an_error_in_a_training_module_that_does_not_read_it():
    with pytest.raises(ConfigError, match="response_loss needs a training module of ours"):
        LongRangeModel(HOST_SECTIONS["nequip"], LONG_RANGE, response_loss=RESPONSE)


def test_sections_in_the_wrong_place_are_errors(work):
    misplaced = settings()
    misplaced["training_module"]["response_loss"] = misplaced["training_module"]["model"].pop("response_loss")
    with pytest.raises(ConfigError, match="response_loss stands where it is not read"):
        response_of(misplaced, "water.yaml")
    compiled = settings()
    compiled["training_module"]["model"]["model"]["compile_mode"] = "compile"
    with pytest.raises(ConfigError, match="needs compile_mode: eager"):
        response_of(compiled, "water.yaml")
    without = settings()
    del without["training_module"]["model"]["response_loss"]
    with pytest.raises(ConfigError, match="screening is trained, and there is no response_loss beside it"):
        response_of(without, "water.yaml")
    another = settings()
    another["training_module"]["_target_"] = "nequip.train.ConFIGLightningModule"
    with pytest.raises(ConfigError, match=r"response_loss with training_module._target_ nequip.train.ConFIG"):
        train(written(another), [])


def test_a_section_without_a_response_of_the_labels_is_an_error_before_the_training_begins(work):
    free = settings()
    free["training_module"]["model"]["long_range"] = {**LONG_RANGE, "total_charge": "free", "screening": "fixed"}
    with pytest.raises(ConfigError, match=r"response_loss.polarization has a weight, but .*: conserved"):
        response_of(free, "water.yaml")
    free["training_module"]["model"]["response_loss"] = {"born_effective_charges": 1.0}
    with pytest.raises(DataError, match=r"train.extxyz, frame 0: has a label of its Born effective charges"):
        train(written(free), [])


def test_a_label_that_no_frame_has_is_an_error_and_one_that_is_not_named_a_warning(work):
    with pytest.raises(DataError, match="none of 4 frames has dipole"):
        train(written(settings({"dipole": 1.0})), [])
    training = NequIPTraining(written(settings({"born_effective_charges": 1.0, "polarization": 0.0})))
    training.settings = read_yaml(training.config_file)
    training.split()
    with pytest.warns(LesPluginsWarning) as caught:
        training.read_frames()
    texts = [str(item.message) for item in caught]
    assert any("4 of 4 frames have polarizability, which response_loss does not name" in text for text in texts)
    assert not any("have polarization," in text for text in texts)  # named, with weight zero


@pytest.mark.training
@pytest.mark.parametrize("architecture", ["nequip", "allegro"])
def test_training_on_response_ends_in_a_checkpoint_with_epsilon_infinity_as_a_result(work, architecture):
    folder = train(written(settings(architecture=architecture, batch_size=2)), ["trainer.max_epochs=3"])
    assert folder is not None
    calculator = les_plugins.load(folder)
    atoms = ase.io.read("valid.extxyz")
    atoms.calc = None
    calculator.get_property("born_effective_charges", atoms)
    chi = calculator.reference_susceptibility
    assert chi > 0.0
    part = calculator._part
    assert calculator.epsilon_infinity == pytest.approx(
        float(part.trained_screening().detach()) * (1.0 + chi), rel=1e-6
    )
    assert calculator.epsilon_infinity != pytest.approx(1.5, abs=1e-4)  # it moved
    # the same as in training: P by transfers, ε_e the model's own number
    module = module_of(settings(architecture=architecture))
    module.model.load_state_dict({f"sole_model.{k}": v for k, v in calculator.model.state_dict().items()})
    module.eval()
    batch = batch_of([atoms])
    batch["born_effective_charges"] = torch.tensor(calculator.results["born_effective_charges"])
    total, components = module(batch)["response_error_born_effective_charges"]
    assert (total / components).sqrt().item() < 1e-5  # float32
