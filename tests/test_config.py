"""The `long_range:` section: strict, and every refusal names the key, where it stands and what is allowed."""

from __future__ import annotations

import json

import pytest
import yaml
from pydantic import ValidationError

from les_plugins import LesPluginsError, LongRangeConfig
from les_plugins.config import ResponseConfig
from les_plugins.errors import ConfigError
from les_plugins.io.documents import read_yaml

SOURCE = "water.yaml: long_range"


def refusal(section: object) -> str:
    with pytest.raises(ConfigError) as caught:
        LongRangeConfig.parse(section, SOURCE)
    return str(caught.value)


def test_an_unknown_key_is_refused_with_its_name_the_file_and_what_is_allowed() -> None:
    message = refusal({"sigme": 1.0})
    assert message.startswith(SOURCE)
    assert "'sigme'" in message
    assert all(key in message for key in LongRangeConfig.model_fields)


def test_an_unknown_key_of_the_response_is_refused_with_the_keys_of_the_response() -> None:
    message = refusal({"response": {"dipol": "isotropic"}})
    assert "'response.dipol'" in message
    assert all(key in message for key in ResponseConfig.model_fields)
    assert "sigma" not in message


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"sigma": "1.0"}, "sigma"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"dl": -1.2}, "dl"),
        ({"dl": float("inf")}, "dl is inf; allowed: 0.3 … 6 Å"),
        ({"dl": 0.29}, "dl is 0.29; allowed: 0.3 … 6 Å"),
        ({"dl": 6.1}, "dl is 6.1; allowed: 0.3 … 6 Å"),
        ({"sigma": 0.09}, "sigma is 0.09; allowed: 0.1 … 10 Å"),
        ({"sigma": 10.1}, "sigma is 10.1; allowed: 0.1 … 10 Å"),
        ({"neutralize": "none"}, "neutralize"),
        ({"net_charge_warning": 0.0}, "net_charge_warning"),
        ({"epsilon_infinity": 0.5}, "epsilon_infinity"),
        ({"remove_self_interaction": 1}, "remove_self_interaction"),
        ({"hidden": 0}, "hidden"),
        ({"hidden": 16.5}, "hidden"),
        ({"heads": 3}, "heads"),
        ({"method": "a mesh"}, "method"),
        ({"response": {"solve": ""}}, "response.solve"),
        ({"mesh_tolerance": 0.5}, "mesh_tolerance"),
        ({"mesh_tolerance": float("nan")}, "mesh_tolerance"),
        ({"zero_init": "yes"}, "zero_init"),
        ({"initial_charges": {"Pb": "2+"}}, "initial_charges.Pb"),
        ({"initial_charges": {"Pb": 82.0}}, "initial_charges.Pb"),
        ({"element_charges": "frozen", "initial_charges": {"Pb": 0.9}}, "element_charges"),
        ({"element_charges": "fixed"}, "element_charges: fixed needs initial_charges"),
        ({"response": {"charge": "true"}}, "response.charge"),
        ({"response": {"dipole": "tensor"}}, "response.dipole"),
        ({"response": True}, "response"),
        ({"multipoles": ["charge", "octupole"]}, "multipoles"),
        ({"multipoles": 2}, "multipoles"),
    ],
)
def test_a_wrong_type_or_value_is_refused_with_key_value_and_file(section: dict[str, object], key: str) -> None:
    message = refusal(section)
    assert message.startswith(SOURCE)
    assert key in message


@pytest.mark.parametrize(
    "multipoles", [[], ["dipole"], ["charge", "quadrupole"], ["dipole", "charge"], ["charge", "charge"]]
)
def test_moments_with_gaps_or_out_of_order_are_refused_with_the_three_that_are_allowed(multipoles: list[str]) -> None:
    message = refusal({"multipoles": multipoles})
    assert "['charge', 'dipole', 'quadrupole']" in message
    assert "['charge', 'dipole']" in message


@pytest.mark.parametrize("section", [[], "charge", 3, [("sigma", 1.0)]])
def test_a_section_that_is_no_mapping_is_refused_with_the_allowed_keys(section: object) -> None:
    assert "allowed keys: multipoles" in refusal(section)


def test_a_response_that_is_no_section_is_refused_with_the_keys_of_the_response() -> None:
    assert "allowed keys: charge, dipole" in refusal({"response": "isotropic"})


def test_multipoles_that_are_no_list_are_refused_with_the_names_of_the_moments() -> None:
    assert "a list of: charge, dipole, quadrupole" in refusal({"multipoles": 2})


def test_every_mistake_of_a_section_is_named_at_once() -> None:
    message = refusal({"sigme": 1.0, "dl": -1.0})
    assert "sigme" in message
    assert "dl" in message


def test_an_empty_section_gives_the_documented_defaults() -> None:
    config = LongRangeConfig.parse(None)
    assert config == LongRangeConfig.parse({}) == LongRangeConfig()
    assert (config.sigma, config.dl, config.order, config.has_response) == (1.0, 1.2, 2, False)


def test_yaml_and_json_round_trips_give_the_same_config() -> None:
    config = LongRangeConfig.parse(
        {
            "multipoles": ["charge", "dipole"],
            "response": {"charge": True, "dipole": "anisotropic"},
            "sigma": 0.8,
            "dl": 2.0,
            "remove_self_interaction": False,
            "epsilon_infinity": 1.78,
            "heads": "edge",
            "hidden": 7,
            "zero_init": True,
            "method": "direct",
            "initial_charges": {"H": 0.4, "O": -0.8},
            "element_charges": "fixed",
        }
    )
    assert LongRangeConfig.parse(json.loads(json.dumps(config.to_dict()))) == config
    assert LongRangeConfig.parse(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


def test_whole_numbers_stand_for_lengths() -> None:
    assert LongRangeConfig.parse({"sigma": 1, "dl": 2}).dl == 2.0


def test_a_config_cannot_be_changed_after_it_was_read() -> None:
    config = LongRangeConfig()
    with pytest.raises(ValidationError):
        config.sigma = 2.0  # type: ignore[misc]


def test_a_refusal_belongs_to_the_one_exception_family() -> None:
    with pytest.raises(LesPluginsError):
        LongRangeConfig.parse({"nonsense": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"a: [", "not valid YAML"),
        (b"- a", "expected keys and values"),
        (b"\xff", "cannot be"),
    ],
)
def test_a_file_that_is_no_config_raises_an_error(tmp_path, content, message):
    file = tmp_path / "water.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"water.yaml: {message}"):
        read_yaml(file)


def test_an_empty_file_has_no_keys(tmp_path):
    (tmp_path / "water.yaml").write_text("")
    assert read_yaml(tmp_path / "water.yaml") == {}


def test_choices_of_a_run_are_read_where_they_stood_before() -> None:
    choices = {
        "method": "mesh",
        "mesh_tolerance": 1e-4,
        "static_cell": [9.0, 9.0, 9.0],
        "net_charge_warning": None,
        "workspace": 8.0,
    }
    config = LongRangeConfig.parse(choices)
    assert config == LongRangeConfig.parse({"run": choices})
    assert config.to_dict()["run"] == {**choices, "precision": "double", "train_only": "all"}
    assert set(choices).isdisjoint(config.to_dict())


@pytest.mark.parametrize(("key", "old", "new"), [("method", "mesh", "direct"), ("mesh_tolerance", 1e-4, 1e-4)])
def test_a_choice_in_both_places_is_an_error_that_names_both_keys(key: str, old: object, new: object) -> None:
    message = refusal({key: old, "run": {key: new}})
    assert message.startswith(f"{SOURCE}: {key} is {old!r} and run.{key} is {new!r}")


@pytest.mark.parametrize(
    ("section", "meant"),
    [
        ({"total_charges": "free"}, "'total_charges' (did you mean 'total_charge'?); allowed keys: multipoles"),
        ({"response": {"pair_softnes": "edges"}}, "'response.pair_softnes' (did you mean 'pair_softness'?); allowed"),
        ({"run": {"metod": "mesh"}}, "'run.metod' (did you mean 'method'?); allowed keys: method"),
        ({"nothing_of_ours": 1}, "'nothing_of_ours'; allowed keys: multipoles"),
    ],
)
def test_an_unknown_key_is_refused_with_the_allowed_one_that_is_like_it(section: dict[str, object], meant: str) -> None:
    assert meant in refusal(section)


def test_a_mistake_in_a_choice_is_named_by_the_key_that_was_written() -> None:
    assert refusal({"static_cell": 9.0}).startswith(f"{SOURCE}: static_cell is 9.0")
    mistaken = refusal({"run": {"mesh_tolerence": 1e-4}})
    assert "'run.mesh_tolerence' (did you mean 'mesh_tolerance'?); allowed keys: method" in mistaken
    assert "'run.sigma'" in refusal({"run": {"sigma": 1.0}})
    assert "allowed keys: method" in refusal({"run": "direct"})


def test_the_former_key_of_conserved_induced_charge_is_read() -> None:
    response = {"charge": True, "solve": "self_consistent"}
    for former, now in (("free", False), ("fixed", True)):
        config = LongRangeConfig.parse({"response": {**response, "total_charge": former}})
        assert config == LongRangeConfig.parse({"response": {**response, "conserve_charge": now}})
    message = refusal({"response": {**response, "total_charge": "fixed", "conserve_charge": True}})
    assert "response.total_charge and response.conserve_charge" in message
    assert "response.total_charge is 'kept'" in refusal({"response": {**response, "total_charge": "kept"}})
    assert "conserve_charge: true needs" in refusal({"response": {"charge": True, "conserve_charge": True}})
    assert "total_charge: fixed" in refusal({"response": {"charge": True, "total_charge": "fixed"}})


def test_other_choices_of_a_run_leave_the_model_alone() -> None:
    config = LongRangeConfig.parse({"sigma": 0.9, "run": {"method": "direct"}})
    changed = config.with_run(static_cell=(8.0, 8.0, 9.0))
    assert changed.run.static_cell == (8.0, 8.0, 9.0)
    assert changed.with_run(static_cell=None) == config


def test_what_a_run_trains_is_read_under_run_and_changes_no_model() -> None:
    frozen = LongRangeConfig.parse({"run": {"train_only": "long_range"}})
    assert frozen.run.train_only == "long_range"
    assert frozen.same_model(LongRangeConfig())
    assert not frozen.same_model(LongRangeConfig(sigma=1.5))
    assert not frozen.same_model(None)
    with pytest.raises(ConfigError, match=r"run\.train_only.*'all', 'last_layer' or 'long_range'"):
        LongRangeConfig.parse({"run": {"train_only": "heads"}})
