"""Fine-tuning with other terms: what is kept of a checkpoint, what starts fresh."""

import pytest
import torch
from few_atoms import CUTOFF
from torch import nn

from les_plugins import LongRangeConfig
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, LayerLayout
from les_plugins.model.heads import Heads
from les_plugins.storage.fine_tuning import load_with_new_heads

RESPONSE = {"charge": True, "dipole": "anisotropic"}
ALL_TERMS = LongRangeConfig.parse({"response": RESPONSE})
ALL_TERMS_OF_EDGES = LongRangeConfig.parse({"response": RESPONSE, "heads": "edge"})


@pytest.mark.parametrize("before", [{}, {"initial_charges": {"O": -0.5, "H": 0.3}}])
def test_fine_tuning_with_fixed_charges_takes_those_of_the_new_section(before):
    layout = FeatureLayout((LayerLayout(5),), elements=("H", "O"))
    old = LongRangeConfig.parse({"multipoles": ["charge"], **before})
    new = LongRangeConfig.parse(
        {"multipoles": ["charge"], "initial_charges": {"O": -0.8, "H": 0.4}, "element_charges": "fixed"}
    )
    start, model = nn.ModuleDict({"heads": Heads(layout, old)}), nn.ModuleDict({"heads": Heads(layout, new)})
    load_with_new_heads(model, start.state_dict(), old, new)
    after = model.state_dict()
    torch.testing.assert_close(after["heads.element_charge"], torch.tensor([0.4, -0.8]))
    for name, value in start.state_dict().items():
        if name != "heads.element_charge":
            torch.testing.assert_close(after[name], value)


def test_fine_tuning_with_heads_of_another_kind_keeps_those_of_scalars():
    layout = FeatureLayout((LayerLayout(5, 4), LayerLayout(6)), cutoff=CUTOFF, mean_neighbors=5.0)
    old, new = ALL_TERMS, ALL_TERMS_OF_EDGES
    start, model = nn.ModuleDict({"heads": Heads(layout, old)}), nn.ModuleDict({"heads": Heads(layout, new)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_with_new_heads(model, start.state_dict(), old, new)
    for name, value in model.state_dict().items():
        kept = name.split(".")[1] in ("charge", "softness")
        torch.testing.assert_close(value, (start.state_dict() if kept else before)[name], rtol=0, atol=0)


def test_fine_tuning_under_another_name_for_the_same_heads_keeps_them():
    layout = FeatureLayout((LayerLayout(5), LayerLayout(6)), cutoff=CUTOFF, mean_neighbors=5.0)
    old, new = ALL_TERMS, ALL_TERMS_OF_EDGES  # an invariant host's heads are edge heads anyway
    start, model = nn.ModuleDict({"heads": Heads(layout, old)}), nn.ModuleDict({"heads": Heads(layout, new)})
    load_with_new_heads(model, start.state_dict(), old, new)
    for name, value in start.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("before", [True, False, "edges"])
def test_fine_tuning_with_flow_over_pairs_starts_its_softness_fresh(before):
    layout = FeatureLayout((LayerLayout(5),), cutoff=CUTOFF, mean_neighbors=5.0)
    pairs = {"charge": "pairs"}
    response = {**pairs, "pair_softness": "edges"} if before == "edges" else {"charge": before}
    old, new = (LongRangeConfig.parse({"multipoles": ["charge"], "response": r}) for r in (response, pairs))
    start, model = nn.ModuleDict({"heads": Heads(layout, old)}), nn.ModuleDict({"heads": Heads(layout, new)})
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    load_with_new_heads(model, start.state_dict(), old, new)
    for name, value in model.state_dict().items():
        expected = fresh if name.startswith("heads.pair_softness") else start.state_dict()
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("charge", ["free", "conserved"])
def test_fine_tuning_with_given_total_charges_keeps_all_other_heads_and_back_again(charge):
    layout = FeatureLayout((LayerLayout(5),), cutoff=CUTOFF, mean_neighbors=5.0)
    sections = [LongRangeConfig.parse({"multipoles": ["charge"], "total_charge": name}) for name in (charge, "given")]
    for old, new in (sections, sections[::-1]):
        start, model = build_long_range(layout, old), build_long_range(layout, new)
        fresh = {name: value.clone() for name, value in model.state_dict().items()}
        before = start.state_dict()
        load_with_new_heads(model, before, old, new)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, before.get(name, fresh[name]), rtol=0, atol=0)
