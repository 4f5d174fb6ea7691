"""A misspelt or misplaced `long_range:` section is an error, the hosts' own keys are none."""

from __future__ import annotations

import pytest
import yaml

from les_plugins.config import LongRangeConfig, RunConfig
from les_plugins.errors import ConfigError
from les_plugins.hosting.section_name import is_near_miss, refuse_near_misses

MISSPELT = (
    "long_rang", "longrange", "long-range", "Long_Range", "LONG_RANGE", "long range", "longRange", "long_range_",
    "_long_range", "long_ranges", "long_range_section", "long_rnage", "logn_range", "lng_range", "lon_range",
    "longe_range", "lang_range", "l_range", "löng_range", "long.range", "les", "LES", "les_plugins", "latent_ewald",
)  # fmt: skip
OTHERS = ("short_range", "range", "r_max", "lr", "les_arguments", "long_term", "cutoff", "learning_rate", "loss")


@pytest.mark.parametrize("key", MISSPELT)
@pytest.mark.parametrize("depth", [0, 2])
def test_a_misspelt_section_is_an_error_at_every_depth(key, depth):
    settings = {"model": {}, key: {"sigma": 1.0}}
    for _ in range(depth):
        settings = {"outer": [settings]}
    with pytest.raises(ConfigError, match=r"f\.yaml: unknown key .*did you mean 'long_range'"):
        refuse_near_misses(settings, "f.yaml")


@pytest.mark.parametrize("key", [*OTHERS, 1, None, True, "long_range"])
def test_other_keys_and_the_right_one_pass(key):
    assert not is_near_miss(key)
    refuse_near_misses({key: {"sigma": 1.0}}, "f.yaml")


def test_every_slip_of_one_letter_is_found():
    name = "long_range"
    slips = {name[:i] + name[i + 1 :] for i in range(len(name))}
    slips |= {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)}
    slips |= {name[:i] + "x" + name[j:] for i in range(len(name)) for j in (i, i + 1)}
    assert [slip for slip in sorted(slips - {name}) if not is_near_miss(slip)] == []


def test_a_section_in_another_place_or_under_another_name_is_an_error():
    with pytest.raises(ConfigError, match=r"long_range stands under train, where it is not read; write it beside"):
        refuse_near_misses({"train": {"long_range": {}}}, "f.yaml", place="beside model")
    with pytest.raises(ConfigError, match="multipoles stands under electrostatics"):
        refuse_near_misses({"electrostatics": {"multipoles": ["charge"]}}, "f.yaml")
    with pytest.raises(ConfigError, match="epsilon_infinity stands at the top level"):
        refuse_near_misses({"epsilon_infinity": 1.8}, "f.yaml")
    refuse_near_misses({"model": {"long_range": {}}}, "f.yaml", takes_it=lambda path, section: path == ("model",))
    refuse_near_misses({"orange": {"juice": 1}}, "f.yaml", host_keys=("orange",))


def test_a_file_that_contains_itself_is_read_once():
    settings = yaml.safe_load("a: &a {b: *a, long_rang: 1}")
    with pytest.raises(ConfigError, match=r"under a"):
        refuse_near_misses(settings, "f.yaml")


def test_names_that_are_only_ours_are_keys_of_the_section():
    from les_plugins.hosting import section_name

    assert {*LongRangeConfig.model_fields, *RunConfig.model_fields} >= section_name._ONLY_OURS
