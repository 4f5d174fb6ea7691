"""Fine-tuning of a MatGL model with parts of it frozen, and with energies of the elements fitted to the new data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import ase.io
import numpy as np
import torch
import yaml
from matgl_models import ARCHITECTURES, batch_of, tiny_potential, waters

import les_plugins
from les_plugins import api
from les_plugins.adapters.matgl.architectures import last_layer
from les_plugins.adapters.matgl.calculator import LesMatGLCalculator
from les_plugins.adapters.matgl.contract import training_settings
from les_plugins.adapters.matgl.train import train
from les_plugins.errors import ConfigError
from les_plugins.model.frozen import freeze
from les_plugins.storage.checkpoint import read_config
from les_plugins.testing import labelled_waters

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*the sign of the charges is not certain:les_plugins.errors.LesPluginsWarning"),
]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A TensorNet in the folder base, as MatGL saves it, beside training and validation frames."""
    ase.io.write(tmp_path / "train.extxyz", labelled_waters(4))
    ase.io.write(tmp_path / "valid.extxyz", labelled_waters(2, seed=100))
    monkeypatch.chdir(tmp_path)
    potential = tiny_potential("TensorNet")
    potential.save(tmp_path / "base")
    return potential


def tune(long_range: Any, **trainer: Any) -> Path:
    settings = training_settings("TensorNet", long_range)
    settings["model"] = {"load": "base"}
    own = {key: value for key, value in settings["trainer"].items() if key not in ("element_refs", "data_std")}
    settings["trainer"] = {**own, "max_epochs": 1, **trainer}
    Path("tuned.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    written = train(Path("tuned.yaml"))
    assert written is not None
    return written


@pytest.mark.parametrize("train_only", ["long_range", "last_layer"])
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_is_trained(base, train_only):
    folder = tune({"run": {"train_only": train_only}})
    tuned = api.load_model(folder)[0].model
    own = dict(base.model.named_parameters())
    trained = {id(parameter) for module in last_layer(tuned.base) for parameter in module.parameters()}
    if train_only == "long_range":
        trained = set()
    for name, parameter in tuned.base.named_parameters():
        assert torch.equal(parameter, own[name]) == (id(parameter) not in trained), name
    assert read_config(folder)["long_range"]["run"]["train_only"] == train_only


@pytest.mark.parametrize("train_only", ["all", "long_range", "last_layer"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_that_is_trained_reaches_the_loss(architecture, train_only):
    potential = les_plugins.attach(tiny_potential(architecture), {}).train()
    model = potential.model
    _loss(potential).backward()
    # MatGL has some that are fixed, and M3GNet some that nothing reads
    read = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    freeze(model, train_only, last_layer(model.base))
    for parameter in model.parameters():
        parameter.grad = None
    _loss(potential).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (parameter.requires_grad and name in read), name
        assert name in read or name.startswith("base."), name


def _loss(potential: Any) -> torch.Tensor:
    energy, forces, *_ = potential(*batch_of([waters(2)], potential.data_mean.dtype))
    return energy.sum() + (forces**2).sum()


def test_energies_of_the_elements_are_fitted_to_the_training_set(base):
    frames = ase.io.read("train.extxyz", ":")
    for atoms in frames:
        atoms.calc.results["energy"] += 12.0
    ase.io.write("train.extxyz", frames)
    folder = tune({"zero_init": True, "run": {"train_only": "long_range"}}, element_refs="fit", lr=1e-12)
    calculators = LesMatGLCalculator(base), les_plugins.load(folder)
    before, after = (
        np.mean([one.get_property("energy", atoms) - atoms.get_potential_energy() for atoms in frames])
        for one in calculators
    )
    assert abs(after) < 1e-4  # one composition: the fit takes the mean off; float32 energies of some 10 eV
    change = read_config(folder)["metadata"]["training"]["element_refs_change"]
    assert 4 * change["H"] + 2 * change["O"] == pytest.approx(-before, abs=1e-4)


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"element_refs": {"H": 1.0, "O": 2.0}}, r"trainer.element_refs is .* with model.load; allowed: fit"),
        ({"data_std": 2.0}, r"trainer.data_std is that of model.load: leave the key out"),
    ],
)
def test_a_scale_that_the_loaded_model_has_cannot_be_given(base, trainer, message):
    with pytest.raises(ConfigError, match=message):
        tune({}, **trainer)
