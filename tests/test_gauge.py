"""The common sign of the latent moments: a convention that changes no energy and depends on no reference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from les_plugins import LongRangeConfig
from les_plugins.features import FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.gauge import ELECTRONEGATIVITY, fix_gauge
from les_plugins.long_range import LongRange, LongRangeResult

HYDROGEN, HELIUM, OXYGEN, SODIUM = 1, 2, 8, 11


@pytest.fixture
def model() -> nn.Module:
    config = LongRangeConfig.parse({"response": {"charge": True, "dipole": "isotropic"}})
    return nn.ModuleDict({"inner": nn.ModuleList([LongRange(FeatureLayout((LayerLayout(4, 3),)), config)])})


def evaluate(model: nn.Module) -> LongRangeResult:
    (part,) = (module for module in model.modules() if isinstance(module, LongRange))
    generator = torch.Generator().manual_seed(5)
    features = LayerFeatures(torch.randn(4, 4, generator=generator), torch.randn(4, 3, 3, generator=generator))
    places = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    cell, pbc, batch = torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(4, dtype=torch.long)
    result: LongRangeResult = part(NodeFeatures([features]), places, cell, pbc, batch)
    return result


def test_turning_the_sign_changes_every_moment_and_no_energy(model: nn.Module) -> None:
    before = evaluate(model)
    assert fix_gauge(model, {HYDROGEN: -0.2, OXYGEN: 0.4})
    after = evaluate(model)
    assert torch.equal(after.energy, before.energy)
    assert torch.equal(after.atomic_energy, before.atomic_energy)
    for name in ("charge", "dipole", "potential", "field"):
        assert torch.equal(getattr(after, name), -getattr(before, name)), name
    for old, new in zip(before.permanent, after.permanent, strict=True):
        assert torch.equal(new, -old)
    assert torch.equal(after.softness, before.softness)
    assert torch.equal(after.polarizability, before.polarizability)


def test_an_electronegative_element_ends_negative_and_stays_so(model: nn.Module) -> None:
    charges = {HYDROGEN: -0.2, OXYGEN: 0.4}
    assert fix_gauge(model, charges)
    assert not fix_gauge(model, {element: -charge for element, charge in charges.items()})


def test_an_offset_of_all_charges_does_not_decide(model: nn.Module) -> None:
    assert not fix_gauge(model, {HYDROGEN: 1.2, OXYGEN: 0.9})
    assert fix_gauge(model, {HYDROGEN: -1.2, OXYGEN: -0.9})


def test_elements_without_an_electronegativity_are_left_out(model: nn.Module) -> None:
    assert ELECTRONEGATIVITY[HELIUM] == 0.0
    assert not fix_gauge(model, {HELIUM: 5.0})
    assert fix_gauge(model, {HELIUM: 5.0, SODIUM: -0.3, OXYGEN: 0.3})


def test_all_elements_count_as_their_atoms_do(model: nn.Module) -> None:
    """A perovskite whose nitrogen is slightly negative and whose iodine is positive: the iodine tells the sign."""
    carbon, nitrogen, iodine, lead = 6, 7, 53, 82
    charge = {HYDROGEN: 0.04, carbon: 0.02, nitrogen: -0.13, iodine: 0.51, lead: 0.10}
    count = {HYDROGEN: 48, carbon: 8, nitrogen: 8, iodine: 24, lead: 8}
    assert fix_gauge(model, charge, count)
    assert not fix_gauge(model, {element: -value for element, value in charge.items()}, count)


def test_one_element_alone_decides_by_its_own_sign(model: nn.Module) -> None:
    assert fix_gauge(model, {OXYGEN: 0.3})
    assert not fix_gauge(model, {OXYGEN: -0.3})


def test_a_model_without_a_long_range_part_is_left_alone() -> None:
    assert not fix_gauge(nn.Linear(1, 1), {HYDROGEN: -0.2, OXYGEN: 0.4})


def test_the_sign_is_part_of_the_saved_state(model: nn.Module) -> None:
    fix_gauge(model, {HYDROGEN: -0.2, OXYGEN: 0.4})
    assert [name for name, value in model.state_dict().items() if name.endswith("gauge") and value == -1.0]
