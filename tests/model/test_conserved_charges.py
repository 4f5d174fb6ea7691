"""`total_charge: conserved`: the sum of the charges does not depend on the positions, and everything stays smooth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from few_atoms import CUTOFF, edges_of, positions
from torch import Tensor

from les_plugins import LongRangeConfig
from les_plugins.errors import ConfigError
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.heads import Heads, counter_charges


@pytest.fixture(autouse=True)
def _float64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def conserving(**changes: Any) -> LongRangeConfig:
    return LongRangeConfig.parse({"total_charge": "conserved", "multipoles": ["charge"], **changes})


def test_conserved_charges_sum_to_those_of_the_elements_wherever_the_atoms_are():
    layout = FeatureLayout((LayerLayout(5),), cutoff=CUTOFF, elements=("H", "O"))
    heads = Heads(layout, conserving(initial_charges={"O": -0.8, "H": 0.4}))
    species = torch.tensor([1, 0, 0, 1, 0])
    for _ in range(3):
        places = positions()
        given = NodeFeatures([LayerFeatures(torch.randn(5, 5))], edges_of(places), species)
        charge = heads(given).multipoles.charge
        assert charge.std() > 0.01
        assert charge.sum().item() == pytest.approx(-0.4, abs=1e-14 * 50)  # rounding of fifty terms of order one
    alone = NodeFeatures([LayerFeatures(torch.randn(1, 5))], edges_of(positions(1)), torch.tensor([1]))
    torch.testing.assert_close(heads(alone).multipoles.charge, torch.tensor([-0.8]))  # nobody to take it from


def test_conserved_charges_are_by_hand_those_of_two_atoms():
    places = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    part = math.exp(-(2.0**2) / (2 * 1.5**2)) * (1 - 2.0**2 / CUTOFF**2) ** 3
    flow = (1.0 - -0.5) * part / (1.0 + part)  # of 1.0 and -0.5 e: each keeps what the other does not carry
    found = counter_charges(torch.tensor([1.0, -0.5]), edges_of(places), CUTOFF).charges(2)
    torch.testing.assert_close(found, torch.tensor([flow, -flow]))


def test_conserved_charges_are_smooth_where_an_atom_leaves_the_cutoff():
    """Value, slope and curvature vanish there: (1 - r²/c²)³."""
    charge, step = torch.tensor([1.0, -0.5]), 1e-4

    def at(length: float) -> float:
        edges = Edges(
            torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([[length, 0.0, 0.0], [-length, 0.0, 0.0]])
        )
        return counter_charges(charge, edges, CUTOFF).charges(len(charge))[0].item()

    assert at(CUTOFF + step) == 0.0
    # 1.5 e · exp(−3.6) · (2 · step / cutoff)³
    assert 0.0 < at(CUTOFF - step) < 0.05 * (2 * step / CUTOFF) ** 3


def test_derivatives_of_conserved_charges_are_those_of_differences():
    charge, places = torch.randn(5, requires_grad=True), positions().requires_grad_()
    edges = edges_of(places.detach())

    def charges(q: Tensor, r: Tensor) -> Tensor:
        return counter_charges(q, edges._replace(vector=r[edges.neighbor] - r[edges.centre]), CUTOFF).charges(len(q))

    assert torch.autograd.gradcheck(charges, (charge, places))
    assert torch.autograd.gradgradcheck(charges, (charge, places))


def test_conserved_charges_without_edges_are_refused():
    with pytest.raises(ConfigError, match="total_charge: conserved needs the host's edges"):
        Heads(FeatureLayout((LayerLayout(5),)), conserving())
    heads = Heads(FeatureLayout((LayerLayout(5),), cutoff=CUTOFF), conserving())
    with pytest.raises(ConfigError, match="called without edges"):
        heads(NodeFeatures([LayerFeatures(torch.randn(3, 5))]))
