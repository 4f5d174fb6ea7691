"""Settings that config, layer and solvers share: checked once, never changed in place, read from earlier pickles."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest

from les_plugins import LatentElectrostatics, LongRangeConfig
from les_plugins.electrostatics import ElectrostaticsSettings
from les_plugins.electrostatics.response.one_shot import one_shot_response
from les_plugins.electrostatics.response.self_consistent import SelfConsistentResponse
from les_plugins.errors import ConfigError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import FeatureLayout, LayerLayout

LAYOUT = FeatureLayout((LayerLayout(3, 2),))


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        ElectrostaticsSettings().sigma = 2.0


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("sigma", 0.01, "0.1 … 10 Å"),
        ("dl", 7.0, "0.3 … 6 Å"),
        ("mesh_tolerance", 0.5, "1e-09 … 0.01"),
        ("static_cell", [1.0, 2.0], "three positive lengths in Å"),
        ("net_charge_warning", -1.0, "a positive energy in meV an atom, or None"),
        ("workspace", 0.0, "a positive number of MiB"),
        ("dl", 10**400, "0.3 … 6 Å"),  # beyond every float
        ("net_charge_warning", 10**400, "a positive energy in meV an atom, or None"),
    ],
)
def test_layer_and_section_name_the_same_limits(name, value, allowed):
    message = f"{name} is .*; allowed: {allowed}"
    with pytest.raises(ConfigError, match=f"^{message}"):
        LatentElectrostatics(**{name: value})
    with pytest.raises(ConfigError, match=f"^water.yaml: {message}"):
        LongRangeConfig.parse({name: value}, "water.yaml")


def test_settings_that_do_not_go_together_are_an_error_of_layer_and_section():
    message = "precision is 'single' with method='mesh'; allowed: 'double', or the direct sum"
    with pytest.raises(ConfigError, match=message):
        LatentElectrostatics(method="mesh", precision="single")
    with pytest.raises(ConfigError, match=message):
        LongRangeConfig.parse({"run": {"method": "mesh", "precision": "single"}})


def test_the_section_and_the_layer_have_the_same_settings():
    section = {"sigma": 0.9, "dl": 1.1, "neutralize": "shift", "run": {"method": "mesh", "mesh_tolerance": 1e-4}}
    config = LongRangeConfig.parse(section)
    layer = LatentElectrostatics(
        sigma=0.9, dl=1.1, neutralize="shift", method="mesh", mesh_tolerance=1e-4, response=None
    )
    assert build_long_range(LAYOUT, config).electrostatics.settings == layer.settings == config.electrostatics()


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ({}, type(None)),
        ({"charge": True}, type(one_shot_response)),
        ({"charge": True, "solve": "self_consistent"}, SelfConsistentResponse),
    ],
)
def test_the_response_of_a_section_is_made_once(response, kind, monkeypatch):
    made = []
    before = SelfConsistentResponse.__init__

    def counted(self, *arguments, **named):
        made.append(self)
        before(self, *arguments, **named)

    monkeypatch.setattr(SelfConsistentResponse, "__init__", counted)
    part = build_long_range(LAYOUT, LongRangeConfig.parse({"response": response}))
    assert isinstance(part.electrostatics.response_model, kind)
    assert len(made) == (kind is SelfConsistentResponse)


def test_a_layer_pickled_before_the_settings_keeps_its_own():
    """The attributes of 0.1; `neutralize` and `net_charge_warning` came later still."""
    state = vars(LatentElectrostatics())
    for name in ("settings", "response_model", "solver", "ranks"):
        state.pop(name)
    state |= {"sigma": 0.8, "dl": 2.0, "remove_self_interaction": False, "method": "direct", "static_cell": None}
    state |= {"response": "one_shot", "response_model": one_shot_response}
    layer = LatentElectrostatics.__new__(LatentElectrostatics)
    layer.__setstate__(dict(state))
    assert layer.settings == ElectrostaticsSettings(
        sigma=0.8,
        dl=2.0,
        remove_self_interaction=False,
        method="direct",
        neutralize="background",
        net_charge_warning=None,
    )
    assert layer.response_model is one_shot_response
    without = LatentElectrostatics.__new__(LatentElectrostatics)
    without.__setstate__({**state, "response": None, "net_charge_warning": 0.1, "neutralize": "keep"})
    assert without.response_model is None
    assert (without.settings.net_charge_warning, without.settings.neutralize) == (1.0, "keep")


def test_a_changed_setting_is_checked_and_leaves_copies_alone():
    layer = LatentElectrostatics()
    other = copy.deepcopy(layer)
    layer.change_settings(static_cell=(9.0, 9.0, 9.0), method="direct")
    assert (layer.settings.static_cell, layer.settings.method) == ((9.0, 9.0, 9.0), "direct")
    assert other.settings == ElectrostaticsSettings()
    with pytest.raises(ConfigError, match="method is 'fast'; allowed: 'auto', 'direct', 'mesh'"):
        layer.change_settings(method="fast")


def test_a_long_range_part_keeps_its_section_parsed_and_pickles_plain_types():
    config = LongRangeConfig.parse({"neutralize": "keep", "response": {"charge": True}})
    part = build_long_range(LAYOUT, config)
    assert part.config is config
    assert part.__getstate__()["_section"] == config.to_dict()
    assert not any(isinstance(value, LongRangeConfig) for value in part.__getstate__().values())
    read = pickle.loads(pickle.dumps(part))
    assert read.config == config
    assert read.config is read.config
    assert (read.neutralize, read.static_cell) == ("keep", None)


def test_a_long_range_part_pickled_with_its_section_alone_is_read():
    part = build_long_range(LAYOUT, LongRangeConfig())
    state = part.__getstate__()
    for name in ("_config", "neutralize", "static_cell"):
        state.pop(name)
    state["_section"] = {"neutralize": "shift", "static_cell": [8.0, 8.0, 9.0], "response": {"total_charge": "free"}}
    read = type(part).__new__(type(part))
    read.__setstate__(state)
    assert (read.neutralize, read.static_cell) == ("shift", [8.0, 8.0, 9.0])
    assert read.config == LongRangeConfig.parse({"neutralize": "shift", "run": {"static_cell": [8.0, 8.0, 9.0]}})
