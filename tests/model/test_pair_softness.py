"""Softness of pairs: the same both ways, never negative, smooth where neighbours come and go, and every weight used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from few_atoms import CUTOFF, edges_of, positions
from torch import Tensor, nn

from les_plugins import LatentElectrostatics, LongRangeConfig
from les_plugins.electrostatics.flow import PairSoftness
from les_plugins.errors import ConfigError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.heads import Heads

LAYOUT = FeatureLayout((LayerLayout(5), LayerLayout(6)), cutoff=CUTOFF, mean_neighbors=5.0)
KINDS = pytest.mark.parametrize("kind", ["atoms", "edges"])
OPEN = (torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool))


@pytest.fixture(autouse=True)
def _float64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(4)
    yield
    torch.set_default_dtype(before)


def section(kind: str = "atoms", multipoles: tuple[str, ...] = ("charge",), **changes: Any) -> LongRangeConfig:
    response = {"charge": "pairs", "pair_softness": kind, **changes}
    return LongRangeConfig.parse({"multipoles": list(multipoles), "response": response})


def features(places: Tensor, edges: Edges | None = None) -> NodeFeatures:
    layers = [LayerFeatures(torch.randn(len(places), width)) for width in (5, 6)]
    return NodeFeatures(layers, edges_of(places) if edges is None else edges)


def softness(heads: Heads, given: NodeFeatures) -> PairSoftness:
    found = heads(given).pair_softness
    assert found is not None
    return found


@KINDS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_edge_and_its_reverse_have_one_softness(kind: str, dtype: torch.dtype) -> None:
    heads, given = Heads(LAYOUT, section(kind)).to(dtype), features(positions(9))
    layers = [LayerFeatures(layer.scalars.to(dtype)) for layer in given.layers]
    assert given.edges is not None
    pairs = softness(heads, NodeFeatures(layers, given.edges._replace(vector=given.edges.vector.to(dtype))))
    table = torch.zeros(9, 9, dtype=dtype)
    table[pairs.centre, pairs.neighbor] = pairs.value.detach()
    torch.testing.assert_close(table, table.T, rtol=1e2 * torch.finfo(dtype).eps, atol=0.0)  # order of sums in products
    assert bool((pairs.value >= 0.0).all())
    assert float(pairs.value.detach().max()) > 0.0


@KINDS
def test_softness_ends_at_the_cutoff_with_two_derivatives(kind: str) -> None:
    """Also of two atoms alone, where a share of all neighbours would stay what it is up to the cutoff."""
    heads = Heads(LAYOUT, section(kind, pair_cutoff=3.0)).requires_grad_(False)
    pair = Edges(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.zeros(2, 3))
    given = features(torch.zeros(2, 3), pair)

    def value(length: Tensor) -> Tensor:
        vector = torch.stack([length, -length])[:, None] * torch.tensor([[1.0, 0.0, 0.0]])
        return softness(heads, given._replace(edges=pair._replace(vector=vector))).value.sum() / 2.0

    at = torch.tensor(3.0 * (1.0 - 1e-4))
    first = torch.autograd.functional.jacobian(value, at)
    second = torch.autograd.functional.hessian(value, at)
    scale = float(value(torch.tensor(1.5)))
    assert scale > 1e-4
    # (1 − x²)³ at x = 1 − 1e-4 is 8e-12, its derivatives 2e-7/Å and 3e-3/Å²
    assert abs(float(value(at))) < 1e-10 * scale
    assert abs(float(first)) < 1e-6 * scale
    assert abs(float(second)) < 1e-2 * scale
    assert float(value(torch.tensor(3.0))) == float(value(torch.tensor(3.5))) == 0.0


@KINDS
def test_pairs_of_an_atom_have_a_bounded_softness_however_many_they_are(kind: str) -> None:
    few, many = (softness(Heads(LAYOUT, section(kind)), features(0.5 * positions(n))) for n in (3, 60))
    largest = [float(torch.zeros(60).index_add(0, pairs.centre, pairs.value.detach()).max()) for pairs in (few, many)]
    assert max(largest) < 0.06  # 2 κ, and κ = 0.01 softplus(network of order one)


@KINDS
def test_edges_beyond_the_cutoff_are_left_out_and_change_nothing(kind: str) -> None:
    heads, given = Heads(LAYOUT, section(kind, pair_cutoff=2.5)), features(positions(9))
    few = softness(heads, given)
    assert isinstance(heads.pair_softness, nn.Module)
    heads.pair_softness.all_edges = True
    every = softness(heads, given)
    assert 0 < len(few.value) < len(every.value)
    torch.testing.assert_close(every.value[every.value > 0.0], few.value)


@KINDS
def test_every_weight_reaches_the_energy(kind: str) -> None:
    part = build_long_range(LAYOUT, section(kind))
    places = positions(6)
    result = part(features(places), places, *OPEN, torch.zeros(6, dtype=torch.long))
    assert result.flow is not None
    assert float(result.flow.charge.detach().abs().max()) > 0.0
    assert float(result.flow.charges(6).detach().sum().abs()) < 1e-16
    result.energy.sum().backward()
    for name, parameter in part.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0.0, name


def test_the_flow_is_scaled_as_the_moments_are() -> None:
    places = positions(6)
    given = features(places)
    plain = build_long_range(LAYOUT, section())
    config = LongRangeConfig.parse({**section().to_dict(), "zero_init": True})
    coupled = build_long_range(LAYOUT, config)
    coupled.load_state_dict({**plain.state_dict(), "coupling": torch.tensor(0.25)})
    one, quarter = (part(given, places, *OPEN, torch.zeros(6, dtype=torch.long)) for part in (plain, coupled))
    torch.testing.assert_close(quarter.flow.charge, 0.5 * one.flow.charge)
    torch.testing.assert_close(quarter.energy, 0.25 * one.energy)
    torch.testing.assert_close(quarter.charge - quarter.permanent.charge, quarter.flow.charges(6))


def test_softness_on_atoms_stays_what_true_means() -> None:
    before, now = (LongRangeConfig.parse({"response": {"charge": value}}) for value in (True, "onsite"))
    assert before == now
    assert LongRangeConfig.parse(now.to_dict()) == now
    assert LongRangeConfig.parse(section("edges", pair_cutoff=3.0).to_dict()) == section("edges", pair_cutoff=3.0)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"charge": "sites"}, r"response.charge is 'sites'.*'onsite', 'pairs' or False"),
        ({"charge": 1}, "response.charge is 1"),
        ({"charge": "onsite", "pair_cutoff": 3.0}, "response.pair_cutoff is 3.0 without charge: pairs"),
        ({"pair_softness": "edges"}, "response.pair_softness is 'edges' without charge: pairs"),
        ({"charge": "pairs", "pair_softness": "bonds"}, "response.pair_softness is 'bonds'"),
        ({"charge": "pairs", "pair_cutoff": 0.0}, "response.pair_cutoff is 0.0"),
        (
            {"charge": "pairs", "conserve_charge": True, "solve": "self_consistent"},
            "conserve_charge: true needs charge: onsite and .*charge: pairs needs not: it always keeps it",
        ),
    ],
)
def test_settings_of_pairs_are_checked(response: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LongRangeConfig.parse({"response": response})


def test_pairs_without_edges_are_refused() -> None:
    bare = FeatureLayout((LayerLayout(5),))
    with pytest.raises(ConfigError, match=r"response.charge: pairs needs the host's edges.*allowed: onsite, false"):
        Heads(bare, section())
    heads = Heads(LAYOUT, section())
    with pytest.raises(ConfigError, match="the heads were called without edges"):
        heads(NodeFeatures(features(positions()).layers))


def test_a_response_that_takes_no_pairs_is_refused_when_the_model_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from les_plugins.hosting import build

    part = build_long_range(LAYOUT, section())
    assert isinstance(part.electrostatics, LatentElectrostatics)
    monkeypatch.setattr(build, "takes_pairs", lambda model: False)
    with pytest.raises(ConfigError, match=r"response.solve is one_shot, which takes no charge: pairs"):
        build_long_range(LAYOUT, section())
