"""`run: {train_only: ...}` in NequIP's and Allegro's model section: what is trained, what stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import torch
from nequip_models import HOST_SECTIONS, batch_of, tiny_host, waters

import les_plugins
from les_plugins.adapters.nequip import LongRangeModel, PretrainedModel
from les_plugins.adapters.nequip.model import last_layer

ARCHITECTURES = ("nequip", "allegro")


def section(train_only: str) -> dict[str, object]:
    return {"run": {"train_only": train_only}}


def loss(model: torch.nn.Module) -> torch.Tensor:
    output = model(batch_of([waters(2)]))
    return output["total_energy"].sum() + (output["forces"] ** 2).sum()


@pytest.mark.parametrize("train_only", ["all", "long_range", "last_layer"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_that_is_trained_reaches_the_loss(architecture, train_only):
    model = LongRangeModel(HOST_SECTIONS[architecture], section(train_only)).train()
    loss(model).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("train_only", ["long_range", "last_layer"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_is_trained(architecture, train_only):
    model = LongRangeModel(HOST_SECTIONS[architecture], section(train_only)).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)  # as NequIP's module: of all
    for _ in range(2):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    ours = [name for name in before if ".long_range." in name or ".les_" in name]
    last = {id(parameter) for module in last_layer(model) for parameter in module.parameters()}
    assert ours
    assert last
    for name, parameter in model.named_parameters():
        trained = name in ours or (train_only == "last_layer" and id(parameter) in last)
        assert torch.equal(parameter, before[name]) == (not trained), name


def test_weights_of_the_host_are_the_same_with_parts_frozen():
    model = LongRangeModel(HOST_SECTIONS["nequip"], section("long_range"))
    own = dict(tiny_host().named_parameters())
    frozen = {name: value for name, value in model.named_parameters() if not value.requires_grad}
    assert len(frozen) == len(own)
    for value, other in zip(frozen.values(), own.values(), strict=True):
        assert torch.equal(value, other)


def test_a_checkpoint_of_a_run_with_frozen_parts_trains_everything_unless_asked_again(tmp_path: Path):
    model = LongRangeModel(HOST_SECTIONS["nequip"], section("long_range"))
    folder = les_plugins.save(model, tmp_path / "model.les", "nequip")
    assert all(parameter.requires_grad for parameter in PretrainedModel(folder).parameters())
    assert all(parameter.requires_grad for parameter in PretrainedModel(folder, section("all")).parameters())
    again = PretrainedModel(folder, section("last_layer"))
    last = {id(parameter) for module in last_layer(again) for parameter in module.parameters()}
    for name, parameter in again.named_parameters():
        assert parameter.requires_grad == (".long_range." in name or id(parameter) in last), name
