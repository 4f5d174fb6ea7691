"""Checks of the options in a host's own file: what each takes, what it makes of it, and how it says no."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from les_plugins.errors import ConfigError
from les_plugins.storage import checks


class Trainer:
    """A host's class."""

    def __init__(
        self,
        model: Any,
        epochs: int = 10,
        rate: float = 1e-3,
        shuffle: bool = True,
        seed: int | None = None,
        wide_cutoff: float = 5.0,
        run_config: Any = None,
        **more: Any,
    ) -> None: ...


TRAINER = {
    **checks.arguments_of(Trainer, "model", "*config"),
    "epochs": checks.WHOLE,
    "loss": checks.one_of("mse", "mae"),
    "scale": checks.number(" above 0", lambda value: value > 0.0, words=("forces", None)),
    "data": checks.structure_file,
}


def test_arguments_of_a_class_have_the_checks_of_their_defaults() -> None:
    found = checks.arguments_of(Trainer, "model", "*config")
    assert found == {
        "epochs": checks.NOT_NEGATIVE,
        "rate": checks.NOT_NEGATIVE,
        "shuffle": checks.flag,
        "seed": checks.anything,
        "wide_cutoff": checks.cutoff,
    }


def test_numbers_that_yaml_took_for_text_are_numbers_and_words_stay() -> None:
    section = {"data": "a.xyz", "rate": "1e-3", "epochs": "5", "scale": "forces", "seed": "x", "shuffle": False}
    checks.check_options(section, TRAINER, "c.yaml: trainer")
    assert section == {"data": "a.xyz", "rate": 1e-3, "epochs": 5, "scale": "forces", "seed": "x", "shuffle": False}
    assert isinstance(section["epochs"], int)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rat": 1.0}, "c.yaml: trainer: unknown key 'rat' (did you mean 'rate'?); allowed: epochs, rate"),
        ({"model": 1.0}, "unknown key 'model'"),
        ({"run_config": 1.0}, "unknown key 'run_config'"),
        ({"rate": -1.0}, "c.yaml: trainer.rate is -1.0; allowed: a number from 0 on"),
        ({"rate": True}, "trainer.rate is True; allowed: a number from 0 on"),
        ({"epochs": 1.5}, "trainer.epochs is 1.5; allowed: a number without a fraction, 1 or more"),
        ({"epochs": 0}, "trainer.epochs is 0; allowed: a number without a fraction, 1 or more"),
        ({"scale": 0.0}, "trainer.scale is 0.0; allowed: a number above 0"),
        ({"scale": math.nan}, "trainer.scale is nan; allowed: a number above 0"),
        ({"shuffle": "yes"}, "trainer.shuffle is 'yes'; allowed: true, false"),
        ({"wide_cutoff": -2.0}, "trainer.wide_cutoff is -2.0; allowed: a length in Å above 0"),
        ({"loss": "MSE"}, "trainer.loss is 'MSE'; allowed: mse, mae"),
        ({"data": None}, "trainer.data is missing: give an extended XYZ file"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_place(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        checks.check_options({"data": "a.xyz", **changes}, TRAINER, "c.yaml: trainer")


def test_a_file_that_is_not_given_is_missing_and_what_is_no_section_is_said() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.data is missing"):
        checks.check_options({}, TRAINER, "c.yaml: trainer")
    with pytest.raises(ConfigError, match=r"c\.yaml: trainer is 3; expected a section"):
        checks.check_options(3, TRAINER, "c.yaml: trainer")
